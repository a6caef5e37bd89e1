"""``tensorflow.TensorProto`` to NumPy and back, as TensorFlow does it.

The source of the rules is TensorFlow itself: ``tensorflow/core/framework/tensor.proto`` says that a tensor's elements
stand either in ``tensor_content`` (raw, little-endian) or in the list of its type, and that the last value of a list
that is too short repeats. What is read here came from somebody else: no memory is taken for a declared shape before
the data that is there was counted against it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError, EncodeError

from sealserve.errors import InputError
from sealserve.wire.bfloat16 import BFLOAT16, is_bfloat16
from sealserve.wire.tensorflow_pb2 import DataType, TensorProto, TensorShapeProto

Array = np.ndarray[Any, np.dtype[Any]]

MAX_BYTES = 1 << 28
"""How large a tensor may become that is declared larger than the data it came with (bytes)."""

_MAX_DIMENSIONS = 64  # NumPy's own limit; TensorFlow's is 254
_MAX_INT64 = (1 << 63) - 1
_PART = 1 << 16  # elements
_MAX_STRINGS = 100_000  # of one tensor_content: each becomes an object

# TensorFlow's type → NumPy's type, and the field that holds its values.
_TYPES: dict[int, tuple[np.dtype[Any], str]] = {
    DataType.DT_FLOAT: (np.dtype("<f4"), "float_val"),
    DataType.DT_DOUBLE: (np.dtype("<f8"), "double_val"),
    DataType.DT_HALF: (np.dtype("<f2"), "half_val"),
    DataType.DT_BFLOAT16: (BFLOAT16, "half_val"),
    DataType.DT_INT8: (np.dtype("i1"), "int_val"),
    DataType.DT_INT16: (np.dtype("<i2"), "int_val"),
    DataType.DT_INT32: (np.dtype("<i4"), "int_val"),
    DataType.DT_INT64: (np.dtype("<i8"), "int64_val"),
    DataType.DT_UINT8: (np.dtype("u1"), "int_val"),
    DataType.DT_UINT16: (np.dtype("<u2"), "int_val"),
    DataType.DT_UINT32: (np.dtype("<u4"), "uint32_val"),
    DataType.DT_UINT64: (np.dtype("<u8"), "uint64_val"),
    DataType.DT_BOOL: (np.dtype("?"), "bool_val"),
    DataType.DT_COMPLEX64: (np.dtype("<c8"), "scomplex_val"),
    DataType.DT_COMPLEX128: (np.dtype("<c16"), "dcomplex_val"),
    DataType.DT_STRING: (np.dtype(object), "string_val"),
}
_FROM_NUMPY = {dtype: int(number) for number, (dtype, _) in _TYPES.items()}

# Fields whose wire form is the array itself (packed fixed-size values): field number and the type of one value.
_PACKED: dict[str, tuple[int, np.dtype[Any]]] = {
    "float_val": (5, np.dtype("<f4")),
    "double_val": (6, np.dtype("<f8")),
    "scomplex_val": (9, np.dtype("<f4")),
    "dcomplex_val": (12, np.dtype("<f8")),
}


class TensorError(InputError):
    """A tensor is malformed, too large, or of a type that has no counterpart in NumPy."""


def type_name(data_type: int) -> str:
    """TensorFlow's name of a type, without its prefix: ``float``, ``uint8``, ``string``."""
    try:
        return DataType.Name(data_type).removeprefix("DT_").lower()
    except ValueError:
        return f"type {data_type}"


def numpy_type(data_type: int) -> np.dtype[Any]:
    """The NumPy type of a TensorFlow type: :data:`BFLOAT16` for bfloat16, ``object`` (of ``bytes``) for strings.

    :raises TensorError: there is none (quantized types, those of 8 and 4 bits that are no integers of C, resources,
        variants).
    """
    try:
        return _TYPES[data_type][0]
    except KeyError:
        raise TensorError(f"tensors of {type_name(data_type)} are not supported") from None


def tensor_type(dtype: np.dtype[Any]) -> int:
    """The TensorFlow type (a ``DataType``) of a NumPy type.

    :raises TensorError: TensorFlow has no such type.
    """
    known = _FROM_NUMPY.get(dtype)
    if known is not None:
        return known
    if dtype.kind in "SU":
        return int(DataType.DT_STRING)
    if is_bfloat16(dtype):
        return int(DataType.DT_BFLOAT16)
    try:
        return _FROM_NUMPY[dtype.newbyteorder("<")]
    except KeyError:
        raise TensorError(f"arrays of {dtype} have no counterpart among TensorFlow's types") from None


