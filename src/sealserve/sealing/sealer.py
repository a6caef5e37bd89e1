"""Sealing and unsealing a whole model directory.

What the target may be: missing, empty, or left by an interrupted run. While a run writes, the ordinary file
``sealserve.incomplete`` stands there, locked; the list is written last. So an interrupted run is recognised, never
taken for a model, and simply run again. A complete sealed model is replaced only on request; anything else is left
alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sealserve.errors import ModelError, SealserveError
from sealserve.files import atomic_writer, explain_os_error, make_directory, partial_of
from sealserve.sealing.bulk import Progress, encrypt_file, part_of, quiet
from sealserve.sealing.errors import EmbeddedPathError, SealingTargetError
from sealserve.sealing.keys import check_wrap_key
from sealserve.sealing.layout import FormatVersion
from sealserve.sealing.leftovers import atomic_directory, remove_leftovers
from sealserve.sealing.listing import (
    INCOMPLETE_NAME,
    LIST_NAME,
    RESERVED,
    SEALS_NAME,
    ModelList,
    SealedFile,
    Seals,
)
from sealserve.sealing.metadata import FILE_ID
from sealserve.sealing.model import SealedModel, open_sealed_model, scan
from sealserve.sealing.paths import embeddable, join, normalise_path
from sealserve.sealing.reader import EncryptedReader
from sealserve.sealing.storage import is_directory
from sealserve.sealing.writer import EncryptedWriter
from sealserve.secret import Secret


@dataclass(frozen=True)
class _Source:
    files: dict[str, int]
    """Name and size in bytes."""
    directories: list[str]


def seal_model(
    source_dir: Path,
    target_dir: Path,
    key: Secret,
    *,
    mount: str,
    version: FormatVersion = 2,
    replace: bool = False,
    processes: int | None = None,
    progress: Progress | None = None,
) -> SealedModel:
    """Seal every file of ``source_dir`` into ``target_dir`` and write the list; the source is only read.

    Links to files are followed; links to directories and special files are refused.

    :param key: the wrap key, 16 bytes. :param mount: where the enclave will see ``target_dir``.
    :param version: format version of the files, 2 (Gramine 1.9 and later) or 1.
    :param replace: seal over a complete sealed model.
    :param progress: called with the bytes of plaintext that are done, and all of them.
    :raises ModelError: the source is missing, empty, or holds something that cannot be sealed.
    :raises SealingTargetError: the target is not usable. :raises EmbeddedPathError: a path is too long.
    :raises MachineError: the disk is full or read-only.
    """
    check_wrap_key(key)
    mount = normalise_path(mount)
    if not mount:
        raise EmbeddedPathError("the mount path is empty", hint="Give the path at which the enclave sees the model.")
    source = _scan_source(source_dir)
    for name in (*source.files, LIST_NAME):
        embeddable(join(mount, name))
    refuse_nesting(source_dir, target_dir)
    total = sum(source.files.values())
    report = progress or quiet
    entries: list[SealedFile] = []
    identities: dict[str, bytes] = {}

    def write_list(name: str, content: bytes) -> None:
        path = join(mount, name)
        with (
            atomic_writer(target_dir / name) as file,
            EncryptedWriter(file, key, path, version=version) as writer,
        ):
            writer.write(content)

    with _incomplete(target_dir, replace=replace):
        for directory in source.directories:
            make_directory(target_dir / directory, mode=0o755)
        done = 0
        for name in source.files:
            target = target_dir / name
            make_directory(target.parent, mode=0o755)
            with _open_source(source_dir / name) as plain, atomic_writer(target) as sealed:
                size, digest = encrypt_file(
                    plain,
                    sealed,
                    key,
                    join(mount, name),
                    version=version,
                    processes=processes,
                    digest=True,
                    progress=part_of(report, done, total),
                )
                identities[name] = EncryptedReader(sealed, key).identity
            entries.append(SealedFile(name, size, digest))
            done += size
        listing = ModelList.of(entries, source.directories)
        write_list(SEALS_NAME, Seals(listing.digest, identities).encode())
        write_list(LIST_NAME, listing.encode())
    return open_sealed_model(target_dir, key, mount=mount, expected_digest=listing.digest)


def unseal_model(
    directory: Path,
    target_dir: Path,
    key: Secret,
    *,
    mount: str,
    expected_digest: bytes | None = None,
    progress: Progress | None = None,
) -> SealedModel:
    """Decrypt a sealed model into ``target_dir``, which must be missing or empty.

    It is written beside the target and renamed when every file was checked, so no part of a model appears there. Only
    a run that is killed leaves something: ``.NAME.*.partial`` beside the target, in the clear, readable by its owner;
    the next run with this target removes it.

    :raises SealError: a subclass by cause.
    :raises SealingTargetError: the target is not usable. :raises MachineError: the disk is full or read-only.
    """
    model = open_sealed_model(directory, key, mount=mount, expected_digest=expected_digest)
    refuse_nesting(directory, target_dir)
    target = _new_directory(target_dir)
    remove_leftovers(target.parent, [target.name])
    report = progress or quiet
    done = 0
    with atomic_directory(target) as beside:
        for empty in model.directories:
            make_directory(beside / empty, mode=0o700)
        for file in model.files:
            path = beside / file.name
            make_directory(path.parent, mode=0o700)
            with atomic_writer(path, mode=0o600) as plain:
                model.decrypt_to(file.name, plain, progress=part_of(report, done, model.total_size))
            done += file.size
    return model


def _new_directory(given: Path) -> Path:
    """``given`` itself, with links followed.

    :raises SealingTargetError: it is neither missing nor empty, or cannot be put in place by renaming.
    """
    try:
        target = given.resolve()
        if target.exists():
            if not target.is_dir() or any(target.iterdir()):
                raise SealingTargetError(f"{given} is not empty", hint="Choose an empty or a new directory.")
            if target.is_mount():
                raise SealingTargetError(f"{given} is a mount point", hint="Choose a directory inside it.")
            if target.samefile("."):
                raise SealingTargetError(f"{given} is the current directory", hint="Choose a directory inside it.")
    except OSError as error:
        raise explain_os_error(error, given, "write") from error
    return target


def refuse_nesting(source: Path, target: Path) -> None:
    """Refuse a target that is the source, lies inside it, or around it.

    :raises SealingTargetError: it does. :raises InputError: one cannot be looked at.
    """
    try:
        inner, outer = source.resolve(), target.resolve()
    except OSError as error:
        raise explain_os_error(error, target, "use") from error
    if inner == outer or inner in outer.parents or outer in inner.parents:
        raise SealingTargetError(
            f"{target} and {source} lie inside each other", hint="Choose a target outside the source directory."
        )


def _scan_source(directory: Path) -> _Source:
    if not is_directory(directory):
        raise ModelError(f"{directory} is no directory", hint="Give the directory of the model.")
    names, empty = scan(directory)
    if reserved := {name.partition("/")[0] for name in names | empty} & RESERVED:
        raise ModelError(
            f"{directory} already holds {min(reserved)}: it is a sealed model",
            hint="Unseal it first, or give the directory of the model in the clear.",
        )
    if not names:
        raise ModelError(f"there is no file in {directory}", hint="Give the directory of the model.")
    files: dict[str, int] = {}
    for name in sorted(names):
        try:
            status = (directory / name).stat()
        except OSError as error:
            raise explain_os_error(error, directory / name, "read") from error
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(
                f"{directory / name} is neither a file nor a link to one", hint="Remove it, or copy what it points to."
            )
        files[name] = status.st_size
    return _Source(files, sorted(empty))


@contextlib.contextmanager
def _open_source(path: Path) -> Iterator[io.FileIO]:
    try:
        file = path.open("rb", buffering=0)
    except OSError as error:
        raise explain_os_error(error, path, "read") from error
    with file:
        yield file


@contextlib.contextmanager
def _incomplete(target: Path, *, replace: bool) -> Iterator[None]:
    """Hold the mark of an incomplete model in ``target``; on an error, take away what this run wrote."""
    created = not is_directory(target)
    make_directory(target, mode=0o755)
    present, _ = scan(target)
    if present and INCOMPLETE_NAME not in present:
        if LIST_NAME not in present:
            raise SealingTargetError(
                f"{target} is not empty and holds no sealed model", hint="Choose an empty or a new directory."
            )
        if not replace:
            raise SealingTargetError(
                f"{target} holds a sealed model already", hint="Choose another directory, or replace it (`--replace`)."
            )
    mark = target / INCOMPLETE_NAME
    _refuse_foreign(target, present)
    try:
        descriptor = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise explain_os_error(error, mark, "write") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SealingTargetError(
                f"another run is sealing into {target}", hint="Wait for it to end, or choose another directory."
            ) from None
        except OSError as error:
            raise explain_os_error(error, mark, "lock") from error
        _clear(target)
        yield
        mark.unlink()
    except SealingTargetError:
        raise
    except BaseException:
        with contextlib.suppress(OSError, SealserveError):
            _clear(target)
            mark.unlink()
            if created:
                target.rmdir()
        raise
    finally:
        os.close(descriptor)


def _is_ours(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    if path.name == INCOMPLETE_NAME or partial_of(path.name) is not None:
        return True
    with path.open("rb") as file:
        return file.read(len(FILE_ID)) == FILE_ID


def _refuse_foreign(target: Path, present: set[str]) -> None:
    for name in sorted(present):
        if not _is_ours(target / name):
            raise SealingTargetError(
                f"{target / name} is no part of a sealed model, and would be lost",
                hint="Remove it, or choose an empty or a new directory.",
            )


def _clear(target: Path) -> None:
    """Remove what an earlier run left except for the mark, and directories that are then empty."""
    present, _ = scan(target)
    for name in present - {INCOMPLETE_NAME}:
        if _is_ours(target / name):
            (target / name).unlink()
    for directory, _, _ in os.walk(target, topdown=False):
        if Path(directory) != target:
            with contextlib.suppress(OSError):
                Path(directory).rmdir()
