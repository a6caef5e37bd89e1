"""Tensors against hand-written messages: no TensorFlow needed."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sealserve.errors import InputError
from sealserve.wire.tensorflow_pb2 import DataType, TensorProto, TensorShapeProto
from sealserve.wire.tensors import (
    TensorError,
    declared_bytes,
    from_numpy,
    numpy_type,
    parse_tensor,
    tensor_type,
    to_numpy,
    type_name,
)

NUMBERS = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "c8", "c16"]


def tensor(data_type, shape, **fields):
    dims = [TensorShapeProto.Dim(size=size) for size in shape]
    return TensorProto(dtype=data_type, tensor_shape=TensorShapeProto(dim=dims), **fields)


@pytest.mark.parametrize("typed_values", [False, True])
@given(
    array=st.sampled_from(NUMBERS).flatmap(
        lambda code: hnp.arrays(code, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    )
)
def test_numbers_come_back_bit_for_bit(array, typed_values):
    message = parse_tensor(from_numpy(array, typed_values=typed_values).SerializeToString())
    back = to_numpy(message)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@given(items=st.lists(st.binary(max_size=8), max_size=6))
def test_strings_come_back_with_their_zero_bytes(items):
    array = np.empty(len(items), dtype=object)
    array[:] = items
    assert to_numpy(from_numpy(array)).tolist() == items


def test_unicode_and_fixed_width_arrays_become_strings():
    assert to_numpy(from_numpy(np.array([["ä", "b"]]))).tolist() == [["ä".encode(), b"b"]]
    assert to_numpy(from_numpy(np.array([b"ab", b"c"]))).tolist() == [b"ab", b"c"]


def test_big_endian_and_strided_arrays_are_written_as_they_look():
    array = np.arange(12, dtype=">i4").reshape(3, 4)[::2, ::-1]
    assert to_numpy(from_numpy(array)).tolist() == array.tolist()


def test_content_is_read_without_a_copy_and_cannot_be_written_to():
    array = to_numpy(tensor(DataType.DT_FLOAT, [2], tensor_content=np.float32([1, 2]).tobytes()))
    assert not array.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 3


def test_the_last_value_fills_the_declared_shape():
    assert to_numpy(tensor(DataType.DT_INT32, [2, 3], int_val=[1, 2])).tolist() == [[1, 2, 2], [2, 2, 2]]
    assert to_numpy(tensor(DataType.DT_STRING, [3], string_val=[b"a"])).tolist() == [b"a"] * 3
    assert to_numpy(tensor(DataType.DT_FLOAT, [2])).tolist() == [0.0, 0.0]
    assert to_numpy(tensor(DataType.DT_STRING, [2])).tolist() == [b"", b""]


def test_one_value_fills_a_shape_without_taking_memory_for_it():
    array = to_numpy(tensor(DataType.DT_FLOAT, [1 << 13, 1 << 13], float_val=[7]))
    assert array.strides == (0, 0)
    assert array[-1, -1] == 7


@pytest.mark.parametrize("values", [[1.0], [1.0, 2.0], []])
def test_a_short_list_does_not_fill_an_absurd_shape(values):
    with pytest.raises(TensorError, match="more than"):
        to_numpy(tensor(DataType.DT_FLOAT, [1 << 40], float_val=values))
    with pytest.raises(TensorError, match="more than 8 bytes"):
        to_numpy(tensor(DataType.DT_FLOAT, [3], float_val=values), max_bytes=8)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (tensor(DataType.DT_FLOAT, [-1], float_val=[1]), "negative"),
        (tensor(DataType.DT_FLOAT, [2, -(1 << 63)]), "negative"),
        (tensor(DataType.DT_FLOAT, [1 << 62, 1 << 62], float_val=[1]), "impossible shape"),
        (tensor(DataType.DT_FLOAT, [0, 1 << 62, 1 << 62]), "impossible shape"),
        (tensor(DataType.DT_FLOAT, [1] * 65, float_val=[1]), "65 dimensions"),
        (tensor(DataType.DT_FLOAT, [1], float_val=[1, 2]), "has 2"),
        (tensor(DataType.DT_FLOAT, [0], float_val=[1]), "has 1"),
        (tensor(DataType.DT_FLOAT, [2], tensor_content=bytes(7)), "has 7 bytes"),
        (tensor(DataType.DT_FLOAT, [2], tensor_content=bytes(4)), "has 4 bytes"),
        (tensor(DataType.DT_FLOAT, [0], tensor_content=bytes(4)), "has 4 bytes"),
        (tensor(DataType.DT_FLOAT, [1 << 60], tensor_content=bytes(4)), "has 4 bytes"),
        (tensor(DataType.DT_UINT8, [1], int_val=[256]), "out of the range of uint8"),
        (tensor(DataType.DT_INT8, [1], int_val=[-129]), "out of the range of int8"),
        (tensor(DataType.DT_HALF, [1], half_val=[65536]), "out of the range"),
        (tensor(DataType.DT_HALF, [1], half_val=[-1]), "out of the range"),
        (tensor(DataType.DT_COMPLEX64, [1], scomplex_val=[1]), "imaginary"),
        (tensor(DataType.DT_STRING, [2], tensor_content=b"\x01\x02ab"), "do not fit"),
        (tensor(DataType.DT_STRING, [2], tensor_content=b"\x01\xff"), "malformed"),
        (tensor(DataType.DT_STRING, [1], tensor_content=b"\xff\xff\xff\xff\xff\xff\x01"), "malformed"),
        (tensor(DataType.DT_STRING, [1 << 50], tensor_content=b"\x01a"), "too short"),
        (tensor(DataType.DT_BFLOAT16, [1], half_val=[65536]), "out of the range"),
        (tensor(DataType.DT_BFLOAT16, [2], tensor_content=bytes(2)), "has 2 bytes"),
        (tensor(DataType.DT_QINT8, [1], int_val=[1]), "tensors of qint8 are not supported"),
        (tensor(DataType.DT_FLOAT8_E4M3FN, [1]), "tensors of float8_e4m3fn are not supported"),
        (tensor(DataType.DT_INT4, [1], int_val=[1]), "tensors of int4 are not supported"),
        (tensor(DataType.DT_RESOURCE, [1]), "resource"),
        (tensor(DataType.DT_INVALID, [1]), "invalid"),
        (tensor(999, [1]), "type 999"),
        (
            TensorProto(dtype=DataType.DT_FLOAT, tensor_shape=TensorShapeProto(unknown_rank=True)),
            "does not say its shape",
        ),
    ],
)
def test_a_malformed_tensor_is_refused_with_its_reason(message, says):
    with pytest.raises(TensorError, match=says) as caught:
        to_numpy(message)
    assert isinstance(caught.value, InputError)


def test_arrays_without_a_counterpart_are_refused():
    for array in (np.array(["2020-01-01"], dtype="datetime64[D]"), np.array([object()])):
        with pytest.raises(TensorError):
            from_numpy(array)


def test_bytes_that_are_no_message_are_refused():
    with pytest.raises(TensorError, match="not a serialized tensor"):
        parse_tensor(b"\x0a\xff")


def test_type_names_are_tensorflows():
    assert type_name(DataType.DT_UINT8) == "uint8"
    assert numpy_type(DataType.DT_STRING).kind == "O"
    assert tensor_type(np.dtype(">f4")) == DataType.DT_FLOAT


fields = st.fixed_dictionaries(
    {},
    optional={
        "tensor_content": st.binary(max_size=40),
        "float_val": st.lists(st.floats(width=32), max_size=5),
        "int_val": st.lists(st.integers(-(1 << 31), (1 << 31) - 1), max_size=5),
        "string_val": st.lists(st.binary(max_size=3), max_size=5),
        "half_val": st.lists(st.integers(-(1 << 31), (1 << 31) - 1), max_size=5),
        "bool_val": st.lists(st.booleans(), max_size=5),
        "scomplex_val": st.lists(st.floats(width=32), max_size=5),
        "uint64_val": st.lists(st.integers(0, (1 << 64) - 1), max_size=5),
    },
)
sizes = st.one_of(st.integers(0, 4), st.integers(-(1 << 63), (1 << 63) - 1))


@settings(max_examples=400)
@given(data_type=st.integers(0, 30), shape=st.lists(sizes, max_size=5), values=fields)
def test_any_message_is_an_array_of_its_declared_shape_or_a_tensor_error(data_type, shape, values):
    with contextlib.suppress(TensorError):
        array = to_numpy(tensor(data_type, shape, **values), max_bytes=1 << 16)
        assert list(array.shape) == shape
        assert array.size == math.prod(shape)


@settings(max_examples=400)
@given(data=st.binary(max_size=60))
def test_any_bytes_are_a_tensor_or_a_tensor_error(data):
    with contextlib.suppress(TensorError):
        to_numpy(parse_tensor(data), max_bytes=1 << 16)


def test_more_strings_than_a_message_may_have_fields_are_refused_in_tensor_content():
    tensor = TensorProto(dtype=DataType.DT_STRING, tensor_content=bytes(200_000))
    tensor.tensor_shape.dim.add(size=200_000)
    with pytest.raises(TensorError, match="at most 100000"):
        to_numpy(tensor)


@pytest.mark.parametrize(
    ("data_type", "sizes", "size"),
    [
        (DataType.DT_FLOAT, [2, 3], 24),
        (DataType.DT_HALF, [5], 10),
        (DataType.DT_FLOAT, [], 4),
        (DataType.DT_FLOAT, [-1, 3], 0),
        (DataType.DT_FLOAT, [1] * 65, 0),
        (DataType.DT_RESOURCE, [1], 0),
        (99, [1], 0),
    ],
)
def test_declared_bytes_are_those_of_type_and_shape(data_type, sizes, size):
    tensor = TensorProto(dtype=data_type)
    for one in sizes:
        tensor.tensor_shape.dim.add(size=one)
    assert declared_bytes(tensor) == size