def shape_of(shape: TensorShapeProto) -> tuple[int, ...] | None:
    """The dimensions of a declared shape, -1 where one is unknown; None if even their number is unknown."""
    return None if shape.unknown_rank else tuple(dim.size if dim.size >= 0 else -1 for dim in shape.dim)


def declared_bytes(tensor: TensorProto) -> int:
    """What a tensor of the declared type and shape takes; 0 for one that :func:`to_numpy` refuses."""
    sizes = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.dtype not in _TYPES or len(sizes) > _MAX_DIMENSIONS or any(size < 0 for size in sizes):
        return 0
    return math.prod(sizes) * _TYPES[tensor.dtype][0].itemsize


def to_numpy(tensor: TensorProto, *, max_bytes: int = MAX_BYTES) -> Array:
    """Read a tensor.

    :param max_bytes: limit of the result where a short list of values fills a larger declared shape.
    :returns: a read-only array of the declared shape; without a copy where the data came as ``tensor_content``, and
        as a view of one element where one value fills the shape. Strings become an object array of ``bytes``.
    :raises TensorError: negative or unknown dimensions, data that does not fit the shape, values out of range, a type
        that NumPy does not have.
    """
    dtype, field = numpy_type(tensor.dtype), _TYPES[tensor.dtype][1]
    shape = _declared_shape(tensor.tensor_shape, dtype.itemsize)
    count = math.prod(shape)
    content = tensor.tensor_content  # once: each look at it is a copy
    values = _from_content(content, dtype, count) if content else _from_field(tensor, field, dtype)
    if values.size > count or (content and values.size != count):
        raise TensorError(f"the tensor declares the shape {list(shape)}, {count} elements, but has {values.size}")
    array = values.reshape(shape) if values.size == count else _fill(values, shape, dtype, max_bytes)
    array.flags.writeable = False
    return array


def from_numpy(array: Array, *, typed_values: bool = False) -> TensorProto:
    """Write a tensor.

    :param array: numbers, of bfloat16 too (:func:`is_bfloat16`), or strings (``bytes``, or ``str``, which is encoded
        as UTF-8) in an array of type ``object``, ``S`` or ``U``.
    :param typed_values: put numbers into the list of their type, as the answers of TensorFlow Serving have them, and
        not into ``tensor_content``, as ``tf.make_tensor_proto`` does with more than one element.
    :raises TensorError: the array's type has no counterpart in TensorFlow, an element is no string, or the array is
        larger than a protobuf message can be (2 GiB).
    """
    tensor = TensorProto()
    write_tensor(tensor, array, typed_values=typed_values)
    return tensor


def write_tensor(tensor: TensorProto, array: Array, *, typed_values: bool = False) -> None:
    """As :func:`from_numpy`, into an empty tensor: that of an answer's map, which saves a copy."""
    data_type = tensor_type(array.dtype)
    dtype, field = _TYPES[data_type]
    tensor.dtype = data_type  # type: ignore[assignment]
    shape = tensor.tensor_shape
    shape.SetInParent()  # a scalar has a shape without dimensions
    for size in array.shape:
        shape.dim.add(size=size)
    if field == "string_val":
        tensor.string_val.extend(_as_bytes(item) for item in array.ravel().tolist())
        return
    if array.nbytes >= 1 << 31:
        raise TensorError(f"an array of {array.nbytes} bytes does not fit into a message (2 GiB)")
    values = np.ascontiguousarray(array.view(dtype) if dtype is BFLOAT16 else array, dtype=dtype)
    if array.size > 1 and not typed_values:
        tensor.tensor_content = values.tobytes()
    elif field in _PACKED:
        number, _ = _PACKED[field]
        tensor.MergeFromString(b"".join((_tag(number), _varint(values.nbytes), values.reshape(-1).view(np.uint8).data)))
    else:
        plain = values.view("<u2") if field == "half_val" else values
        getattr(tensor, field).extend(plain.ravel().tolist())


def _declared_shape(shape: TensorShapeProto, item_size: int) -> tuple[int, ...]:
    if shape.unknown_rank:
        raise TensorError("the tensor does not say its shape")
    sizes = tuple([dim.size for dim in shape.dim])
    if len(sizes) > _MAX_DIMENSIONS:
        raise TensorError(f"the tensor declares {len(sizes)} dimensions; at most {_MAX_DIMENSIONS} are supported")
    if min(sizes, default=0) < 0:
        raise TensorError(f"the tensor declares a negative dimension: {list(sizes)}")
    if math.prod([size or 1 for size in sizes]) * item_size > _MAX_INT64:
        raise TensorError(f"the tensor declares an impossible shape: {list(sizes)}")
    return sizes


