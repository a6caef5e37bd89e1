"""Tensors as ``InferTensorContents`` has them: a list of values, in the field of their type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sealserve.serving.engine import Array
from sealserve.serving.errors import RequestError
from sealserve.serving.open_inference.datatypes import DATATYPES, MAX_STRINGS, count_elements, find_datatype
from sealserve.wire.bfloat16 import BFLOAT16, narrow
from sealserve.wire.open_inference_pb2 import InferTensorContents

_PART = 1 << 16  # elements: no other thread runs while one part is read
_PACKED: dict[str, np.dtype[Any]] = {
    "fp32_contents": np.dtype("<f4"),
    "fp64_contents": np.dtype("<f8"),
}  # their wire form is the array itself


def read_contents(datatype: str, shape: Sequence[int], contents: InferTensorContents, *, tensor: str) -> Array:
    """Read a tensor; nothing is allocated for its shape before the values were counted against it.

    :param tensor: its name, for errors.
    :returns: a read-only array; FP16 and BF16 are read from ``fp32_contents``.
    :raises RequestError: values and shape do not fit, a value is out of range or in another field, or there is no such
        datatype.
    """
    kind = find_datatype(datatype, tensor)
    count = count_elements(shape, tensor)
    for field, _ in contents.ListFields():
        if field.name != kind.field:
            raise RequestError(f"input {tensor} is {datatype}, and its values are in {field.name}: use {kind.field}")
    values = getattr(contents, kind.field)
    if len(values) != count:
        raise RequestError(f"input {tensor} has {len(values)} values; its shape {list(shape)} has {count}")
    array = _read(values, kind.field, kind.item, tensor).reshape(shape)
    array.flags.writeable = False
    return array


def write_contents(array: Array, datatype: str) -> InferTensorContents:
    """Write a tensor of any datatype but FP16 and BF16, which have no field."""
    contents, field = InferTensorContents(), DATATYPES[datatype].field
    if array.size and field in _PACKED:
        number = InferTensorContents.DESCRIPTOR.fields_by_name[field].number
        data = np.ascontiguousarray(array, _PACKED[field]).tobytes()
        contents.MergeFromString(_varint(number << 3 | 2) + _varint(len(data)) + data)
    else:
        getattr(contents, field).extend(array.ravel().tolist())
    return contents


def _read(values: Any, field: str, item: np.dtype[Any], tensor: str) -> Array:
    if field in _PACKED:
        # Serializing the list alone gives its tag, its length and the values: no Python object for each.
        data = InferTensorContents(**{field: values}).SerializeToString() if len(values) else b""
        size = len(values) * _PACKED[field].itemsize
        numbers = np.frombuffer(data, _PACKED[field], offset=len(data) - size)
        if item == BFLOAT16:
            return narrow(numbers)
        with np.errstate(over="ignore"):  # what is too large for FP16 is infinite
            return np.asarray(numbers.astype(item, copy=False))
    array = np.empty(len(values), dtype=item)
    if item.kind == "O":
        if len(values) > MAX_STRINGS:
            raise RequestError(f"input {tensor} has more than {MAX_STRINGS} elements of BYTES")
        array[:] = list(values)
        return array
    try:
        for at in range(0, len(values), _PART):
            part = values[at : at + _PART]
            array[at : at + len(part)] = np.fromiter(part, dtype=item, count=len(part))
    except OverflowError as error:
        raise RequestError(f"input {tensor} has a value out of the range of {item.name}") from error
    return array


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])
