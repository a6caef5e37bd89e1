"""What of this machine a container sees: only what its kind of image needs, and must have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sealserve.deploy.images.context import Context
from sealserve.deploy.images.dockerfile import STATE
from sealserve.deploy.images.layout import TLS_DIRECTORY
from sealserve.errors import InputError


def mounts_of(
    context: Context, *, sealed: Path | None, tls: Path | None, state: Path | None, arguments: Sequence[str]
) -> list[tuple[Path, str]]:
    """Directories here, absolute, and where the container sees them.

    :param sealed: of the sealed model. :param tls: of the sealed ``ssl.cfg``. :param state: of a broker.
    :raises InputError: one is missing, or given and of no use to this kind of image.
    """
    wanted = {
        "--sealed, the sealed model": (sealed, context.sealed_mount, context.kind == "replica"),
        "--tls, the sealed ssl.cfg": (tls, TLS_DIRECTORY, context.tls),
        "--state, a broker's directory": (state, STATE, context.kind == "broker"),
    }
    mounts = []
    for option, (given, target, needed) in wanted.items():
        if needed != (given is not None):
            verb = "needs" if needed else "has no use for"
            raise InputError(f"the image {context.image} {verb} {option}")
        if given is not None:
            if not given.is_dir():
                raise InputError(f"there is no directory {given}", hint=f"It was named by {option}.")
            mounts.append((given.absolute(), target))
    if context.kind == "replica" and arguments:
        raise InputError(
            "a replica takes no arguments here: they are measured, and stand in the manifest",
            hint="Change deployment.yaml, and render, build and sign the image again.",
        )
    return mounts
