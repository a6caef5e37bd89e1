"""Reading and writing at positions, over a descriptor where there is one and over any seekable file object else."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path
from typing import BinaryIO, Protocol

from sealserve.errors import InputError
from sealserve.files import explain_os_error
from sealserve.sealing.errors import SealingTargetError

_PIECE = 1 << 20  # bytes


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
                if error.errno != errno.ENOSYS:  # Gramine has pread alone
                    raise
                piece = os.pread(self._descriptor, min(len(into) - done, _PIECE), position + done)
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

    :raises ValueError: the file is open for appending, where everything is written at its end.
    """
    if "a" in str(getattr(file, "mode", "")):
        raise ValueError("a file that is open for appending cannot be written at positions: open it with 'w+b'")
    raw = file.raw if isinstance(file, io.BufferedReader | io.BufferedWriter | io.BufferedRandom) else file
    if not isinstance(raw, io.FileIO):
        return ObjectStorage(file)
    if file.writable():
        file.flush()
    return DescriptorStorage(raw.fileno())


def is_directory(path: Path) -> bool:
    """Whether ``path`` is a directory or a link to one.

    :raises InputError: that cannot be found out.
    """
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise explain_os_error(error, path, "read") from error


def open_regular(path: Path, *, follow_links: bool) -> io.FileIO:
    """Open a file for reading that must be a regular one; nothing that is put in its place makes this block.

    :param follow_links: whether ``path`` itself may be a link.
    :raises InputError: it is no regular file, or cannot be opened.
    """
    more = os.O_NONBLOCK | (0 if follow_links else os.O_NOFOLLOW)
    try:
        file = io.FileIO(path, "rb", opener=lambda name, flags: os.open(name, flags | more))
    except IsADirectoryError:
        raise InputError(f"{path} is a directory, not a file") from None
    except OSError as error:
        if error.errno == errno.ELOOP and path.is_symlink() and not follow_links:
            raise InputError(f"{path} is a link, not a file") from None
        raise explain_os_error(error, path, "read") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise InputError(f"{path} is no regular file", hint="A pipe or a device cannot be read at positions.")
    return file


def refuse_irregular(target: Path) -> None:
    """Refuse to replace something that is no regular file, such as ``/dev/null`` or a link.

    :raises SealingTargetError: it is there and none. :raises InputError: that cannot be found out.
    """
    try:
        status = target.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise explain_os_error(error, target, "write") from error
    if stat.S_ISLNK(status.st_mode):
        raise SealingTargetError(f"{target} is a link", hint="Give the path of the file itself.")
    if not stat.S_ISREG(status.st_mode):
        raise SealingTargetError(f"{target} is there, and no regular file", hint="Choose another output.")


def write_all(target: BinaryIO, piece: memoryview) -> None:
    """Write all of ``piece``, also to a raw file, which may take less than it is given."""
    while piece:
        piece = piece[target.write(piece) or 0 :]