def _from_content(content: bytes, dtype: np.dtype[Any], count: int) -> Array:
    if dtype.kind == "O":
        return _object_array(_split_strings(content, count))
    if len(content) != count * dtype.itemsize:
        raise TensorError(
            f"the tensor's content has {len(content)} bytes; its shape and type need {count * dtype.itemsize}"
        )
    if dtype.kind == "b":
        # A byte other than 0 and 1 is no bool; TensorFlow reads any as true.
        return np.asarray(np.frombuffer(content, dtype=np.uint8) != 0)
    return np.frombuffer(content, dtype=dtype)


def _from_field(tensor: TensorProto, field: str, dtype: np.dtype[Any]) -> Array:
    values = getattr(tensor, field)
    if field in _PACKED:
        one = _PACKED[field][1]
        # Serializing the list alone gives tag, length and the raw values: copies without a Python object per value.
        size = len(values) * one.itemsize
        if size % dtype.itemsize:
            raise TensorError("the tensor has a real part without its imaginary part")
        try:
            packed = TensorProto(**{field: values}).SerializeToString() if values else b""
        except (EncodeError, MemoryError) as error:
            raise TensorError("the tensor is too large") from error
        return np.frombuffer(packed, dtype=dtype, offset=len(packed) - size)
    match dtype.kind:
        case "O":
            return _object_array(list(values))
        case "f" | "V":  # half_val: the bits of each
            return _checked(values, np.dtype("<u2")).view(dtype)
        case _:
            return _checked(values, dtype)


def _checked(values: Any, dtype: np.dtype[Any]) -> Array:
    array = np.empty(len(values), dtype=dtype)
    try:
        # In parts, because no other thread runs while one is read.
        for at in range(0, len(values), _PART):
            part = values[at : at + _PART]
            array[at : at + len(part)] = np.fromiter(part, dtype=dtype, count=len(part))
    except OverflowError as error:
        raise TensorError(f"the tensor has a value out of the range of {dtype.name}") from error
    return array


def _fill(values: Array, shape: tuple[int, ...], dtype: np.dtype[Any], max_bytes: int) -> Array:
    count = math.prod(shape)
    if count * dtype.itemsize > max_bytes:
        raise TensorError(
            f"the tensor declares the shape {list(shape)}, {count} elements, but has {values.size}: repeating the last "
            f"one would take more than {max_bytes} bytes"
        )
    if values.size <= 1:
        last = values if values.size else _object_array([b""]) if dtype.kind == "O" else np.zeros(1, dtype)
        return np.broadcast_to(last.reshape(()), shape)
    filled = np.empty(count, dtype=dtype)
    filled[: values.size] = values
    filled[values.size :] = values[-1]
    return filled.reshape(shape)


def _split_strings(content: bytes, count: int) -> list[bytes]:
    """``count`` lengths as varints, then the strings without separators: what TensorFlow's C++ writes."""
    lengths: list[int] = []
    position = 0
    if count > len(content):
        raise TensorError(f"the tensor declares {count} strings; its content is too short for them")
    if count > _MAX_STRINGS:
        raise TensorError(f"the tensor has {count} strings; at most {_MAX_STRINGS} are supported")
    while len(lengths) < count:
        value = shift = 0
        while True:
            if position >= len(content) or shift > 28:
                raise TensorError("the lengths of the tensor's strings are malformed")
            byte = content[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        lengths.append(value)
    if position + sum(lengths) != len(content):
        raise TensorError("the lengths of the tensor's strings do not fit its content")
    strings = []
    for length in lengths:
        strings.append(content[position : position + length])
        position += length
    return strings


def _object_array(items: list[bytes]) -> Array:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def _as_bytes(item: object) -> bytes:
    match item:
        case bytes():
            return item
        case str():
            return item.encode()
        case _:
            raise TensorError(f"an array of strings holds a {type(item).__name__}")


def _tag(field_number: int) -> bytes:
    return _varint(field_number << 3 | 2)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def parse_tensor(data: bytes) -> TensorProto:
    """Parse a serialized tensor.

    :raises TensorError: it is no valid message.
    """
    try:
        return TensorProto.FromString(data)
    except DecodeError as error:
        raise TensorError("not a serialized tensor") from error
