"""Directories that appear complete or not at all, and removing what killed runs left of them and of files.

What is being written stands beside its destination, locked by its writer (:func:`sealserve.files.partial_path`). The
lock ends with the process, so what can be locked was left by one that was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from sealserve.files import (
    NAME_KEPT,
    explain_os_error,
    lock_partial,
    make_directory,
    partial_of,
    partial_path,
    sync_directory,
)


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Give a new directory, its owner's alone, that is renamed to ``path`` when the block ends without an error.

    :param path: must be missing or an empty directory.
    :raises MachineError: the disk is full or read-only. :raises InputError: it cannot be made or renamed.
    """
    beside = make_directory(partial_path(path), mode=0o700)
    try:
        with locked_directory(beside):
            yield beside
            beside.replace(path)
        sync_directory(path.parent)
    except BaseException as error:
        shutil.rmtree(beside, ignore_errors=True)
        if isinstance(error, OSError):
            raise explain_os_error(error, path, "write") from error
        raise


@contextlib.contextmanager
def locked_directory(path: Path) -> Iterator[None]:
    """While the block runs, :func:`remove_leftovers` lets the directory be."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        lock_partial(descriptor)
        yield
    finally:
        os.close(descriptor)


def remove_leftovers(directory: Path, names: Collection[str]) -> None:
    """Remove what killed runs left in ``directory`` of files and directories with these names.

    What is locked stays, and so does what belongs to another user, and everything in a directory where others may
    rename things: one of them could have given something of value such a name. That it does not work is no error
    here: whoever writes there next says why.
    """
    wanted = {name[:NAME_KEPT] for name in names}
    found: list[str] = []
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        mode = directory.stat().st_mode
        if mode & 0o022 and not mode & stat.S_ISVTX:
            return
        found = [entry.name for entry in entries if partial_of(entry.name) in wanted]
    for name in found:
        with contextlib.suppress(OSError):
            _remove_unlocked(directory / name)


def _remove_unlocked(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if status.st_uid == os.geteuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if stat.S_ISDIR(status.st_mode):
                shutil.rmtree(path)
            elif stat.S_ISREG(status.st_mode):
                path.unlink()
    finally:
        os.close(descriptor)
