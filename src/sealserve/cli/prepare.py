"""``sealserve prepare``: everything for replicas that run elsewhere."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sealserve.cli.deployment_option import deployment_option
from sealserve.cli.failures import say
from sealserve.cli.progress import progress_bar
from sealserve.logs import printable

if TYPE_CHECKING:
    from sealserve.local.owner import PreparedOwner


@click.command(short_help="Make all that replicas elsewhere need.")
@deployment_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def prepare(file: Path, *, as_json: bool) -> None:
    """Make what the parties of a deployment need when its replicas run elsewhere, in enclaves or TDX guests.

    Keys, certificates and the key broker's store for its owner, the sealed model for the platform, a policy for
    clients. Says what comes next; run it again when replicas were measured, or the model has changed.
    """
    from sealserve.local.owner import prepare_owner

    with progress_bar("  sealing the model") as progress:
        prepared = prepare_owner(file, progress=progress)
    layout, model = prepared.layout, prepared.model
    if prepared.replaced is not None:
        before, after = prepared.replaced
        say(
            "warning",
            "yellow",
            f"the replicas' policy accepts MRENCLAVE {after} now, in the place of {before}: replicas that run with the "
            "old one lose their grant at their next question",
        )
    if as_json:
        told = {
            "deployment": prepared.deployment.name,
            "tee": prepared.deployment.tee,
            "complete": prepared.complete,
            "model": {"version": model.version, "digest": model.digest.hex(), "newly_sealed": model.newly_sealed},
            "replaced_measurement": None if prepared.replaced is None else prepared.replaced[0],
            "sealed": str(layout.sealed_model),
            "broker_ca": str(layout.authority),
            "replica_policy": str(layout.replica_policy),
            "broker": str(layout.broker_configuration) if prepared.complete else None,
            "client_policy": str(layout.client_policy) if prepared.complete else None,
        }
        click.echo(json.dumps(told))
        return
    lines = [
        ("yours", layout.owner, "the keys and the key broker's part: keep it to yourself"),
        ("the platform's", layout.sealed_model, f"the sealed model, version {model.version}"),
    ]
    if prepared.complete:
        lines.append(("clients'", layout.client, "the policy they check replicas by"))
    width = max(len(_shown(path)) for _, path, _ in lines)
    for whose, path, what in lines:
        click.echo(printable(f"{whose:<15} {_shown(path):<{width}}  {what}"))
    click.echo()
    for line in _next(prepared, file):
        click.echo(printable(line))


def _next(prepared: PreparedOwner, file: Path) -> list[str]:
    layout, deployment = prepared.layout, prepared.deployment
    option = "" if file == Path("deployment.yaml") else f" -f {shlex.quote(str(file))}"
    policy = shlex.quote(_shown(layout.replica_policy))
    if prepared.complete:
        command = f"sealserve broker run -f {shlex.quote(_shown(layout.broker_configuration))}"
        return ["next: run the key broker, and then the replicas", f"  {command}", *_replicas(prepared, option)]
    if deployment.tee == "sgx":
        return [
            "not done yet: no policy says which replicas get the key. Build the image, and measure it:",
            f"  sealserve image render{option}",
            "  sealserve image build",
            "  sealserve image sign --key enclave.pem --new-key",
            f"  sealserve image measure signature --policy {policy}",
            f"  sealserve prepare{option}",
        ]
    authority = shlex.quote(_shown(layout.authority))
    return [
        "not done yet: no policy says which guests get the key. Record a quote of one that you trust, in it:",
        "  sealserve evidence quote -o guest.quote",
        "and here:",
        f"  sealserve evidence trust-domain guest.quote --deployment {deployment.name} \\",
        f"      --broker-ca {authority} -o {policy}",
        f"  sealserve prepare{option}",
    ]


def _replicas(prepared: PreparedOwner, option: str) -> list[str]:
    from sealserve.deploy.image_section import UNKNOWN_DIGEST

    sealed, kubernetes = shlex.quote(_shown(prepared.layout.sealed_model)), prepared.deployment.kubernetes
    if prepared.deployment.tee == "tdx":
        return ["  docs/tdx.md shows how guests start their replicas"]
    run = [f"  sealserve image run --sealed {sealed}"]
    if kubernetes is not None:
        unbuilt = kubernetes.image.endswith(UNKNOWN_DIGEST)
        run = [
            f"  sealserve k8s apply{option}" + ("   # with images: docs/kubernetes-quickstart.md" if unbuilt else "")
        ]
    elif prepared.deployment.tee == "simulated":
        return []
    if prepared.deployment.model.engine == "tensorflow-serving":
        key = shlex.quote(_shown(prepared.layout.wrap_key))
        name = prepared.deployment.tls.server_name
        return [
            f"  sealserve tls one-way {name} --seal-key {key}   # its TLS, once",
            *(run if kubernetes is not None else [f"{run[0]} --tls ssl_configure/sealed"]),
        ]
    return run


def _shown(path: Path) -> str:
    """The shorter of its absolute form and that from here."""
    return min(str(path), os.path.relpath(path), key=len)
