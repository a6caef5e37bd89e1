"""Whole files at once: encrypting and decrypting from one descriptor to another, on all processors.

The plaintext's SHA-256 is computed on the way where it is asked for: by the calling process, which reads (or re-reads)
the bytes while its helpers encrypt (or decrypt), and then works along with them.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, Final

from sealserve.errors import InputError
from sealserve.files import explain_os_error
from sealserve.sealing.crew import MAX_CHUNKS, Board, Crew, crew, may_fork, usable_processors
from sealserve.sealing.keys import check_wrap_key
from sealserve.sealing.layout import ENTRY, GROUP_PLAIN, HEAD, FormatVersion, groups, mht_children, plain_offset
from sealserve.sealing.paths import embeddable
from sealserve.sealing.pipeline import copy_plaintext
from sealserve.sealing.reader import EncryptedReader
from sealserve.sealing.storage import Storage, storage_of, write_all
from sealserve.sealing.tree import TreeBuilder
from sealserve.sealing.writer import EncryptedWriter, GroupWriter, write_metadata
from sealserve.secret import Secret

if TYPE_CHECKING:
    from hashlib import _Hash

Progress = Callable[[int, int], None]
"""Called with the bytes of plaintext that are done, and all of them."""

_MIN_CHUNK_GROUPS: Final = 8
_PARALLEL_FROM: Final = 24 * GROUP_PLAIN
"""Smaller files (9 MB) are done before helpers would have started."""
_PARALLEL_TREE_FROM: Final = 1000
_PIECE: Final = 1 << 20
_IDLE: Final = 0.001


def quiet(done: int, total: int) -> None:
    """A progress callback that says nothing."""


def part_of(report: Progress, before: int, total: int) -> Progress:
    """The progress callback of a file that begins after ``before`` bytes of ``total``."""
    return lambda done, _: report(before + done, max(total, before + done))


class _Plan:
    """How the groups of a file of ``size`` bytes of plaintext are cut into chunks."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.groups = groups(size)
        self._per_chunk = max(_MIN_CHUNK_GROUPS, -(-self.groups // MAX_CHUNKS))
        self.chunks = -(-self.groups // self._per_chunk)

    def groups_of(self, chunk: int) -> range:
        return range(chunk * self._per_chunk, min((chunk + 1) * self._per_chunk, self.groups))

    def bytes_of(self, chunk: int) -> range:
        """Where the chunk's plaintext lies; the head of the file belongs to no chunk."""
        mine = self.groups_of(chunk)
        return range(plain_offset(mine.start), min(plain_offset(mine.stop), self.size))


def _workers(size: int, processes: int | None, *storages: Storage) -> int:
    """How many processes to use, this one included."""
    if processes == 1 or size < _PARALLEL_FROM or any(s.descriptor is None for s in storages) or not may_fork():
        return 1
    return processes or usable_processors()


def encrypt_file(
    source: BinaryIO,
    target: BinaryIO,
    key: Secret,
    path: str,
    *,
    version: FormatVersion = 2,
    processes: int | None = None,
    digest: bool = False,
    progress: Progress = quiet,
) -> tuple[int, bytes]:
    """Encrypt all of ``source`` into ``target``.

    :param source: a binary file: read from its beginning if it is a regular one, else to its end as a stream.
    :param target: a seekable binary file open for reading and writing; its old content is cut off.
    :param key: the wrap key, 16 bytes. :param path: the path under which the file will be opened.
    :param processes: how many may work; all processors if not given. A process with threads works alone.
    :param digest: compute the SHA-256 of the plaintext.
    :returns: the plaintext's size in bytes, and its SHA-256 (empty if not asked for).
    :raises InputError: the source changed meanwhile. :raises OSError: reading or writing failed.
    """
    encoded = embeddable(path)
    check_wrap_key(key)
    plain = storage_of(source) if source.seekable() else None
    if plain is None or plain.descriptor is None:
        return _encrypt_stream(source, target, key, path, version=version, digest=digest)
    before = os.fstat(plain.descriptor)
    plan = _Plan(before.st_size)
    sealed = storage_of(target)
    sealed.truncate(0)
    workers = _workers(plan.size, processes, plain, sealed)
    tree = TreeBuilder()
    head = bytearray(min(plan.size, HEAD))
    _read_exactly(plain, 0, memoryview(head))
    hasher = hashlib.sha256(head) if digest else None
    board = Board(plan.chunks)

    def work(report: Progress, inline: _Hash | None) -> None:
        writer = GroupWriter(sealed, tree)
        while (chunk := board.take()) is not None:
            for group in plan.groups_of(chunk):
                start = plain_offset(group)
                piece = writer.plain[: min(GROUP_PLAIN, plan.size - start)]
                _read_exactly(plain, start, piece)
                if inline:
                    inline.update(piece)
                writer.write(group, len(piece))
            board.finish(chunk)
            report(plan.size * board.done // plan.chunks, plan.size)

    def hash_source(hasher: _Hash, helpers: Crew) -> None:
        buffer = memoryview(bytearray(_PIECE))
        for start in range(HEAD, plan.size, _PIECE):
            piece = buffer[: min(_PIECE, plan.size - start)]
            _read_exactly(plain, start, piece)
            hasher.update(piece)
            helpers.check()
            progress(plan.size * board.done // plan.chunks, plan.size)

    try:
        if workers == 1:
            work(progress, hasher)
        else:
            with crew(workers - 1, lambda: work(quiet, None)) as helpers:
                if hasher:
                    hash_source(hasher, helpers)
                work(progress, None)
    finally:
        board.close()
    root = _finish_tree(tree, sealed, plan.groups, workers)
    after = os.fstat(plain.descriptor)
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise _changed()
    write_metadata(sealed, key, path=encoded, size=plan.size, head=bytes(head), root=root, version=version)
    progress(plan.size, plan.size)
    return plan.size, hasher.digest() if hasher else b""


def _encrypt_stream(
    source: BinaryIO, target: BinaryIO, key: Secret, path: str, *, version: FormatVersion, digest: bool
) -> tuple[int, bytes]:
    hasher = hashlib.sha256()
    with EncryptedWriter(target, key, path, version=version) as writer:
        while piece := source.read(_PIECE):
            writer.write(piece)
            if digest:
                hasher.update(piece)
    return writer.size, hasher.digest() if digest else b""


def _finish_tree(tree: TreeBuilder, sealed: Storage, count: int, workers: int) -> bytes:
    """The hash tree; in a large file the subtrees under its root are shared out."""
    if not count:
        return b""
    if workers == 1 or count < _PARALLEL_TREE_FROM:
        return tree.finish(sealed, 0, count)
    children = mht_children(0, count)
    board = Board(len(children))
    entries = mmap.mmap(-1, len(children) * ENTRY)

    def work() -> None:
        while (slot := board.take()) is not None:
            entries[slot * ENTRY : (slot + 1) * ENTRY] = tree.finish(sealed, children[slot], count)

    try:
        with crew(workers - 1, work):
            work()
        known = {child: entries[slot * ENTRY : (slot + 1) * ENTRY] for slot, child in enumerate(children)}
    finally:
        board.close()
        entries.close()
    return tree.finish(sealed, 0, count, known)


def decrypt_file(
    source: BinaryIO,
    target: BinaryIO,
    key: Secret,
    *,
    expected_path: str | None = None,
    allow_trailing: bool = False,
    processes: int | None = None,
    digest: bool = False,
    progress: Progress = quiet,
) -> tuple[int, bytes]:
    """Decrypt ``source`` into ``target``; the other parameters and the result are those of :func:`encrypt_file`.

    On an error ``target`` holds a part of the plaintext, all of it authentic: the caller throws it away.

    :param expected_path: :param allow_trailing: as :class:`~sealserve.sealing.reader.EncryptedReader` has them.
    :raises SealError: a subclass by cause.
    """
    reader = EncryptedReader(source, key, expected_path=expected_path, allow_trailing=allow_trailing)
    return reader.size, decrypt_from(reader, target, processes=processes, digest=digest, progress=progress)


def decrypt_from(
    reader: EncryptedReader,
    target: BinaryIO,
    *,
    processes: int | None = None,
    digest: bool = False,
    progress: Progress = quiet,
) -> bytes:
    """Decrypt all of ``reader`` into ``target``; the SHA-256 if asked for, else nothing."""
    plain = storage_of(target) if target.seekable() else None
    if plain is None:
        return copy_plaintext(reader, lambda piece: write_all(target, piece), digest=digest, progress=progress)
    plain.truncate(0)
    workers = _workers(reader.size, processes, reader.storage, plain) if target.readable() else 1
    if workers == 1 and digest:
        return copy_plaintext(reader, _appender(plain), progress=progress)
    plan = _Plan(reader.size)
    plain.write_at(0, reader.head)
    board = Board(plan.chunks)

    def work_on(chunk: int) -> None:
        for group in plan.groups_of(chunk):
            plain.write_at(plain_offset(group), reader.read_group(group))
        board.finish(chunk)

    def help_along() -> None:
        while (chunk := board.take()) is not None:
            work_on(chunk)

    hasher = hashlib.sha256(reader.head)
    try:
        with crew(workers - 1, help_along) as helpers:
            buffer = memoryview(bytearray(GROUP_PLAIN))
            hashed = 0 if digest else plan.chunks
            while board.done < plan.chunks or hashed < plan.chunks:
                if hashed < plan.chunks and board.is_done(hashed):
                    _hash_range(plain, hasher, plan.bytes_of(hashed), buffer)
                    hashed += 1
                elif (chunk := board.take()) is not None:
                    work_on(chunk)
                else:
                    helpers.check()
                    time.sleep(_IDLE)
                progress(plan.size * board.done // plan.chunks, plan.size)
    finally:
        board.close()
    progress(plan.size, plan.size)
    return hasher.digest() if digest else b""


def _appender(plain: Storage) -> Callable[[memoryview], None]:
    position = 0

    def append(piece: memoryview) -> None:
        nonlocal position
        plain.write_at(position, piece)
        position += len(piece)

    return append


def _hash_range(plain: Storage, hasher: _Hash, span: range, buffer: memoryview) -> None:
    for start in range(span.start, span.stop, len(buffer)):
        piece = buffer[: min(len(buffer), span.stop - start)]
        _read_exactly(plain, start, piece)
        hasher.update(piece)


def _read_exactly(plain: Storage, position: int, into: memoryview) -> None:
    try:
        read = plain.read_at(position, into)
    except OSError as error:
        raise explain_os_error(error, "the plaintext", "read") from error
    if read < len(into):
        raise _changed()


def _changed() -> InputError:
    return InputError(
        "a file was changed while it was being read",
        hint="Let nothing write to it meanwhile, and run the command again.",
    )
