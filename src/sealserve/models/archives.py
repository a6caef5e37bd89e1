"""Unpacking archives that somebody else made: .tar, .tar.gz and .zip.

Nothing but plain files and directories is taken, each under a relative name below the target; an archive with anything
else is refused as a whole. What comes out is counted while it is written, so that a small archive cannot fill a disk,
and what an unpacking library reads into memory is bounded.
"""

from __future__ import annotations

import errno
import gzip
import io
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

from sealserve.errors import ModelError
from sealserve.files import PUBLIC, explain_os_error

MAX_ENTRIES = 10_000

_CHUNK = 1 << 20
_MAX_NAME = 1000
_MAX_READ = 16 << 20  # of the directory of a .zip
_MAX_HEADER = 4 << 10  # of the headers of one file in a .tar: `tarfile` takes the square of that, in time and memory
_MAX_GLOBAL = 100  # what a .tar says of all its files
_BROKEN = (
    EOFError, IndexError, KeyError, MemoryError, NotImplementedError, OverflowError, RuntimeError, UnicodeError,
    ValueError, struct.error, tarfile.TarError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


class ArchiveError(ModelError):
    """An archive is damaged, or holds what is not unpacked."""


def unpack(archive: BinaryIO, name: str, target: Path, *, max_bytes: int) -> None:
    """Unpack into ``target``, an empty directory.

    :param archive: seekable, at its beginning. :param name: what it is called, for people.
    :param max_bytes: of all files together.
    :raises ArchiveError: it is damaged, too large, or holds links, devices or names that lead elsewhere; what was
        written until then is to be removed.
    :raises MachineError: the disk is full.
    """
    head = archive.read(4)
    archive.seek(0)
    entries = _zip_entries if head == b"PK\x03\x04" else _tar_entries
    left = max_bytes
    directories: set[PurePosixPath] = set()
    try:
        for count, (entry, content) in enumerate(entries(archive, name, max_bytes)):
            inside = PurePosixPath(*_parts(entry, name))
            # A name of a thousand characters brings five hundred directories, each of which takes a block of the disk.
            directories.update(inside.parents)
            if count + len(directories) > MAX_ENTRIES:
                raise ArchiveError(f"{name} has more than {MAX_ENTRIES:,} entries", hint="Is it a model?")
            path = target / inside
            (path if content is None else path.parent).mkdir(parents=True, exist_ok=True)
            if content is not None:
                left -= _write(path, content, left, name)
    except _BROKEN as error:
        raise ArchiveError(
            f"{name} cannot be unpacked: {str(error)[:200] or type(error).__name__}",
            hint="It is damaged, or of a kind that is not known here. Fetch it again, or unpack it yourself.",
        ) from error
    except OSError as error:
        # gzip's own have no number.
        if error.errno in {None, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG}:
            raise ArchiveError(
                f"{name} cannot be unpacked: {error.strerror or error}", hint="It is damaged: fetch it again."
            ) from error
        raise explain_os_error(error, target, "write") from error


def _parts(entry: str, archive: str) -> tuple[str, ...]:
    """The parts of an entry's name. :raises ArchiveError: it leads out of the target, or is no usual name."""
    path = PurePosixPath(entry)
    harmless = entry.isprintable() and "\\" not in entry and len(entry.encode(errors="replace")) <= _MAX_NAME
    if path.is_absolute() or ".." in path.parts or not harmless:
        raise ArchiveError(
            f"{archive} has an entry that is not unpacked: its name is {entry[:200]!r}",
            hint="Whoever made the archive may mean harm. Take the model from somewhere else.",
        )
    return path.parts


def _write(path: Path, content: IO[bytes], limit: int, name: str) -> int:
    """Write a file; returns its size."""
    size = 0
    with path.open("xb") as file:
        while piece := content.read(_CHUNK):
            size += len(piece)
            if size > limit:
                raise ArchiveError(f"{name} holds more than may be unpacked", hint="Allow more with --max-size.")
            file.write(piece)
    path.chmod(PUBLIC)
    return size


def _tar_entries(archive: BinaryIO, name: str, max_bytes: int) -> Iterator[tuple[str, IO[bytes] | None]]:
    packed = archive.read(2) == b"\x1f\x8b"
    archive.seek(0)
    # What is between the files counts too; a header and padding take up to 1,024 bytes each.
    limit = max_bytes + MAX_ENTRIES * (1024 + _MAX_HEADER)
    source = _Bounded(gzip.GzipFile(fileobj=archive) if packed else archive, limit)
    source.allow(_MAX_HEADER)
    with tarfile.open(fileobj=source, mode="r:") as tar:  # type: ignore[call-overload] # it reads, seeks and tells
        while (member := tar.next()) is not None:
            tar.members.clear()  # it keeps them all, with what their headers say
            if len(tar.pax_headers) > _MAX_GLOBAL:  # each member gets a copy
                raise ValueError("its headers say more than is read")
            source.allow(limit)
            if member.isdir():
                yield member.name, None
            else:
                if not member.isreg() or member.issparse() or member.size < 0:
                    raise _refused(name, member.name)
                content = tar.extractfile(member)
                if content is None:
                    raise _refused(name, member.name)
                yield member.name, content
                if content.tell() != member.size:
                    raise ArchiveError(f"{name} is cut short", hint="Fetch it again.")
            source.allow(_MAX_HEADER)
        source.allow(limit)
        while source.read(_CHUNK):
            pass  # gzip compares its checksum at the end


def _zip_entries(archive: BinaryIO, name: str, max_bytes: int) -> Iterator[tuple[str, IO[bytes] | None]]:
    _check_zip_directory(archive, name)
    with zipfile.ZipFile(archive) as file:
        infos = file.infolist()
        if sum(info.file_size for info in infos) > max_bytes:
            raise ArchiveError(f"{name} holds more than may be unpacked", hint="Allow more with --max-size.")
        for info in infos:
            # zipfile bounds what comes out of these two; a kilobyte of bzip2 would take gigabytes of memory.
            if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
                raise ArchiveError(
                    f"{name} cannot be unpacked: it is compressed in an unusual way",
                    hint="Take a .tar.gz, or unpack it yourself if you trust it.",
                )
            mode = info.external_attr >> 16
            if info.flag_bits & 1 or stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFDIR}:
                raise _refused(name, info.filename)
            if info.is_dir():
                yield info.filename, None
            else:
                with file.open(info) as content:
                    yield info.filename, content


