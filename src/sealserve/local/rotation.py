"""Log files that stay small: when one is full it becomes ``NAME.1``, and the older ``NAME.1`` is dropped."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from sealserve.files import PRIVATE

LIMIT = 5 << 20


def previous(path: Path) -> Path:
    """Where the older half of a log lies."""
    return path.with_name(path.name + ".1")


class RotatingLog:
    """Appends bytes to a file of at most ``limit`` bytes.

    A log that cannot be written (a full disk) loses lines: that must not stop the process that logs.
    """

    def __init__(self, path: Path, *, limit: int = LIMIT) -> None:
        self._path = path
        self._limit = limit
        self._descriptor: int | None = None
        self._size = 0

    def write(self, data: bytes) -> None:
        """Append ``data``; it is never split over two files."""
        with contextlib.suppress(OSError):
            if self._descriptor is not None and self._size + len(data) > self._limit:
                self.close()
                self._path.replace(previous(self._path))
            if self._descriptor is None:
                self._descriptor = os.open(
                    self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE
                )
                self._size = os.fstat(self._descriptor).st_size
            self._size += os.write(self._descriptor, data)

    def close(self) -> None:
        """Close the file; a later write opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def rotate_if_full(path: Path, *, limit: int = LIMIT) -> bool:
    """Copy a log that another program appends to, and empty it, if it is full.

    The program goes on with the file that it has open: nginx's workers may not open it again, because they run as
    another user. What it writes between copy and emptying is lost.

    :returns: whether it was full.
    """
    with contextlib.suppress(OSError):
        if path.stat().st_size > limit:
            try:
                shutil.copyfile(path, previous(path))
                previous(path).chmod(PRIVATE)
            finally:
                os.truncate(path, 0)
            return True
    return False
