"""The build context of an image: a directory with a Dockerfile and everything it copies.

The same deployment and the same sealserve give the same bytes: nothing in it is a date, a random number or a path of
this machine. A context is replaced as a whole, and only where an earlier one, or nothing, was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Final, Literal, get_args

from sealserve import __version__
from sealserve.deploy.deployment import Deployment, load_deployment
from sealserve.deploy.image_section import UNKNOWN_DIGEST
from sealserve.deploy.images.dockerfile import (
    ImageParts,
    Kind,
    render_dockerfile,
    render_gramine_sources,
    render_signed_dockerfile,
    render_signing_dockerfile,
)
from sealserve.deploy.images.layout import SEALED_DIRECTORY
from sealserve.deploy.images.rendering import render
from sealserve.deploy.images.sizing import model_bytes
from sealserve.deploy.images.wheel import build_wheel, wheel_name
from sealserve.deploy.rendered_directory import require_replaceable, write_directory
from sealserve.errors import ConfigurationError, InputError
from sealserve.files import read_authority_file, read_file

DESCRIPTION: Final = "image.json"
"""The file that says what a context is for; it also says that the directory is sealserve's to replace."""

_LOCKS: Mapping[str, str] = {
    "openvino": "openvino",
    "tensorflow": "tensorflow",
    "tensorflow-serving": "broker",  # only `sealserve image manifest` runs there, at build time
}


@dataclass(frozen=True)
class Context:
    """A rendered build context.

    :ivar image: the name (with tag) of the image. :ivar rest: whether replicas serve REST.
    :ivar sealed_mount: where a replica's image expects the sealed model.
    :ivar tls: whether it expects a sealed ssl.cfg.
    """

    directory: Path
    kind: Kind
    image: str
    rest: bool = False
    sealed_mount: str = ""
    tls: bool = False

    @property
    def unsigned_image(self) -> str:
        """What a replica's image is called before it is signed."""
        return f"{self.image}-unsigned"

    @classmethod
    def load(cls, directory: Path) -> Context:
        """Read a context's description. :raises InputError: it is none."""
        path = directory / DESCRIPTION
        if not path.is_file():
            found = "was not made by `sealserve image render`" if directory.exists() else "is not there"
            raise InputError(
                f"the directory {directory}, which an image is built from, {found}",
                hint="`sealserve image render` makes it (`render simulated` for a cluster without SGX); "
                "--context names another.",
            )
        try:
            content = json.loads(read_file(path))
            content.pop("files")
            content.pop("version")
            context = cls(directory, **content)
        except (ValueError, TypeError, AttributeError, KeyError):
            raise InputError(f"{path} is damaged", hint="Render the context again.") from None
        if context.kind not in get_args(Kind):
            raise InputError(f"{path} names no kind of image that this sealserve knows", hint="Render it again.")
        return context


def render_context(
    deployment_file: Path,
    kind: Kind,
    output: Path,
    *,
    model_size: int | None = None,
    epc: str | None = None,
    policy: Path | None = None,
) -> tuple[Context, tuple[str, ...]]:
    """Render the context of an image.

    :param model_size: bytes of the model, if it is not at ``model.path``. :param epc: the machine's protected memory.
    :param policy: an appraisal policy, to warn if it would refuse every replica.
    :returns: the context, and warnings.
    :raises InputError: the directory holds something else, or a file of the deployment is missing.
    :raises ConfigurationError: the deployment lacks what an image needs.
    """
    deployment = load_deployment(deployment_file)
    base = deployment.image.base
    if base is None or base.endswith(UNKNOWN_DIGEST):
        raise ConfigurationError(
            f"{deployment_file} has no image.base with a digest, which an image is built on",
            hint="It is Ubuntu 24.04, pinned by digest: `sealserve image pin ubuntu:24.04` prints it, and with "
            "`--write FILE image.base` puts it there.",
        )
    require_replaceable(output, lambda: _written(output))
    wheel = build_wheel()
    digest = sha256(wheel).hexdigest()
    files: dict[str, bytes | str] = {wheel_name(): wheel}
    warnings: tuple[str, ...] = ()
    parts = ImageParts(kind, base, wheel_name(), __version__)
    lock: str = kind
    if kind == "simulated":
        if deployment.tee != "simulated":
            raise ConfigurationError(
                f"the image simulated is for tee: simulated, and this deployment has tee: {deployment.tee}",
                hint="`sealserve image render` alone renders the image of enclaves.",
            )
        lock = _LOCKS[deployment.model.engine]
        files["prune.sh"] = _packaged("files/prune.sh")
        parts = replace(parts, rest=deployment.gateway.rest_listen is not None)
    if kind == "replica":
        lock = _LOCKS[deployment.model.engine]
        size = model_bytes(deployment.model.path) if model_size is None else model_size
        files["replica.manifest"], warnings = render(deployment, model_size=size, epc=epc, policy=policy)
        files |= _replica_files(deployment_file, deployment)
        parts = replace(
            parts,
            model_server=_model_server(deployment),
            batching="batching.pbtxt" in files,
            model_size=size,
            rest=deployment.gateway.rest_listen is not None,
        )
    files["requirements.txt"] = _packaged(f"locks/{lock}.lock") + f"./{wheel_name()} --hash=sha256:{digest}\n"
    files["Dockerfile"] = render_dockerfile(parts)
    context = _context(deployment, kind, output)
    description = {k: v for k, v in asdict(context).items() if k != "directory"}
    names = sorted([*files, DESCRIPTION])
    files[DESCRIPTION] = json.dumps({**description, "version": __version__, "files": names}, indent=1) + "\n"
    write_directory(output, files)
    return context, warnings


