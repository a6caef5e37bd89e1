"""Reading and writing at positions, over a descriptor where there is one and over any seekable file object else."""

from __future__ import annotations

import errno
import io
import os
from typing import BinaryIO, Protocol


class Storage(Protocol):
    """Bytes at positions. Positions and sizes are in bytes; the file's own position is not used."""

    descriptor: int | None
    """The descriptor underneath, or None."""

    def read_at(self, position: int, into: memoryview) -> int:
        """Fill ``into`` from ``position``; return how many bytes there were."""

    def write_at(self, position: int, data: memoryview | bytes) -> None:
        """Write all of ``data`` at ``position``."""

    def size(self) -> int:
        """How many bytes there are."""

    def truncate(self, size: int) -> None:
        """Cut off (or extend) to ``size`` bytes."""


class DescriptorStorage:
    """Over a file descriptor of a regular file. Several processes may use it at once."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor: int | None = descriptor
        self._descriptor = descriptor

    def read_at(self, position: int, into: memoryview) -> int:
        done = 0
        while done < len(into):
            try:
                got = os.preadv(self._descriptor, [into[done:]], position + done)
            except OSError as error:
                if error.errno != errno.ENOSYS:  # some library operating systems have pread alone
                    raise
                piece = os.pread(self._descriptor, len(into) - done, position + done)
                got = len(piece)
                into[done : done + got] = piece
            if not got:
                break
            done += got
        return done

    def write_at(self, position: int, data: memoryview | bytes) -> None:
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self._descriptor, rest, position)
            rest = rest[written:]
            position += written

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)


class ObjectStorage:
    """Over a seekable binary file object."""

    def __init__(self, file: BinaryIO) -> None:
        self.descriptor: int | None = None
        self._file = file

    def read_at(self, position: int, into: memoryview) -> int:
        self._file.seek(position)
        done = 0
        while done < len(into):
            piece = self._file.read(len(into) - done)
            if not piece:
                break
            into[done : done + len(piece)] = piece
            done += len(piece)
        return done

    def write_at(self, position: int, data: memoryview | bytes) -> None:
        self._file.seek(position)
        rest = memoryview(data)
        while rest:
            # A raw file may write less than it is given, and None is "nothing now".
            rest = rest[self._file.write(rest) or 0 :]

    def size(self) -> int:
        return self._file.seek(0, io.SEEK_END)

    def truncate(self, size: int) -> None:
        self._file.truncate(size)


def storage_of(file: BinaryIO) -> Storage:
    """The quickest storage for ``file``.

    A descriptor is used only where the object is known to be a plain view of it: a decompressing file, for example,
    also has a ``fileno()``, but other bytes.
    """
    raw = file.raw if isinstance(file, io.BufferedReader | io.BufferedWriter | io.BufferedRandom) else file
    if not isinstance(raw, io.FileIO):
        return ObjectStorage(file)
    if file.writable():
        file.flush()
    return DescriptorStorage(raw.fileno())


def write_all(target: BinaryIO, piece: memoryview) -> None:
    """Write all of ``piece``, also to a raw file, which may take less than it is given."""
    while piece:
        piece = piece[target.write(piece) or 0 :]
