"""From a file that was fetched to a model in its place: ``DIR/NUMBER/`` for what can be served, ``DIR/NAME.pb`` for a
frozen graph.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from sealserve.errors import InputError, ModelError
from sealserve.files import explain_os_error, partial_path, sync_directory
from sealserve.models.archives import unpack
from sealserve.models.kinds import HEAD_BYTES, Kind, file_kind
from sealserve.models.onnx_file import ONNX_FILE
from sealserve.models.saved_model import SAVED_MODEL_FILE
from sealserve.models.version_files import files_on_disk
from sealserve.sealing.leftovers import locked_directory, remove_leftovers

_FILES = {Kind.SAVED_MODEL: SAVED_MODEL_FILE, Kind.ONNX: ONNX_FILE}
_MOST_LISTED = 5
_SCRATCH = "fetched"


def place_archive(archive: Path, name: str, base: Path, version: int | None, *, max_bytes: int) -> tuple[Kind, Path]:
    """Unpack an archive and put the one model that it holds into its place below ``base``.

    :param version: the number to give it; that of its directory in the archive, or 1, if None.
    :returns: what it is and where.
    :raises ModelError: it holds no model or several. :raises InputError: the place is taken.
    """
    with _beside(base) as scratch:
        with archive.open("rb") as file:
            unpack(file, name, scratch, max_bytes=max_bytes)
        kind, found = _find(scratch, name)
        if kind is Kind.SAVED_MODEL:
            number = found.name if found.name.isascii() and found.name.isdigit() and found != scratch else "1"
            return kind, _put(found, base / str(int(number) if version is None else version))
        if kind is Kind.ONNX:
            return kind, _put(_in_directory(found, ONNX_FILE), base / str(version or 1))
        return kind, _put(found, base / found.name)


def place_file(file: Path, name: str, kind: Kind, base: Path, version: int | None) -> Path:
    """Move a single file into its place below ``base``; see :func:`place_archive`."""
    place = base / (name if kind is Kind.FROZEN_GRAPH else str(version or 1))
    require_free(place)
    with _beside(base) as scratch:
        if kind is Kind.FROZEN_GRAPH:
            return _put(file, place)
        version_directory = scratch / "version"
        version_directory.mkdir()
        file.rename(version_directory / _FILES[kind])
        return _put(version_directory, place)


def place_directory(source: Path, base: Path, version: int) -> Path:
    """Copy the files of a version to its place below ``base``; what is neither a file nor leads to one is left out."""
    if base.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{base} is inside {source}", hint="Choose another directory.")
    require_free(base / str(version))
    with _beside(base) as scratch:
        for name in files_on_disk(source).sizes:
            copy = scratch / "version" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copy(source / name, copy)
            except PermissionError as error:
                raise explain_os_error(error, source / name, "read") from error
        return _put(scratch / "version", base / str(version))


def require_free(place: Path) -> None:
    """:raises InputError: something is there."""
    if place.exists() or place.is_symlink():
        raise InputError(
            f"{place} is there already", hint="Remove it first, or choose another directory or --model-version."
        )


def _find(scratch: Path, name: str) -> tuple[Kind, Path]:
    files = sorted(path for path in scratch.rglob("*") if path.is_file() and not path.name.startswith("._"))
    for kind, found in (
        (Kind.SAVED_MODEL, [path.parent for path in files if path.name == SAVED_MODEL_FILE]),
        (Kind.ONNX, [path for path in files if path.suffix == ".onnx"]),
        (Kind.FROZEN_GRAPH, [path for path in files if path.suffix == ".pb" and _is_frozen(path)]),
    ):
        if len(found) == 1:
            return kind, found[0]
        if found:
            listed = ", ".join(str(path.relative_to(scratch)) for path in found[:_MOST_LISTED])
            raise ModelError(
                f"{name} holds {len(found)} models: {listed}", hint="Unpack it yourself, and give the path of one."
            )
    if any(path.suffix in {".keras", ".h5"} or path.name == "model.weights.h5" for path in files):
        raise ModelError(f"{name} holds a Keras model", hint="Load it in Keras, and export it: `model.export(path)`.")
    raise ModelError(
        f"{name} holds no model", hint="A model is a SavedModel (saved_model.pb), a frozen graph (.pb) or an .onnx."
    )


def _is_frozen(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            return file_kind(file.read(HEAD_BYTES), path.name) is Kind.FROZEN_GRAPH
        except ModelError:
            return False


def _in_directory(file: Path, name: str) -> Path:
    directory = file.with_name(f".{secrets.token_hex(6)}")
    directory.mkdir()
    file.rename(directory / name)
    return directory


def _put(found: Path, place: Path) -> Path:
    require_free(place)
    found.chmod(0o755 if found.is_dir() else 0o644)
    for path in [found, *found.rglob("*")] if found.is_dir() else [found]:
        _sync(path)
    try:
        found.rename(place)
    except OSError:
        require_free(place)  # another fetch may have been quicker
        raise
    sync_directory(place.parent)
    return place


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _beside(base: Path) -> Iterator[Path]:
    """A directory in ``base`` for what is not complete; it is gone when the block ends, or, if the process is killed,
    when the next begins.
    """
    remove_leftovers(base, [_SCRATCH])
    scratch = partial_path(base / _SCRATCH)
    try:
        scratch.mkdir()
        with locked_directory(scratch):
            yield scratch
    except OSError as error:
        raise explain_os_error(error, base, "write") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