def _replica_files(deployment_file: Path, deployment: Deployment) -> dict[str, bytes | str]:
    authority = deployment.image.broker_ca or deployment.state / "owner" / "ca.pem"
    if not authority.is_file():
        raise InputError(
            f"there is no {authority}, the certificate authority of the key brokers",
            hint="Name it with image.broker_ca: replicas take keys only from brokers that it vouches for.",
        )
    files: dict[str, bytes | str] = {
        "deployment.yaml": read_file(deployment_file),
        "broker-ca.pem": read_authority_file(authority),
        "gramine.sources": render_gramine_sources(),
        "fetch-key.sh": _packaged("files/fetch-key.sh"),
        "Dockerfile.sign": render_signing_dockerfile(),
        "Dockerfile.signed": render_signed_dockerfile(),
    }
    if deployment.model.engine != "tensorflow-serving":
        files["prune.sh"] = _packaged("files/prune.sh")
    # Our own server gets it with its grant.
    if deployment.model.batching is not None and deployment.model.engine == "tensorflow-serving":
        files["batching.pbtxt"] = read_file(deployment.model.batching)
    return files


def _model_server(deployment: Deployment) -> str | None:
    if deployment.model.engine != "tensorflow-serving":
        return None
    if deployment.image.model_server is None:
        raise ConfigurationError(
            "model.engine: tensorflow-serving needs image.model_server, the image that the server is taken from",
            hint="`sealserve image pin tensorflow/serving:2.19.1` prints one pinned by digest.",
        )
    return deployment.image.model_server


def image_name(deployment: Deployment, kind: Kind | Literal["model"]) -> str:
    """What the image of ``kind`` is called, with its tag. :raises ConfigurationError: image.name is not set."""
    if deployment.image.name is None:
        raise ConfigurationError("image.name is not set", hint="For example registry.example/team/classifier:1.")
    path, _, last = deployment.image.name.rpartition("/")
    name, _, tag = last.partition(":")
    suffix = "" if kind == "replica" else f"-{kind}"
    return f"{path}{'/' if path else ''}{name}{suffix}:{tag or 'latest'}"


def _context(deployment: Deployment, kind: Kind, output: Path) -> Context:
    name = image_name(deployment, kind)
    if kind != "replica":
        return Context(output, kind, name)
    unmodified = deployment.model.engine == "tensorflow-serving"
    return Context(
        output,
        kind,
        name,
        rest=deployment.gateway.rest_listen is not None,
        sealed_mount=deployment.model.mount_path if unmodified else SEALED_DIRECTORY,
        tls=unmodified,
    )


def _packaged(name: str) -> str:
    return resources.files("sealserve.deploy.images").joinpath(name).read_text()


def _written(output: Path) -> set[str]:
    try:
        return set(json.loads(read_file(output / DESCRIPTION))["files"])
    except (InputError, ValueError, TypeError, KeyError):
        return set()
