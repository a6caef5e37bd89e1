"""The commands of Docker, Podman and Buildah that build, sign and run an image.

They are made here as argument lists and run as they are shown. The differences that matter: Podman and Buildah set the
dates of files in layers with ``--timestamp``, BuildKit takes ``SOURCE_DATE_EPOCH``; and Buildah runs nothing that is to
stay.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Literal, Self, get_args

from sealserve.deploy.clouds.profile import Devices
from sealserve.deploy.images.context import Context
from sealserve.deploy.images.dockerfile import BROKER_PORT, STATE
from sealserve.deploy.images.layout import GRPC_PORT, REST_PORT
from sealserve.errors import InputError, MachineError

Name = Literal["docker", "podman", "buildah"]
NAMES: Final[tuple[Name, ...]] = get_args(Name)

Command = Sequence[str]

_DEVICES: Final = Devices()  # the same in all clouds
_AESM: Final = str(PurePosixPath(_DEVICES.aesm_socket).parent)  # a daemon that starts anew makes another socket


@dataclass(frozen=True)
class Engine:
    """A container engine on this machine."""

    name: Name

    @classmethod
    def find(cls, name: Name | None = None) -> Self:
        """The named engine, or the first of Docker, Podman and Buildah that is installed.

        :raises MachineError: it is not installed.
        """
        for candidate in NAMES if name is None else (name,):
            if shutil.which(candidate):
                return cls(candidate)
        raise MachineError(
            f"{name or 'a container engine'} is not installed",
            hint="Install docker, podman or buildah. `--dry-run --engine docker` shows what would be run elsewhere.",
        )

    def build(self, context: Context, *, pip_config: Path | None = None) -> list[Command]:
        """Build the image; a replica's is unsigned then.

        :param pip_config: a ``pip.conf`` that names the package index; it is in no layer.
        """
        tag = context.unsigned_image if context.kind == "replica" else context.image
        secrets = [] if pip_config is None else ["--secret", f"id=pip,src={_named(pip_config)}"]
        return [self._build(context.directory / "Dockerfile", context.directory, "--tag", tag, *secrets)]

    def sign(self, context: Context, key: Path, signature: Path) -> list[Command]:
        """Sign the enclave of an image that was built here, and make the signed image.

        :param signature: directory for the signature and the manifest that it is for.
        :raises InputError: the image is no replica's.
        """
        if context.kind != "replica":
            raise InputError(f"the image of a {context.kind} is not signed: it is no enclave")
        unsigned = ["--build-arg", f"UNSIGNED={context.unsigned_image}"]
        return [
            # Where it is missing, an engine would pull what somebody pushed under this name, and we would sign that.
            self._look(context.unsigned_image),
            # Engines keep what they built, and the key does not count as a change.
            self._build(
                context.directory / "Dockerfile.sign",
                context.directory,
                *unsigned,
                *("--no-cache", "--network", "none", "--target", "signature"),
                *("--secret", f"id=enclave-key,src={_named(key)}", "--output", f"type=local,dest={_named(signature)}"),
            ),
            self._build(context.directory / "Dockerfile.signed", signature, *unsigned, "--tag", context.image),
        ]

    def run(
        self,
        context: Context,
        *,
        mounts: Iterable[tuple[Path, str]] = (),
        publish: str = "127.0.0.1",
        arguments: Sequence[str] = (),
    ) -> Command:
        """Run the image with no more rights than it needs, in the foreground.

        :param mounts: directory here and path in the container. They are read-only, but for a broker's :data:`STATE`.
        :param publish: the address at which its ports are reached.
        :raises MachineError: the engine is Buildah.
        :raises InputError: ``publish`` is no address, or a directory's name is one that engines take apart.
        """
        if self.name == "buildah":
            raise MachineError("buildah builds images and does not run them", hint="Use --engine docker or podman.")
        command = [self.name, "run", "--rm", "--pull=never", "--read-only"]
        command += ["--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/tmp"]
        if context.kind == "replica":
            for device in (_DEVICES.enclave, _DEVICES.provision):
                command += [f"--device={device}", *_group_of(device)]
            command.append(f"--volume={_AESM}:{_AESM}")
        for port in _ports(context):
            command.append(f"--publish={_address(publish)}:{port}:{port}")
        for source, target in mounts:
            command.append(f"--volume={_named(source)}:{target}{'' if target == STATE else ':ro'}")
        return [*command, context.image, *arguments]

    def save(self, context: Context, output: Path) -> list[Command]:
        """Save the image that was built, a replica's when it is signed, as an archive that is not there yet."""
        target = _named(output)
        match self.name:
            case "docker":
                save = ["docker", "image", "save", "--output", str(target), context.image]
            case "podman":
                save = ["podman", "image", "save", "--format", "oci-archive", "--output", str(target), context.image]
            case "buildah":
                save = ["buildah", "push", context.image, f"oci-archive:{target}"]
        return [self._look(context.image), save]

    def _look(self, image: str) -> Command:
        """What fails where the image is missing, and fetches nothing."""
        look = ["inspect", "--type", "image"] if self.name == "buildah" else ["image", "inspect"]
        identity = "{{.FromImageID}}" if self.name == "buildah" else "{{.Id}}"
        return [self.name, *look, "--format", identity, image]

    def _build(self, dockerfile: Path, directory: Path, *options: str) -> Command:
        dates = ["--build-arg", "SOURCE_DATE_EPOCH=0"] if self.name == "docker" else ["--timestamp", "0"]
        return [self.name, "build", "--file", str(dockerfile), *dates, *options, str(directory)]


def _ports(context: Context) -> tuple[int, ...]:
    match context.kind:
        case "replica":
            return (GRPC_PORT, REST_PORT) if context.rest else (GRPC_PORT,)
        case "broker":
            return (BROKER_PORT,)
        case "client" | "simulated":
            return ()


def _address(text: str) -> str:
    # Without an address, engines publish a port at all of the machine's.
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise InputError(
            f"--publish {text!r} is no IP address", hint="127.0.0.1 is this machine alone, 0.0.0.0 all that reach it."
        ) from None
    return f"[{address}]" if address.version == 6 else str(address)


def _named(path: Path) -> Path:
    """A path in an engine's option, where commas and colons separate.

    :raises InputError: it has some.
    """
    if set(str(path)) & set(',:"\n'):
        raise InputError(f"{path} has a comma, colon or quote in its name, which container engines take for their own")
    return path


def _group_of(device: str) -> list[str]:
    """The image's user is nobody here: it opens a device by the group that may."""
    try:
        return [f"--group-add={os.stat(device).st_gid}"]  # noqa: PTH116
    except OSError:
        return []


def perform(command: Command) -> None:
    """Run a command in the foreground; what it prints goes to standard error.

    :raises MachineError: it fails.
    """
    environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
    try:
        done = subprocess.run(command, check=False, env=environment, stdout=2)
    except OSError as error:
        raise MachineError(f"{command[0]} cannot be started: {error.strerror}") from error
    if done.returncode:
        raise MachineError(
            f"`{command[0]} {command[1]}` failed with status {done.returncode}; what it said is above",
            hint="Mend what it complains of, or choose another container engine with --engine.",
        )
