"""Reading the logs of a cluster: the last lines, and what is added, across rotation."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from pathlib import Path
from typing import BinaryIO

from sealserve.local.rotation import previous


class Follower:
    """Reads a log that grows and is rotated.

    :param lines: how many of the lines that are there already count as new; None: all.
    """

    def __init__(self, path: Path, *, lines: int | None) -> None:
        self.path = path
        self._file: BinaryIO | None = None
        self._rest = b""
        self._backlog: list[str] = []
        if lines != 0:
            older = _lines_of(previous(path), lines)
            self._open()
            newer = self._read()
            self._backlog = [*older, *newer] if lines is None else [*older, *newer][-lines:]
        else:
            self._open()
            self._skip()

    def new_lines(self) -> list[str]:
        """The complete lines since the last call."""
        lines, self._backlog = self._backlog, []
        if self._file is None:
            self._open()
        lines += self._read()
        if self._was_replaced():
            self.close()
            self._open()
            lines += self._read()
        return lines

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        with contextlib.suppress(OSError):
            self._file = self.path.open("rb")

    def _skip(self) -> None:
        if self._file is not None:
            self._file.seek(0, os.SEEK_END)

    def _read(self) -> list[str]:
        if self._file is None:
            return []
        *complete, self._rest = (self._rest + self._file.read()).split(b"\n")
        return [line.decode(errors="replace") for line in complete]

    def _was_replaced(self) -> bool:
        if self._file is None:
            return False
        with contextlib.suppress(OSError):
            return not os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        return False


def _lines_of(path: Path, count: int | None) -> list[str]:
    with contextlib.suppress(OSError), path.open("rb") as file:
        return [line.decode(errors="replace").rstrip("\n") for line in deque(file, maxlen=count)]
    return []
