"""Writing a model version so that it appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from sealserve.errors import InputError
from sealserve.files import PUBLIC, explain_os_error, partial_path, sync_directory
from sealserve.models.saved_model import SAVED_MODEL_FILE
from sealserve.sealing.leftovers import locked_directory, remove_leftovers
from sealserve.wire.tensorflow_pb2 import SavedModel


def write_saved_model(base: Path, version: int, message: SavedModel) -> Path:
    """Write ``base/version/saved_model.pb``, the layout of TensorFlow Serving.

    The version directory is built beside its place and renamed, so that a server that watches ``base`` never sees half
    of it. The same message gives the same bytes. A version that is there already and has the same content is left.

    :returns: the version's directory.
    :raises InputError: the version is there with other content, or ``base`` cannot be written.
    :raises MachineError: the disk is full.
    """
    data = message.SerializeToString(deterministic=True)
    place = base / str(version)
    if place.exists():
        if _holds(place, data):
            return place
        raise InputError(
            f"{place} exists and is another model", hint="Choose another directory, or remove that version first."
        )
    made_base = not base.exists()
    beside = partial_path(place)
    remove_leftovers(base, [place.name])
    try:
        beside.mkdir(parents=True)
        with locked_directory(beside):
            _write_synced(beside / SAVED_MODEL_FILE, data)
            sync_directory(beside)
            beside.rename(place)
        sync_directory(base)
    except BaseException as error:
        shutil.rmtree(beside, ignore_errors=True)
        if made_base:
            with contextlib.suppress(OSError):
                base.rmdir()
        if isinstance(error, OSError):
            if _holds(place, data):  # another run was quicker
                return place
            raise explain_os_error(error, place, "write") from error
        raise
    return place


def _holds(place: Path, data: bytes) -> bool:
    try:
        return [entry.name for entry in place.iterdir()] == [SAVED_MODEL_FILE] and (
            place / SAVED_MODEL_FILE
        ).read_bytes() == data
    except OSError:
        return False


def _write_synced(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PUBLIC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
