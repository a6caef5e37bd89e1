"""A directory of rendered files: replaced as a whole, and only where an earlier rendering, or nothing, was."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from sealserve.errors import InputError
from sealserve.files import explain_os_error, partial_path, sync_directory, write_atomically


def require_replaceable(directory: Path, written: Callable[[], Collection[str]]) -> None:
    """Make sure that nothing is in ``directory`` but what an earlier rendering wrote.

    :param written: the names that the rendering in it wrote, none if there is none; called if there is anything.
    :raises InputError: there is something else, or it is a link.
    """
    try:
        present = {entry.name for entry in directory.iterdir()}
    except FileNotFoundError:
        return
    except OSError as error:
        raise explain_os_error(error, directory, "use") from error
    if not present:
        return
    known = set(written())
    if directory.is_symlink() or not present <= known:
        raise InputError(
            f"{directory} holds what no earlier rendering wrote: nothing in it was touched",
            hint=f"Name a directory that is new or empty, or move {min(present - known, default='the link')} away.",
        )


def write_directory(directory: Path, files: Mapping[str, bytes | str]) -> None:
    """Put ``files`` (name → content) in the place of the directory.

    :raises InputError: it cannot be written. :raises MachineError: the disk is full or read-only.
    """
    beside, aside = partial_path(directory), partial_path(directory)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        beside.mkdir(mode=0o755)
        for name, content in files.items():
            write_atomically(beside / name, content)
        if directory.exists():
            directory.rename(aside)
        beside.rename(directory)
        sync_directory(directory.parent)
    except OSError as error:
        raise explain_os_error(error, directory, "write") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)
