"""Reading an encrypted file as a seekable binary file object."""

from __future__ import annotations

import io
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

from sealserve.errors import SealError
from sealserve.files import explain_os_error
from sealserve.sealing.errors import SealedLengthError, SealedPathError, named
from sealserve.sealing.layout import (
    DATA_PER_MHT,
    ENTRY,
    HEAD,
    NODE,
    FormatVersion,
    child_slot,
    data_nodes,
    data_offset,
    mht_offset,
    mht_parent,
    sealed_size,
)
from sealserve.sealing.metadata import open_metadata
from sealserve.sealing.nodes import NodeDecryptor, decrypt_node
from sealserve.sealing.paths import normalise_path
from sealserve.sealing.storage import Storage, open_regular, storage_of
from sealserve.secret import Secret

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_CACHED_TABLES = 64


class EncryptedReader(io.RawIOBase):
    """The plaintext of an encrypted file: read-only, seekable, at most about 1.2 MB of memory whatever the size.

    Every byte it gives out was authenticated first; what is on disk behind the last node is refused. It is not safe for
    several threads at once: give each its own reader.

    :param file: a seekable binary file open for reading. It is read at positions from its beginning.
    :param key: the wrap key, 16 bytes; not kept.
    :param expected_path: refuse the file unless this path, normalised, is the embedded one.
    :param allow_trailing: accept bytes behind the last node, which nothing authenticates, and ignore them. Gramine's
        tool leaves such behind when it writes over a larger file.
    :param close_file: close ``file`` together with the reader.
    :raises SealError: a subclass by cause, here and on every read. :raises InputError: reading ``file`` failed.
    """

    def __init__(
        self,
        file: BinaryIO,
        key: Secret,
        *,
        expected_path: str | None = None,
        allow_trailing: bool = False,
        close_file: bool = False,
    ) -> None:
        super().__init__()
        self._file = file
        self._close_file = close_file
        self._storage: Storage = storage_of(file)
        name = getattr(file, "name", "")
        self._label = str(name) if isinstance(name, str | Path) else ""
        self._tables: OrderedDict[int, memoryview] = OrderedDict()
        node = bytearray(NODE)
        read = self._read_at(0, memoryview(node))
        try:
            self.preamble, self._metadata = open_metadata(node[:read], key)
            self._check_length(allow_trailing)
            self._check_path(expected_path)
        except SealError as error:
            raise named(error, self._label) from None
        self.version: FormatVersion = self.preamble.version
        self.identity: bytes = self.preamble.identity
        """48 bytes that tell this sealing of the file from every other under the same wrap key."""
        self.size: int = self._metadata.size
        """Bytes of plaintext."""
        self._position = 0
        self._decryptor: NodeDecryptor | None = None
        self._scratch = memoryview(bytearray(NODE))
        self._scratch_node = -1

    @classmethod
    def open(
        cls, path: Path, key: Secret, *, expected_path: str | None = None, allow_trailing: bool = False
    ) -> EncryptedReader:
        """Open the file at ``path``; it is closed together with the reader.

        :raises InputError: it cannot be opened, or is no regular file.
        """
        file = open_regular(path, follow_links=True)
        try:
            return cls(file, key, expected_path=expected_path, allow_trailing=allow_trailing, close_file=True)
        except BaseException:
            file.close()
            raise

    @property
    def path(self) -> str:
        """The embedded path, as it stands in the file."""
        return self._metadata.path.decode(errors="surrogateescape")

    @property
    def head(self) -> bytes:
        """The first bytes of the plaintext, at most 3,072: no further node is read for them."""
        return self._metadata.head[: self.size]

    @property
    def storage(self) -> Storage:
        """Where the encrypted bytes come from."""
        return self._storage

    def _check_length(self, allow_trailing: bool) -> None:
        length, needed = self._storage.size(), sealed_size(self._metadata.size)
        if length < needed:
            raise SealedLengthError(
                f"the encrypted file was cut off: it has {length} bytes and needs {needed}",
                hint="The copy is incomplete: copy the file again.",
            )
        if length > needed and not allow_trailing:
            raise SealedLengthError(
                f"the encrypted file has {length} bytes where {needed} are authenticated",
                hint="Something was appended, or Gramine's tool wrote it over a larger file: copy or seal it again.",
            )

    def _check_path(self, expected: str | None) -> None:
        if expected is None:
            return
        wanted = normalise_path(expected)
        if wanted.encode(errors="surrogateescape") != self._metadata.path:
            raise SealedPathError(
                f"the encrypted file was sealed for the path {self.path!r}, not for {wanted!r}",
                hint="Open it under the path it was sealed for, or seal it again for this one.",
            )

    # --- as a file object -----------------------------------------------------------------------------------------

    def readable(self) -> bool:
        self._open()
        return True

    def seekable(self) -> bool:
        self._open()
        return True

    def tell(self) -> int:
        self._open()
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._open()
        match whence:
            case io.SEEK_SET:
                position = offset
            case io.SEEK_CUR:
                position = self._position + offset
            case io.SEEK_END:
                position = self.size + offset
            case _:
                raise ValueError(f"invalid whence ({whence})")
        if position < 0:
            raise ValueError(f"negative seek position {position}")
        self._position = position
        return position

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to ``size`` bytes; all that is left if it is negative or None."""
        self._open()
        left = max(0, self.size - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        buffer = bytearray(wanted)
        self.readinto(buffer)
        return bytes(buffer)

    def readall(self) -> bytes:
        return self.read(-1)

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill ``buffer`` from the position, as far as the plaintext goes; return how many bytes that were."""
        self._open()
        into = memoryview(buffer).cast("B")
        done = self.pread_into(self._position, into)
        self._position += done
        return done

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._tables.clear()
            if self._close_file:
                self._file.close()

    def _open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def __enter__(self) -> Self:
        self._open()
        return self

    # --- nodes ----------------------------------------------------------------------------------------------------

    def pread_into(self, position: int, into: memoryview) -> int:
        """Like :meth:`readinto`, from ``position``; the reader's own position stays."""
        try:
            return self._pread_into(position, into)
        except SealError as error:
            raise named(error, self._label) from None

    def _pread_into(self, position: int, into: memoryview) -> int:
        total = max(0, min(len(into), self.size - position))
        done = 0
        if position < HEAD and total:
            done = min(total, HEAD - position)
            into[:done] = self._metadata.head[position : position + done]
        while done < total:
            node, inside = divmod(position + done - HEAD, NODE)
            whole = (total - done) // NODE
            if inside or not whole or node == self._scratch_node:
                if node != self._scratch_node:
                    self._scratch_node = -1
                    self._read_nodes(node, 1, self._scratch)
                    self._scratch_node = node
                take = min(NODE - inside, total - done)
                into[done : done + take] = self._scratch[inside : inside + take]
            else:
                count = min(whole, DATA_PER_MHT - node % DATA_PER_MHT)
                take = count * NODE
                self._read_nodes(node, count, into[done : done + take])
            done += take
        return done

    def read_group(self, mht: int) -> memoryview:
        """The plaintext of group ``mht``, in a buffer that the next read uses again: up to 393,216 bytes."""
        first = mht * DATA_PER_MHT
        count = min(DATA_PER_MHT, data_nodes(self.size) - first)
        try:
            plain = self._read_nodes(first, count, None)
        except SealError as error:
            raise named(error, self._label) from None
        return plain[: self.size - HEAD - first * NODE]

    def _read_nodes(self, node: int, count: int, into: memoryview | None) -> memoryview:
        """Decrypt ``count`` data nodes of one group."""
        mht, slot = divmod(node, DATA_PER_MHT)
        table = self._table(mht)
        if self._decryptor is None:
            self._decryptor = NodeDecryptor()
        sealed = self._decryptor.sealed(count)
        if self._read_at(data_offset(node), sealed) < len(sealed):
            raise self._cut_off()
        return self._decryptor.decrypt(table[slot * ENTRY : (slot + count) * ENTRY], count, into)

    def _table(self, mht: int) -> memoryview:
        """An MHT node in the clear: its parents are opened first, down from the metadata node."""
        if mht in self._tables:
            self._tables.move_to_end(mht)
            return self._tables[mht]
        if mht == 0:
            entry = memoryview(self._metadata.root_key + self._metadata.root_tag)
        else:
            parent, slot = mht_parent(mht)
            entry = self._table(parent)[child_slot(slot)]
        sealed = bytearray(NODE)
        if self._read_at(mht_offset(mht), memoryview(sealed)) < NODE:
            raise self._cut_off()
        table = memoryview(bytearray(NODE))
        decrypt_node(sealed, entry, table)
        while len(self._tables) >= _CACHED_TABLES:
            self._tables.popitem(last=False)
        self._tables[mht] = table
        return table

    def _read_at(self, position: int, into: memoryview) -> int:
        try:
            return self._storage.read_at(position, into)
        except OSError as error:
            raise explain_os_error(error, self._label or "the encrypted file", "read") from error

    @staticmethod
    def _cut_off() -> SealedLengthError:
        return SealedLengthError("the encrypted file was cut off while it was read", hint="Copy the file again.")
