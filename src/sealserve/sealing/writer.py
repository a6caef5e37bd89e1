"""Writing an encrypted file from a stream of unknown length."""

from __future__ import annotations

import io
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self

from sealserve.sealing.keys import check_wrap_key
from sealserve.sealing.layout import (
    ENTRY,
    GROUP_PLAIN,
    HEAD,
    KEY,
    NODE,
    FormatVersion,
    mht_offset,
)
from sealserve.sealing.metadata import Metadata, make_metadata
from sealserve.sealing.nodes import GroupEncryptor
from sealserve.sealing.paths import embeddable
from sealserve.sealing.storage import Storage, storage_of
from sealserve.sealing.tree import TreeBuilder
from sealserve.secret import Secret

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class GroupWriter:
    """Encrypts groups, in any order, and puts them into their places with their MHT nodes parked."""

    def __init__(self, storage: Storage, tree: TreeBuilder) -> None:
        self._storage = storage
        self._tree = tree
        self._encryptor = GroupEncryptor()
        self.plain = self._encryptor.plain
        """Where the caller puts the plaintext of a group, 393,216 bytes."""

    def write(self, mht: int, used: int) -> None:
        """Write group ``mht`` with the first ``used`` bytes of ``plain``; all must be used except in the last group."""
        nodes = self._encryptor.encrypt(used)
        sealed = self._encryptor.sealed
        self._tree.park(mht, self._encryptor.table, sealed[:NODE])
        self._storage.write_at(mht_offset(mht), sealed[: (nodes + 1) * NODE])


def write_metadata(
    storage: Storage, key: Secret, *, path: bytes, size: int, head: bytes, root: bytes, version: FormatVersion
) -> None:
    """Write the metadata node, which makes the file complete.

    :param root: the entry of MHT node 0; empty if there is none.
    """
    root = root or bytes(ENTRY)
    node = make_metadata(Metadata(path, size, root[:KEY], root[KEY:], head), key, version)
    storage.write_at(0, node)


class EncryptedWriter(io.RawIOBase):
    """Encrypts what is written to it, with about 800 kB of memory whatever the length.

    The file is complete only after :meth:`close`; before, it does not open. Leaving a ``with`` block by an exception
    leaves it incomplete.

    :param file: a seekable binary file open for reading and writing; its old content is cut off. It is not closed.
    :param key: the wrap key, 16 bytes; kept until the writer is closed.
    :param path: the path under which the file will be opened; embedded normalised.
    :param version: the format version, 2 (Gramine 1.9 and later) or 1.
    :raises EmbeddedPathError: the path cannot be embedded. :raises KeyFileError: the key has not 16 bytes.
    """

    def __init__(self, file: BinaryIO, key: Secret, path: str, *, version: FormatVersion = 2) -> None:
        super().__init__()
        self._key = check_wrap_key(key)
        self._path = embeddable(path)
        self._version: FormatVersion = version
        self._file = file
        self._storage = storage_of(file)
        self._storage.truncate(0)
        self._tree = TreeBuilder()
        self._groups = GroupWriter(self._storage, self._tree)
        self._head = bytearray()
        self._used = 0
        self._next = 0
        self._aborted = False
        self.size: int = 0
        """How many bytes of plaintext were written."""

    def writable(self) -> bool:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        """Take all of ``data``."""
        self.writable()
        rest = memoryview(data).cast("B")
        length = len(rest)
        if len(self._head) < HEAD:
            take = min(HEAD - len(self._head), length)
            self._head += rest[:take]
            rest = rest[take:]
        while rest:
            take = min(GROUP_PLAIN - self._used, len(rest))
            self._groups.plain[self._used : self._used + take] = rest[:take]
            self._used += take
            rest = rest[take:]
            if self._used == GROUP_PLAIN:
                self._write_group()
        self.size += length
        return length

    def _write_group(self) -> None:
        self._groups.write(self._next, self._used)
        self._next += 1
        self._used = 0

    def close(self) -> None:
        """Write what is left, the hash tree and the metadata node. Closing twice is fine."""
        if self.closed:
            return
        try:
            if not self._aborted:
                self._finish()
        finally:
            super().close()

    def _finish(self) -> None:
        if self._used:
            self._write_group()
        root = self._tree.finish(self._storage, 0, self._next) if self._next else b""
        write_metadata(
            self._storage,
            self._key,
            path=self._path,
            size=self.size,
            head=bytes(self._head),
            root=root,
            version=self._version,
        )

    def abort(self) -> None:
        """Give up: the file stays incomplete and does not open."""
        self._aborted = True
        self.close()

    def __enter__(self) -> Self:
        self.writable()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.abort()
        else:
            self.close()

    def __del__(self) -> None:
        # A forgotten writer must not pretend that its file is complete.
        self._aborted = True
        super().__del__()
