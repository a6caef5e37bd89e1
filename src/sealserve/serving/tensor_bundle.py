"""Variables of a SavedModel: TensorFlow's "tensor bundle", ``variables.index`` and ``variables.data-*``.

The index is a table of LevelDB's format (``doc/table_format.md`` of LevelDB, ``tensorflow/core/lib/io/format.cc``): its
keys are names, its values ``BundleEntryProto`` (``tensorflow/core/protobuf/tensor_bundle.proto``). TensorFlow writes it
without compression. Checksums are not looked at: what is read here was verified when it was unsealed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from sealserve.errors import ModelError
from sealserve.serving.model_files import ModelFiles
from sealserve.wire.tensorflow_pb2 import BundleEntryProto, BundleHeaderProto, DataType, TensorShapeProto

INDEX_FILE = "variables/variables.index"

_FOOTER_SIZE = 48
_MOST_BYTES = 64 << 20  # of all keys and values: some hundred thousand variables
_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_HINT = "Export the model again; TensorFlow writes these files whole."


@dataclass(frozen=True)
class StoredTensor:
    """A variable's type (a ``DataType``), shape, and its elements as they stand in memory, little-endian."""

    data_type: int
    shape: TensorShapeProto
    data: bytes


class TensorBundle:
    """The variables of one model version.

    :raises ModelError: there are none, or the index cannot be read.
    """

    def __init__(self, files: ModelFiles) -> None:
        self._files = files
        if INDEX_FILE not in files:
            raise ModelError(f"the model has variables, but no {INDEX_FILE}", hint=_HINT)
        file = files[INDEX_FILE]
        file.seek(0)
        try:
            self._entries = dict(_table(file.read()))
            header = BundleHeaderProto.FromString(self._entries.pop(b""))
        except (IndexError, KeyError, ValueError, DecodeError) as error:
            raise ModelError(f"{INDEX_FILE} cannot be read: {error}", hint=_HINT) from error
        if header.endianness != BundleHeaderProto.LITTLE:
            raise ModelError("the model's variables were written by a big-endian machine", hint=_HINT)
        self._shards = header.num_shards

    def read(self, name: str) -> StoredTensor:
        """Read a variable. :raises ModelError: there is none of that name, or it cannot be read."""
        if name.encode() not in self._entries:
            raise ModelError(f"the model's variables lack {name}", hint=_HINT)
        try:
            entry = BundleEntryProto.FromString(self._entries[name.encode()])
        except DecodeError as error:
            raise ModelError(f"{INDEX_FILE} cannot be read: {error}", hint=_HINT) from error
        if entry.slices or entry.dtype in {DataType.DT_STRING, DataType.DT_VARIANT, DataType.DT_RESOURCE}:
            kind = "is stored in parts" if entry.slices else f"holds {DataType.Name(entry.dtype)}"
            raise ModelError(
                f"the variable {name} {kind}, which the engine cannot read",
                hint="Export the model without it, or use an engine with TensorFlow's own operations.",
            )
        shard = f"variables/variables.data-{entry.shard_id:05}-of-{self._shards:05}"
        if shard not in self._files:
            raise ModelError(f"the model has no {shard}", hint=_HINT)
        if entry.offset < 0 or entry.size < 0:
            raise ModelError(f"{INDEX_FILE} cannot be read: {name} lies nowhere", hint=_HINT)
        data = os.pread(self._files[shard].fileno(), entry.size, entry.offset)
        if len(data) != entry.size:
            raise ModelError(f"{shard} is cut short", hint=_HINT)
        return StoredTensor(entry.dtype, entry.shape, data)


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    if len(data) < _FOOTER_SIZE or data[-8:] != _MAGIC:
        raise ValueError("it is no table")
    footer = data[-_FOOTER_SIZE:]
    _, at = _handle(footer, 0)  # of an index that TensorFlow does not use
    index, _ = _handle(footer, at)
    left, unread = _MOST_BYTES, len(data)
    for _, value in _block(data, index):
        handle, _ = _handle(value, 0)
        unread -= handle[1]
        if unread < 0:
            raise ValueError("its blocks overlap")
        for key, content in _block(data, handle):
            # A key of one byte in the file can have thousands in common with the key before it.
            left -= len(key) + len(content)
            if left < 0:
                raise ValueError(f"its entries have more than {_MOST_BYTES} bytes")
            yield key, content


def _block(data: bytes, handle: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values; a key gives only what differs from the key before it."""
    offset, size = handle
    block, compression = data[offset : offset + size], data[offset + size]
    if compression:
        raise ValueError("it is compressed")
    restarts = int.from_bytes(block[-4:], "little")
    end, at, key = size - 4 * (restarts + 1), 0, b""
    while at < end:
        shared, at = _varint(block, at)
        unshared, at = _varint(block, at)
        length, at = _varint(block, at)
        if shared > len(key) or at + unshared + length > end:
            raise ValueError("an entry leaves its block")
        key = key[:shared] + block[at : at + unshared]
        yield key, block[at + unshared : at + unshared + length]
        at += unshared + length


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
