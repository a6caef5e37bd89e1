"""The Secrets that replicas need, which are in no file: ``k8s apply`` reads them from this machine and sends them."""

from __future__ import annotations

import base64
from pathlib import Path

from sealserve.errors import InputError
from sealserve.files import read_file
from sealserve.kubernetes.plan import Plan
from sealserve.kubernetes.tee import PLATFORM_KEYS, platform_secret, tls_secret
from sealserve.kubernetes.yaml_text import Object

_SEALED_TLS = "ssl.cfg"


def secret_objects(plan: Plan, *, tls: Path) -> list[Object]:
    """The Secrets: the simulated machine's keys, or the sealed ``ssl.cfg`` of tensorflow_model_server, or none.

    :param tls: the directory with the sealed ``ssl.cfg``.
    :raises InputError: a file is missing. What it holds is in no error.
    """
    if plan.deployment.tee == "simulated":
        machine = plan.deployment.state / "platform" / "simulated" / "machine"
        return [_secret(plan, platform_secret(plan), machine, PLATFORM_KEYS, "`sealserve prepare` makes it.")]
    if plan.unmodified:
        hint = "`sealserve tls` writes it, and --tls names the directory (docs/tls.md)."
        return [_secret(plan, tls_secret(plan), tls, (_SEALED_TLS,), hint)]
    return []


def _secret(plan: Plan, name: str, directory: Path, files: tuple[str, ...], hint: str) -> Object:
    data = {}
    for file in files:
        path = directory / file
        if not path.is_file():
            raise InputError(f"there is no {path}, which replicas need as the Secret {name}", hint=hint)
        data[file] = base64.b64encode(read_file(path, limit=1 << 20)).decode()
    return plan.object("v1", "Secret", name, "replica", type="Opaque", data=data)
