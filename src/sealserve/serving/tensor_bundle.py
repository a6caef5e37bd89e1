"""Variables of a SavedModel: TensorFlow's "tensor bundle", ``variables.index`` and ``variables.data-*``.

The index is a table of LevelDB's format (``doc/table_format.md`` of LevelDB, ``tensorflow/core/lib/io/format.cc``): its
keys are names, its values ``BundleEntryProto`` (``tensorflow/core/protobuf/tensor_bundle.proto``). TensorFlow writes it
without compression. Checksums are not looked at: what is read here was verified when it was unsealed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from sealserve.errors import ModelError
from sealserve.sealing.storage import DescriptorStorage
from sealserve.serving.model_files import ModelFiles
from sealserve.serving.tensor_slices import Extents, parse_part, parse_slice_key, size_of, within
from sealserve.wire.tensorflow_pb2 import BundleEntryProto, BundleHeaderProto, DataType
from sealserve.wire.tensors import TensorError, numpy_type, shape_of, type_name

INDEX_FILE = "variables/variables.index"

_FOOTER_SIZE = 48
_MOST_BYTES = 64 << 20  # of all keys and values: some hundred thousand variables
_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_HINT = "Export the model again; TensorFlow writes these files whole."
_ALIGNMENT = 64  # bytes: TensorFlow and OpenVINO copy arrays that lie otherwise

# Bytes of an element of types that NumPy does not have.
_OTHER_SIZES: dict[int, int] = {
    DataType.DT_QINT8: 1,
    DataType.DT_QUINT8: 1,
    DataType.DT_QINT16: 2,
    DataType.DT_QUINT16: 2,
    DataType.DT_QINT32: 4,
}

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class StoredTensor:
    """A variable's type (a ``DataType``), shape, and its elements as they stand in memory, little-endian.

    :ivar data: uint8, aligned to 64 bytes, not shared with anybody. Of strings: as the file has them.
    """

    data_type: int
    shape: tuple[int, ...]
    data: Bytes

    def strings(self) -> np.ndarray[Any, np.dtype[Any]]:
        """The elements of a tensor of strings, as ``bytes``. :raises ModelError: they are malformed."""
        data, count = self.data.tobytes(), math.prod(self.shape)
        at, lengths = 0, []
        array = np.empty(min(count, len(data)), dtype=object)  # each has a length
        try:
            for _ in range(count):
                length, at = _varint(data, at)
                lengths.append(length)
        except (IndexError, ValueError) as error:
            raise ModelError("a variable of strings is malformed", hint=_HINT) from error
        at += 4  # a checksum of the lengths
        if at + sum(lengths) != len(data):
            raise ModelError("a variable of strings is malformed", hint=_HINT)
        for index, length in enumerate(lengths):
            array[index] = data[at : at + length]
            at += length
        return array.reshape(self.shape)


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
            entries = dict(_table(file.read()))
            header = BundleHeaderProto.FromString(entries.pop(b""))
            self._slices: dict[bytes, dict[Extents, bytes]] = {}
            for key in [key for key in entries if key.startswith(b"\0")]:
                name, extents = parse_slice_key(key)
                self._slices.setdefault(name, {})[extents] = entries.pop(key)
        except (IndexError, KeyError, ValueError, DecodeError) as error:
            raise ModelError(f"{INDEX_FILE} cannot be read: {error}", hint=_HINT) from error
        if header.endianness != BundleHeaderProto.LITTLE:
            raise ModelError("the model's variables were written by a big-endian machine", hint=_HINT)
        self._entries = entries
        self._shards = header.num_shards

    def read(self, name: str, part: str = "") -> StoredTensor:
        """Read a variable.

        :param part: which part of it, as ``RestoreV2`` says it (``10 2 0,5:-``); all of it if empty.
        :raises ModelError: there is none of that name, or it cannot be read.
        """
        if name.encode() not in self._entries:
            raise ModelError(f"the model's variables lack {name}", hint=_HINT)
        entry = _entry(self._entries[name.encode()])
        shape = shape_of(entry.shape) or ()
        if min(shape, default=0) < 0:
            raise ModelError(f"{INDEX_FILE} cannot be read: {name} has no shape", hint=_HINT)
        try:
            if not part and not entry.slices:
                return StoredTensor(entry.dtype, shape, self._data(name, entry, math.prod(shape)))
            whole, wanted = parse_part(part) if part else (shape, tuple((0, -1) for _ in shape))
            return self._assemble(name, entry, whole, wanted)
        except ValueError as error:
            which = f"the part {part!r} of the variable" if part else "the variable"
            raise ModelError(f"{which} {name} cannot be read: {error}", hint=_HINT) from error
        except MemoryError as error:
            raise ModelError(f"the variable {name} does not fit into memory: its shape is {shape}") from error

    def _assemble(self, name: str, entry: BundleEntryProto, shape: tuple[int, ...], wanted: Extents) -> StoredTensor:
        """A part of what is stored whole or in parts."""
        if shape != shape_of(entry.shape):
            raise ValueError("it has another shape")
        item_size = _item_size(entry.dtype, name)
        if not item_size:
            raise ValueError("its elements have no fixed size")
        stored = self._slices.get(name.encode(), {}) if entry.slices else {tuple((0, -1) for _ in shape): None}
        size = size_of(wanted, shape)
        overlaps = [(extents, value, within(wanted, extents, shape)) for extents, value in stored.items()]
        # Before memory is taken for it.
        if sum(overlap[2] for _, _, overlap in overlaps if overlap is not None) != math.prod(size):
            raise ValueError("not all of it is stored, or its parts overlap")
        kind = np.dtype((np.void, item_size))
        data = aligned(math.prod(size) * item_size)
        target = data.view(kind).reshape(size)
        written = np.zeros(size, dtype=bool)  # where two parts overlap, as many elements are in none
        for extents, value, overlap in overlaps:
            if overlap is None:
                continue
            there, here, _ = overlap
            if written[there].any():
                raise ValueError("its parts overlap")
            written[there] = True
            one, source_size = entry if value is None else _entry(value), size_of(extents, shape)
            if one.dtype != entry.dtype:
                raise ValueError(f"a part is {type_name(one.dtype)}, and the whole {type_name(entry.dtype)}")
            source = self._data(name, one, math.prod(source_size))
            target[there] = source.view(kind).reshape(source_size)[here]
        return StoredTensor(entry.dtype, size, data)

    def _data(self, name: str, entry: BundleEntryProto, count: int) -> Bytes:
        """The bytes of ``count`` elements."""
        item_size = _item_size(entry.dtype, name)
        shard = f"variables/variables.data-{entry.shard_id:05}-of-{self._shards:05}"
        if shard not in self._files:
            raise ModelError(f"the model has no {shard}", hint=_HINT)
        if entry.offset < 0 or entry.size < 0:
            raise ModelError(f"{INDEX_FILE} cannot be read: {name} lies nowhere", hint=_HINT)
        if item_size and entry.size != count * item_size:
            raise ValueError(f"its {count} elements have {entry.size} bytes")
        descriptor = self._files[shard].fileno()
        # Before memory is taken for what the index says.
        if entry.offset + entry.size > os.fstat(descriptor).st_size:
            raise ModelError(f"{shard} is cut short", hint=_HINT)
        data = aligned(entry.size)
        if DescriptorStorage(descriptor).read_at(entry.offset, data.data) < entry.size:
            raise ModelError(f"{shard} is cut short", hint=_HINT)
        return data


def _item_size(data_type: int, name: str) -> int:
    """Bytes of an element; 0 for a string. :raises ModelError: elements of that type stand in no file."""
    if data_type == DataType.DT_STRING:
        return 0
    if data_type in _OTHER_SIZES:
        return _OTHER_SIZES[data_type]
    try:
        return numpy_type(data_type).itemsize
    except TensorError as error:
        raise ModelError(
            f"the variable {name} holds {type_name(data_type)}, which cannot be read from outside TensorFlow",
            hint="Export the model without it.",
        ) from error


def aligned(size: int) -> Bytes:
    """Memory as :class:`StoredTensor` has it; what is in it is undefined."""
    data = np.empty(size + _ALIGNMENT, dtype=np.uint8)
    start = -data.ctypes.data % _ALIGNMENT
    return data[start : start + size]


def _entry(data: bytes) -> BundleEntryProto:
    try:
        return BundleEntryProto.FromString(data)
    except DecodeError as error:
        raise ModelError(f"{INDEX_FILE} cannot be read: {error}", hint=_HINT) from error


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
