"""Which directories are sealserve's own: those in which it left a marker when it made them.

A cluster and a demonstration delete and overwrite what is in their working directory. A name such as ``platform/tmp``
proves nothing about whose a directory is, so that without the marker nothing in it is touched.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from sealserve.errors import InputError
from sealserve.files import PRIVATE, explain_os_error, write_atomically

MARKER = ".made-by-sealserve"
Purpose = Literal["cluster", "demonstration"]

_EXPLANATION = "sealserve made this directory and deletes files in it. Without this file it touches nothing here.\n"


class ForeignDirectoryError(InputError):
    """A working directory holds something, and nothing says that sealserve made it for this."""


@dataclass(frozen=True)
class Claim:
    """The right to write and delete below ``root``.

    :ivar new: whether nothing was in it before. :ivar made: the directories that were made for it, outermost first.
    """

    root: Path
    new: bool
    made: tuple[Path, ...]

    def discard(self) -> None:
        """Undo a new claim: remove what was made since. What was there before stays."""
        if not self.new:
            return
        with contextlib.suppress(OSError):
            # The marker goes last: if something cannot be removed, the directory is still known to be sealserve's.
            for entry in sorted(self.root.iterdir(), key=lambda path: path.name == MARKER):
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
            _remove_directories(self.made)


def claim(root: Path, purpose: Purpose) -> Claim:
    """Make ``root`` a working directory: one that is missing or empty gets the marker, one that has it is taken.

    :param root: absolute.
    :raises ForeignDirectoryError: it holds something and has no marker, or another purpose's. Nothing was touched.
    :raises InputError: it cannot be made, belongs to somebody else, or others can write to it.
    :raises MachineError: the disk is full or read-only.
    """
    new = not is_claimed(root, purpose)
    made: list[Path] = []
    try:
        for directory in (*reversed(root.parents), root):
            if not directory.is_dir():
                # A name that is taken by something else than a directory fails here, with that reason.
                directory.mkdir(mode=0o700 if directory == root else 0o777)
                made.append(directory)
        require_own(root, root.stat())
        if new:
            write_atomically(root / MARKER, f"{purpose}\n\n{_EXPLANATION}", mode=PRIVATE)
    except BaseException as error:
        _remove_directories(made)
        if isinstance(error, OSError):
            raise explain_os_error(error, root, "create") from error
        raise
    return Claim(root, new, tuple(made))


def is_claimed(root: Path, purpose: Purpose | None = None) -> bool:
    """Whether ``root`` has the marker; false if it is missing or empty.

    :param purpose: what it has to be for; None: either.
    :raises ForeignDirectoryError: it holds something and has no marker, or another purpose's.
    """
    try:
        if not any(root.iterdir()):
            return False
        found = _marked_for(root / MARKER)
    except FileNotFoundError:
        return False
    except PermissionError as error:
        if (owner := _owner(root)) not in {None, os.geteuid()}:
            raise _anothers(root, owner) from error
        raise explain_os_error(error, root, "use") from error
    except OSError as error:
        raise explain_os_error(error, root, "use") from error
    if found not in get_args(Purpose):
        raise ForeignDirectoryError(
            f"{root} is not empty, and sealserve did not make it: nothing in it was touched",
            hint="Name a working directory that `sealserve up` made: what `state` in its deployment.yaml says."
            if purpose is None
            else "Choose a directory that is new or empty (`state` in deployment.yaml; --directory of the demo).",
        )
    if purpose is not None and found != purpose:
        raise ForeignDirectoryError(
            f"{root} is the working directory of a {found}, not of a {purpose}",
            hint="Choose another directory (`state` in deployment.yaml; --directory of the demo).",
        )
    return True


def _marked_for(marker: Path) -> str:
    """The first line of a marker; empty if there is none.

    :raises ForeignDirectoryError: it is a marker, and another user made it.
    """
    try:
        status = marker.lstat()
    except FileNotFoundError:
        return ""
    if not stat.S_ISREG(status.st_mode):
        return ""
    if status.st_uid != os.geteuid():
        raise _anothers(marker.parent, status.st_uid)
    return marker.read_bytes()[:100].partition(b"\n")[0].decode("ascii", "replace")


def _owner(path: Path) -> int | None:
    with contextlib.suppress(OSError):
        return path.stat().st_uid
    return None


def _anothers(root: Path, owner: int | None) -> ForeignDirectoryError:
    try:
        name = pwd.getpwuid(-1 if owner is None else owner).pw_name
    except KeyError:
        name = str(owner)
    return ForeignDirectoryError(
        f"{root} belongs to user {name}: nothing in it was touched",
        hint="Run the command as that user, or name another directory (`state` in deployment.yaml).",
    )


def require_own(directory: Path, status: os.stat_result) -> None:
    """What is deleted and written below must be ours: a link could lead anywhere, another user could change it.

    :param status: of ``directory``.
    """
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o022:
        raise InputError(
            f"{directory} is a link, belongs to somebody else, or can be written by others",
            hint="Remove it, or choose another working directory.",
        )


def _remove_directories(made: list[Path] | tuple[Path, ...]) -> None:
    with contextlib.suppress(OSError):
        for directory in reversed(made):
            directory.rmdir()
