"""OpenVINO's element types and TensorFlow's.

OpenVINO's own NumPy types will not do: it gives float16 for bfloat16, and uint8 for numbers of 8 bits with a point.
"""

from __future__ import annotations

from typing import Any

from sealserve.wire.tensorflow_pb2 import DataType

_TYPES: dict[str, int] = {
    "f32": DataType.DT_FLOAT,
    "f64": DataType.DT_DOUBLE,
    "f16": DataType.DT_HALF,
    "bf16": DataType.DT_BFLOAT16,
    "i8": DataType.DT_INT8,
    "i16": DataType.DT_INT16,
    "i32": DataType.DT_INT32,
    "i64": DataType.DT_INT64,
    "u8": DataType.DT_UINT8,
    "u16": DataType.DT_UINT16,
    "u32": DataType.DT_UINT32,
    "u64": DataType.DT_UINT64,
    "boolean": DataType.DT_BOOL,
}


def data_type_of(kind: Any) -> int | None:
    """The ``DataType`` of an ``openvino.Type``; None where there is none, or it is not known."""
    return _TYPES.get(kind.get_type_name())
