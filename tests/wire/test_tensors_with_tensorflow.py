"""The same tensors as TensorFlow's Python and C++ code read and write them."""

from __future__ import annotations

import os

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow")

from tensorflow.core.framework import tensor_pb2  # noqa: E402

from sealserve.wire.bfloat16 import BFLOAT16, narrow, widen  # noqa: E402
from sealserve.wire.tensors import TensorError, from_numpy, parse_tensor, to_numpy  # noqa: E402

NUMBERS = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "c8", "c16"]
SHAPES = [(), (1,), (3,), (2, 3), (0,), (2, 0, 3)]


def sample(code, shape):
    generator = np.random.default_rng(1)
    return (generator.standard_normal(shape) * 50 + (1j if code.startswith("c") else 60)).astype(code)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("code", NUMBERS)
@pytest.mark.parametrize("typed_values", [False, True])
def test_tensorflow_reads_what_is_written_here(code, shape, typed_values):
    array = sample(code, shape)
    data = from_numpy(array, typed_values=typed_values).SerializeToString()
    theirs = tf.make_ndarray(tensor_pb2.TensorProto.FromString(data))
    in_cpp = tf.io.parse_tensor(data, tf.as_dtype(array.dtype)).numpy()
    for read in (theirs, in_cpp):
        assert read.dtype == array.dtype
        assert np.array_equal(read, array)
        assert read.shape == shape


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("code", NUMBERS)
def test_what_tensorflow_writes_is_read_here(code, shape):
    array = sample(code, shape)
    from_python = tf.make_tensor_proto(array).SerializeToString()
    from_cpp = tf.io.serialize_tensor(tf.constant(array)).numpy()
    for data in (from_python, from_cpp):
        read = to_numpy(parse_tensor(data))
        assert read.dtype == array.dtype
        assert np.array_equal(read, array)
        assert read.shape == shape


@pytest.mark.parametrize("code", ["f2", "f4", "f8", "i4", "i8", "u1", "u8"])
def test_plain_numbers_are_written_byte_for_byte_as_tensorflow_does(code):
    for shape in SHAPES:
        array = sample(code, shape)
        assert from_numpy(array).SerializeToString() == tf.make_tensor_proto(array).SerializeToString()


def test_strings_are_the_same_in_both_directions():
    values = [[b"a", b""], [b"\0\xff", b"long" * 100]]
    array = np.array(values, dtype=object)
    data = from_numpy(array).SerializeToString()
    assert tf.make_ndarray(tensor_pb2.TensorProto.FromString(data)).tolist() == values
    assert tf.io.parse_tensor(data, tf.string).numpy().tolist() == values
    assert to_numpy(parse_tensor(tf.make_tensor_proto(values).SerializeToString())).tolist() == values
    assert to_numpy(parse_tensor(tf.io.serialize_tensor(tf.constant(values)).numpy())).tolist() == values


@pytest.mark.parametrize(
    "message",
    [
        {"dtype": tf.float32.as_datatype_enum, "float_val": [1, 2]},
        {"dtype": tf.float16.as_datatype_enum, "half_val": [15360]},
        {"dtype": tf.bfloat16.as_datatype_enum, "half_val": [0x3FC0]},
        {"dtype": tf.bfloat16.as_datatype_enum},
        {"dtype": tf.int64.as_datatype_enum, "int64_val": [5]},
        {"dtype": tf.bool.as_datatype_enum, "bool_val": [True]},
        {"dtype": tf.complex64.as_datatype_enum, "scomplex_val": [1, 2, 3, 4]},
        {"dtype": tf.string.as_datatype_enum, "string_val": [b"a", b"b"]},
        {"dtype": tf.float32.as_datatype_enum},
        {"dtype": tf.string.as_datatype_enum},
    ],
)
def test_a_short_list_fills_the_shape_as_in_tensorflow(message):
    proto = tensor_pb2.TensorProto(tensor_shape=tf.TensorShape([2, 2]).as_proto(), **message)
    data = proto.SerializeToString()
    expected = tf.io.parse_tensor(data, tf.as_dtype(proto.dtype)).numpy()
    ours = to_numpy(parse_tensor(data))
    assert (widen(ours) if ours.dtype == BFLOAT16 else ours).tolist() == expected.tolist()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("typed_values", [False, True])
def test_bfloat16_is_read_and_written_as_tensorflow_does(shape, typed_values):
    theirs = tf.cast(sample("f4", shape), tf.bfloat16).numpy()
    for data in (tf.make_tensor_proto(theirs).SerializeToString(), tf.io.serialize_tensor(theirs).numpy()):
        ours = to_numpy(parse_tensor(data))
        assert (ours.dtype, ours.shape) == (BFLOAT16, shape)
        assert widen(ours).tolist() == theirs.astype(np.float32).tolist()
        assert from_numpy(ours).SerializeToString() == tf.make_tensor_proto(theirs).SerializeToString()
    for array in (theirs, theirs.view(BFLOAT16), narrow(sample("f4", shape))):
        data = from_numpy(array, typed_values=typed_values).SerializeToString()
        assert tf.io.parse_tensor(data, tf.bfloat16).numpy().tobytes() == theirs.tobytes()


def test_numbers_are_rounded_to_bfloat16_as_tensorflow_does():
    bits = np.random.default_rng(3).integers(0, 1 << 32, 100_000, dtype=np.uint32)
    edges = np.uint32([0, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 0x3F808000, 0x3F818000, 1, 0x80000000])
    numbers = np.concatenate([bits, edges]).view(np.float32)
    ours, theirs = widen(narrow(numbers)), tf.cast(numbers, tf.bfloat16).numpy().astype(np.float32)
    assert np.array_equal(ours, theirs, equal_nan=True)
    assert widen(narrow(np.float64([0.1, 1e39, -1e39]))).tolist() == [0.10009765625, np.inf, -np.inf]


def test_what_tensorflow_refuses_is_refused():
    proto = tf.make_tensor_proto(np.arange(6, dtype=np.float32))
    proto.tensor_shape.dim[0].size = 7
    with pytest.raises(tf.errors.InvalidArgumentError):
        tf.io.parse_tensor(proto.SerializeToString(), tf.float32)
    with pytest.raises(TensorError, match="need 28"):
        to_numpy(parse_tensor(proto.SerializeToString()))
