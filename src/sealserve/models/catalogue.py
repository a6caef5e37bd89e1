"""Models that sealserve can get by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sealserve.errors import InputError
from sealserve.models import efficientnet

_MODELS: dict[str, Callable[[Path], Path]] = {efficientnet.NAME: efficientnet.write_efficientnet_lite0}


def model_names() -> tuple[str, ...]:
    """The names that :func:`fetch_model` knows."""
    return tuple(_MODELS)


def fetch_model(name: str, target: Path) -> Path:
    """Write a model by name into ``target``, with a directory for its version.

    :returns: ``target``.
    :raises InputError: no such name, or the directory cannot be written. :raises MachineError: a package with weights
        is missing, or the disk is full.
    """
    try:
        write = _MODELS[name]
    except KeyError:
        raise InputError(f"no model is known by the name {name}", hint=f"Known: {', '.join(_MODELS)}.") from None
    return write(target)
