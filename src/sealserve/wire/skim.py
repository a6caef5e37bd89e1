"""What a serialized message would take once parsed, found without parsing it.

Two bytes can become 144: an empty entry of a map is one. The parser makes them all before anybody can count, and lets
no other thread run meanwhile. So fields are counted first, by the wire format
(https://protobuf.dev/programming-guides/encoding) and the type's descriptor; what has a length is stepped over.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from sealserve.errors import InputError

MAX_FIELDS = 100_000
"""How many fields a message may have, those of messages inside it and each element of a list of strings included."""

MAX_ENTRIES = 1000
"""How many entries all maps of a message may have."""

_FIELD_BYTES = 160  # what a field without contents takes at most: an entry of a map, 144 (protobuf 6 and 7)
_GROWTH = 2  # a list takes up to twice its size while it grows
_MAX_TAG = (1 << 32) - 1
_MAX_DEPTH = 100  # the parser's own limit
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_STEPS = {_FIXED64: 8, _FIXED32: 4}
_SKIPPED = frozenset(  # what takes no more than its bytes
    {
        FieldDescriptor.TYPE_STRING,
        FieldDescriptor.TYPE_BYTES,
        FieldDescriptor.TYPE_FLOAT,
        FieldDescriptor.TYPE_DOUBLE,
        FieldDescriptor.TYPE_FIXED32,
        FieldDescriptor.TYPE_FIXED64,
        FieldDescriptor.TYPE_SFIXED32,
        FieldDescriptor.TYPE_SFIXED64,
    }
)


_SIZES = {FieldDescriptor.TYPE_BOOL: 1} | dict.fromkeys(
    (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_SINT64), 8
)  # of variable-length numbers once parsed; the others have 4


class SkimError(InputError):
    """A message would take more than it may."""


@dataclass(frozen=True)
class _Field:
    """A field that has a length and takes more than that: a message, or a packed list of variable-length numbers.

    :ivar item_size: bytes of one number.
    """

    message: Descriptor | None
    is_map: bool = False
    item_size: int = 0


def skim(
    data: bytes,
    message_type: type[Message],
    *,
    max_bytes: int,
    max_fields: int = MAX_FIELDS,
    max_entries: int = MAX_ENTRIES,
) -> int:
    """Look through a serialized message.

    :param max_bytes: what the bytes of the message and its packed lists of numbers may take.
    :param max_fields: how many fields it may have; :param max_entries: and entries of maps.
    :returns: how many bytes it takes at most, with its fields.
    :raises SkimError: it is above a bound. :raises DecodeError: it is malformed, or has groups (which proto3 has not).
    """
    count = _Count(len(data), max_bytes, max_fields, max_entries)
    at, end, known = 0, len(data), _fields(message_type.DESCRIPTOR)
    around: list[tuple[int, dict[int, _Field]]] = []  # the messages around this one
    while at < end or around:
        if at == end:
            end, known = around.pop()
            continue
        tag, at = _varint(data, at, end)
        count.field()
        if tag & 7 != _LENGTH:
            at = _step(data, at, end, tag & 7)
            continue
        length, at = _varint(data, at, end)
        if length > end - at or tag > _MAX_TAG:
            raise DecodeError("a field is longer than the message that it is in, or has no number")
        field = known.get(tag >> 3)
        if field is not None and field.message is not None:
            count.entries(int(field.is_map))
            if len(around) == _MAX_DEPTH:
                raise DecodeError("the message is nested too deeply")
            around.append((end, known))
            end, known = at + length, _fields(field.message)
            continue
        if field is not None and length:
            numbers = np.count_nonzero(np.frombuffer(data, np.uint8, length, at) < 0x80)
            count.bytes(int(numbers) * field.item_size * _GROWTH)
        at += length
    return count.taken


class _Count:
    """What a message takes. :raises SkimError: with each method, it is too much."""

    def __init__(self, taken: int, max_bytes: int, max_fields: int, max_entries: int) -> None:
        self.taken = taken
        self._left = max_bytes - taken
        self._max_fields, self._max_entries = max_fields, max_entries
        self._fields = self._entries = 0

    def field(self) -> None:
        self._fields += 1
        self.taken += _FIELD_BYTES
        if self._fields > self._max_fields:
            raise SkimError(f"the message has more than {self._max_fields} fields")

    def entries(self, number: int) -> None:
        self._entries += number
        if self._entries > self._max_entries:
            raise SkimError(f"the message has more than {self._max_entries} entries of maps")

    def bytes(self, number: int) -> None:
        self.taken += number
        self._left -= number
        if self._left < 0:
            raise SkimError("the message's lists of numbers take more memory than it may: send them as tensor_content")


@functools.cache
def _fields(message: Descriptor) -> dict[int, _Field]:
    found: dict[int, _Field] = {}
    for field in message.fields:
        inner: Any = field.message_type
        if inner is not None:
            found[field.number] = _Field(inner, is_map=bool(inner.GetOptions().map_entry))
        elif field.type not in _SKIPPED:
            found[field.number] = _Field(None, item_size=_SIZES.get(field.type, 4))
    return found


def _step(data: bytes, at: int, end: int, wire_type: int) -> int:
    """Where the next field begins."""
    if wire_type == _VARINT:
        return _varint(data, at, end)[1]
    if wire_type not in _STEPS or _STEPS[wire_type] > end - at:
        raise DecodeError("a field is cut short, or has no known form")
    return at + _STEPS[wire_type]


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        if byte < 0x80:
            return value | byte << shift, at
        value |= (byte & 0x7F) << shift
        shift += 7
        if shift == 70:
            break
    raise DecodeError("a number has no end")
