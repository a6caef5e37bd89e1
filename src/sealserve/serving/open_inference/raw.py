"""Tensors as ``raw_input_contents`` and ``raw_output_contents`` have them: little-endian, in row-major order.

An element of BYTES is its length, four bytes little-endian, and then itself.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from sealserve.serving.engine import Array
from sealserve.serving.errors import RequestError
from sealserve.serving.open_inference.datatypes import MAX_STRINGS, count_elements, find_datatype

Raw = bytes | memoryview
"""The contents of one tensor."""

_LENGTH = struct.Struct("<I")


def read_raw(datatype: str, shape: Sequence[int], data: Raw, *, tensor: str) -> Array:
    """Read a tensor; nothing is allocated for its shape before the data was counted against it.

    :param tensor: its name, for errors.
    :returns: a read-only array, without a copy of numbers; BYTES as an object array of ``bytes``.
    :raises RequestError: data and shape do not fit, or there is no such datatype.
    """
    item = find_datatype(datatype, tensor).item
    count = count_elements(shape, tensor)
    if item.kind == "O":
        array = _read_strings(data, count, tensor)
    elif len(data) != count * item.itemsize:
        raise RequestError(
            f"input {tensor}: the raw contents have {len(data)} bytes; {datatype} of shape {list(shape)} "
            f"has {count * item.itemsize}"
        )
    elif item.kind == "b":
        array = np.asarray(np.frombuffer(data, np.uint8) != 0)  # a byte other than 0 and 1 is no bool
    else:
        array = np.frombuffer(data, item)
    array = array.reshape(shape)
    array.flags.writeable = False
    return array


def write_raw(array: Array) -> bytes:
    """Write a tensor: numbers, or an object array of ``bytes``."""
    if array.dtype.kind in "OS":
        items = array.ravel().tolist()
        return b"".join(part for item in items for part in (_LENGTH.pack(len(item)), item))
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def _read_strings(data: Raw, count: int, tensor: str) -> Array:
    if count > MAX_STRINGS:
        raise RequestError(f"input {tensor} has {count} elements; at most {MAX_STRINGS} of BYTES are supported")
    array = np.empty(count, dtype=object)
    at = 0
    for index in range(count):
        begin = at + _LENGTH.size
        if begin > len(data):
            raise RequestError(f"input {tensor}: the raw contents end within element {index} of {count}")
        at = begin + _LENGTH.unpack_from(data, at)[0]
        if at > len(data):
            raise RequestError(f"input {tensor}: the raw contents end within element {index} of {count}")
        array[index] = bytes(data[begin:at])
    if at != len(data):
        raise RequestError(f"input {tensor}: the raw contents have {len(data) - at} bytes after its {count} elements")
    return array
