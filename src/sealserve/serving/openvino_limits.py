"""Where OpenVINO's CPU computes in narrower types than the graph says, and what is done about it.

OpenVINO 2026.4 keeps the types of inputs and outputs, but computes 64-bit and unsigned 32-bit integers as int32 and
double as float32: 2^40 + 1 comes out as 1. Numbers that are too large for that are refused at the door. What cannot be
seen from outside is a number that grows too large inside the graph; models that need that need another engine.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sealserve.serving.engine import Array, Signature
from sealserve.serving.errors import RequestError
from sealserve.serving.openvino_errors import USE_TENSORFLOW
from sealserve.wire.tensorflow_pb2 import DataType

_INT32, _FLOAT32 = np.iinfo(np.int32), np.finfo(np.float32)

_LIMITS: dict[int, tuple[float, float, str]] = {
    DataType.DT_INT64: (_INT32.min, _INT32.max, "int32"),
    DataType.DT_UINT32: (0, _INT32.max, "int32"),
    DataType.DT_UINT64: (0, _INT32.max, "int32"),
    DataType.DT_DOUBLE: (float(_FLOAT32.min), float(_FLOAT32.max), "float32"),
}


def narrowed(signature: Signature) -> dict[str, str]:
    """The inputs and outputs that are computed in a narrower type, each with that type."""
    tensors = {**signature.inputs, **signature.outputs}
    return {alias: _LIMITS[spec.data_type][2] for alias, spec in tensors.items() if spec.data_type in _LIMITS}


def check_ranges(signature: Signature, inputs: Mapping[str, Array]) -> None:
    """:raises RequestError: a number is too large for the type in which OpenVINO computes."""
    for alias, array in inputs.items():
        limits = _LIMITS.get(signature.inputs[alias].data_type)
        if limits is None:
            continue
        low, high, narrow = limits
        # NaN is neither below nor above, and stays NaN; infinity would come out as the largest number.
        if ((array < low) | (array > high)).any():
            raise RequestError(
                f"input {alias} has a number out of the range of {narrow}, in which the engine computes "
                f"{signature.inputs[alias].dtype}",
                hint=f"{USE_TENSORFLOW}.",
            )