def _check_zip_directory(archive: BinaryIO, name: str) -> None:
    """zipfile makes an object of each entry before it gives the first: so their bytes are bounded first.

    APPNOTE.TXT of PKWARE, 4.3.16: the size of the central directory is at byte 12 of the record that ends it.
    """
    size = archive.seek(0, io.SEEK_END)
    archive.seek(max(0, size - (1 << 16) - 22 - 20))  # the longest comment, the record, and what stands before it
    tail = archive.read()
    archive.seek(0)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + 22 or struct.unpack_from("<L", tail, at + 12)[0] > _MAX_READ or b"PK\x06\x07" in tail:
        raise ArchiveError(
            f"{name} cannot be unpacked: it is cut short, or of the form for very large archives (ZIP64)",
            hint="Fetch it again, or take a .tar.gz.",
        )


def _refused(archive: str, entry: str) -> ArchiveError:
    return ArchiveError(
        f"{archive} has an entry that is not unpacked: {entry[:200]!r} is a link, a device, or encrypted",
        hint="Unpack it yourself if you trust it, and give the path of the model.",
    )


class _Bounded:
    """A source of bytes that gives a library only so many: until it is allowed more, and on the whole."""

    def __init__(self, source: Any, limit: int) -> None:
        self._source = source
        self._limit = limit
        self._allowed = 0

    def allow(self, size: int) -> None:
        """How much may be read from now on."""
        self._allowed = size

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._allowed or self.tell() + size > self._limit:
            raise ValueError("it holds more than may be unpacked")
        data: bytes = self._source.read(size)
        self._allowed -= len(data)
        return data

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or not 0 <= position <= self._limit:
            raise ValueError("it holds more than may be unpacked")
        return int(self._source.seek(position))

    def tell(self) -> int:
        return int(self._source.tell())
