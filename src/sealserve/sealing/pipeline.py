"""One pass over plaintext with its SHA-256 computed beside it, in a thread: hashing releases the interpreter's lock."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable
from typing import Final

from sealserve.sealing.layout import GROUP_PLAIN, HEAD
from sealserve.sealing.reader import EncryptedReader

PIECE: Final = 4 * GROUP_PLAIN
"""Bytes that are decrypted, written and hashed at a time (1.5 MB)."""
_BUFFERS: Final = 3


class _Hasher:
    """SHA-256 in the calling thread; also the interface of the one with a thread of its own."""

    def __init__(self, buffer_size: int) -> None:
        self._hash = hashlib.sha256()
        self._buffer = memoryview(bytearray(buffer_size))

    def buffer(self) -> memoryview:
        """A buffer to fill."""
        return self._buffer

    def put(self, buffer: memoryview, used: int) -> None:
        """Hash the first ``used`` bytes of a buffer, which must not be touched any more."""
        self._hash.update(buffer[:used])

    def finish(self) -> bytes:
        """The digest of everything."""
        return self._hash.digest()


class _HashingThread(_Hasher):
    """Hashes buffers in the order in which they are given, and hands them out again."""

    def __init__(self) -> None:
        super().__init__(0)
        self._filled: queue.SimpleQueue[tuple[memoryview, int] | None] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        for _ in range(_BUFFERS):
            self._free.put(memoryview(bytearray(PIECE)))
        self._thread = threading.Thread(target=self._run, name="sealserve-sha256", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (item := self._filled.get()) is not None:
            buffer, used = item
            self._hash.update(buffer[:used])
            self._free.put(buffer)

    def buffer(self) -> memoryview:
        return self._free.get()

    def put(self, buffer: memoryview, used: int) -> None:
        self._filled.put((buffer, used))

    def finish(self) -> bytes:
        self._filled.put(None)
        self._thread.join()
        return super().finish()


class _NoHash(_Hasher):
    def put(self, buffer: memoryview, used: int) -> None:
        pass

    def finish(self) -> bytes:
        return b""


def copy_plaintext(
    reader: EncryptedReader,
    write: Callable[[memoryview], object] | None,
    *,
    digest: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> bytes:
    """Decrypt everything from the beginning and give it to ``write`` piece by piece.

    :param write: takes all of its argument, which is valid only during the call; None to decrypt only.
    :param digest: compute the SHA-256; else the result is empty.
    :returns: the SHA-256 of the plaintext.
    """
    size = reader.size
    hasher: _Hasher
    if not digest:
        hasher = _NoHash(min(PIECE, size))
    elif size <= PIECE:
        hasher = _Hasher(size)
    else:
        hasher = _HashingThread()
    position = 0
    try:
        while position < size:
            buffer = hasher.buffer()
            used = min(len(buffer), size - position)
            if position == 0 and used < size:
                used -= GROUP_PLAIN - HEAD  # so that all further pieces begin where a group begins
            piece = buffer[:used]
            reader.pread_into(position, piece)
            if write:
                write(piece)
            hasher.put(buffer, used)
            position += used
            if progress:
                progress(position, size)
    finally:
        result = hasher.finish()
    return result
