"""The protocol's datatypes, TensorFlow's types, and the fields of ``InferTensorContents`` that hold their values.

The source is the specification's "Tensor Data Types", and for BF16 Triton, which added it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sealserve.serving.errors import RequestError
from sealserve.wire.bfloat16 import BFLOAT16
from sealserve.wire.tensorflow_pb2 import DataType
from sealserve.wire.tensors import type_name

MAX_STRINGS = 100_000
"""How many elements a tensor of BYTES may have: each becomes an object of its own."""

_MOST_DIMENSIONS = 64  # NumPy's limit


class Datatype(NamedTuple):
    """One of the protocol's types.

    :ivar item: NumPy's type of a value in raw contents; ``object`` for strings.
    :ivar field: of ``InferTensorContents``. The specification has none for FP16 and BF16, which are raw in answers; in
        requests they are taken from ``fp32_contents`` too.
    """

    item: np.dtype[Any]
    field: str


DATATYPES = {
    "BOOL": Datatype(np.dtype("?"), "bool_contents"),
    "UINT8": Datatype(np.dtype("u1"), "uint_contents"),
    "UINT16": Datatype(np.dtype("<u2"), "uint_contents"),
    "UINT32": Datatype(np.dtype("<u4"), "uint_contents"),
    "UINT64": Datatype(np.dtype("<u8"), "uint64_contents"),
    "INT8": Datatype(np.dtype("i1"), "int_contents"),
    "INT16": Datatype(np.dtype("<i2"), "int_contents"),
    "INT32": Datatype(np.dtype("<i4"), "int_contents"),
    "INT64": Datatype(np.dtype("<i8"), "int64_contents"),
    "FP16": Datatype(np.dtype("<f2"), "fp32_contents"),
    "FP32": Datatype(np.dtype("<f4"), "fp32_contents"),
    "FP64": Datatype(np.dtype("<f8"), "fp64_contents"),
    "BF16": Datatype(BFLOAT16, "fp32_contents"),
    "BYTES": Datatype(np.dtype(object), "bytes_contents"),
}

_NAMES: dict[int, str] = {
    DataType.DT_BOOL: "BOOL",
    DataType.DT_UINT8: "UINT8",
    DataType.DT_UINT16: "UINT16",
    DataType.DT_UINT32: "UINT32",
    DataType.DT_UINT64: "UINT64",
    DataType.DT_INT8: "INT8",
    DataType.DT_INT16: "INT16",
    DataType.DT_INT32: "INT32",
    DataType.DT_INT64: "INT64",
    DataType.DT_HALF: "FP16",
    DataType.DT_FLOAT: "FP32",
    DataType.DT_DOUBLE: "FP64",
    DataType.DT_BFLOAT16: "BF16",
    DataType.DT_STRING: "BYTES",
}


def find_datatype(name: str, tensor: str) -> Datatype:
    """:raises RequestError: the protocol has no such type."""
    try:
        return DATATYPES[name]
    except KeyError:
        raise RequestError(f"input {tensor}: the datatype {name[:40]!r} is none of {', '.join(DATATYPES)}") from None


def datatype_name(data_type: int) -> str | None:
    """The protocol's name of a TensorFlow ``DataType``; None if it has none."""
    return _NAMES.get(data_type)


def require_name(data_type: int, tensor: str) -> str:
    """The same. :raises RequestError: the protocol has no such type."""
    name = datatype_name(data_type)
    if name is None:
        raise RequestError(
            f"output {tensor} is {type_name(data_type)}, for which the Open Inference Protocol has no datatype",
            hint="Use TensorFlow Serving's API for it.",
        )
    return name


def count_elements(shape: Sequence[int], tensor: str) -> int:
    """:raises RequestError: a shape has a negative dimension, too many dimensions, or more elements than can be."""
    if len(shape) > _MOST_DIMENSIONS:
        raise RequestError(f"input {tensor} has {len(shape)} dimensions; at most {_MOST_DIMENSIONS} are supported")
    if any(size < 0 for size in shape):
        raise RequestError(f"input {tensor} has a negative dimension: {list(shape)}")
    count = math.prod(shape)
    if math.prod(size or 1 for size in shape) >= 1 << 59:
        raise RequestError(f"input {tensor} has an impossible shape: {list(shape)}")
    return count
