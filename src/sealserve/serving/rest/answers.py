"""Answers as TensorFlow Serving writes them in JSON, without its line breaks."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import orjson
from google.protobuf.json_format import MessageToDict

from sealserve.serving.engine import Array
from sealserve.serving.errors import RequestError
from sealserve.serving.rest.predict_request import Format
from sealserve.wire.bfloat16 import widen
from sealserve.wire.tensorflow_pb2 import SignatureDef
from sealserve.wire.tensorflow_serving_pb2 import (
    ClassificationResponse,
    ModelSpec,
    RegressionResponse,
    SignatureDefMap,
)
from sealserve.wire.tensors import tensor_type, type_name

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY


def error_body(message: str) -> bytes:
    """``{"error": …}``."""
    return orjson.dumps({"error": message.encode(errors="replace").decode()})


def predict_body(outputs: Mapping[str, Array], wanted: Format) -> bytes:
    """Outputs in the format that the request had.

    :raises RequestError: a type that JSON has no values for, strings that are not UTF-8, or rows of which there are
        not as many in each output.
    """
    if not outputs:
        raise RequestError("Cannot convert empty tensor map to JSON")
    if wanted is Format.ROWS:
        return orjson.dumps({"predictions": _rows(outputs)}, option=_OPTIONS)
    columns = {name: _value(name, array) for name, array in outputs.items()}
    return orjson.dumps({"outputs": columns if len(columns) > 1 else next(iter(columns.values()))}, option=_OPTIONS)


def _rows(outputs: Mapping[str, Array]) -> Any:
    size = None
    for name, array in outputs.items():
        if array.ndim == 0:
            raise RequestError(f"Tensor name: {name} has no shape information ")
        if size is not None and array.shape[0] != size:
            raise RequestError(f"Tensor name: {name} has inconsistent batch size: {array.shape[0]} expecting: {size}")
        size = array.shape[0]
    if len(outputs) == 1:
        return _value(*next(iter(outputs.items())))
    columns = [[_value(name, np.asarray(row, dtype=array.dtype)) for row in array] for name, array in outputs.items()]
    return [dict(zip(outputs, row, strict=True)) for row in zip(*columns, strict=True)]


def _value(name: str, array: Array) -> Any:
    """What orjson writes as the array's JSON."""
    match array.dtype.kind:
        case "O" | "S" | "U":
            return _strings(name, array)
        case "f":
            return float_values(array)
        case "V":  # bfloat16 is the only one
            return float_values(widen(array))
        case "b" | "i" | "u":
            return array.item() if array.ndim == 0 else np.ascontiguousarray(array)
        case _:
            kind = type_name(tensor_type(array.dtype))
            raise RequestError(f"Failed to write JSON value for tensor type: {kind}")


def float_values(array: Array) -> Any:
    """What orjson writes as floating-point numbers in JSON, with NaN and Infinity."""
    # orjson writes the shortest text that reads as the same number of the array's own type.
    finite = np.isfinite(array)
    values = array[()] if array.ndim == 0 else np.ascontiguousarray(array)
    if finite.all():
        return values
    # It has no text for others and writes null.
    pieces = orjson.dumps(values, option=_OPTIONS).split(b"null")
    odd = [b"NaN" if number != number else b"Infinity" if number > 0 else b"-Infinity" for number in array[~finite]]  # noqa: PLR0124
    return orjson.Fragment(b"".join(piece for pair in zip(pieces, [*odd, b""], strict=True) for piece in pair))


def _strings(name: str, array: Array) -> Any:
    items: Iterable[Any] = array.ravel().tolist()
    if name.endswith("_bytes"):
        items = [{"b64": base64.b64encode(_as_bytes(item)).decode()} for item in items]
    else:
        try:
            items = [_as_bytes(item).decode() for item in items]
        except UnicodeDecodeError as error:
            raise RequestError(
                f"Failed to write JSON value for tensor type: string (output {name} holds bytes that are not UTF-8)",
                hint="An output whose name ends in _bytes is written in base64.",
            ) from error
    shaped = np.empty(len(items), dtype=object)
    shaped[:] = items
    return shaped.reshape(array.shape).tolist()


def _as_bytes(item: Any) -> bytes:
    return item if isinstance(item, bytes) else str(item).encode()


def classify_body(response: ClassificationResponse) -> bytes:
    """For each example, its labels and scores."""
    results = response.result.classifications
    if not results:
        raise RequestError("Cannot convert empty ClassificationResults to JSON")
    scores = np.array([c.score for one in results for c in one.classes], dtype=np.float32)
    texts = iter([float_values(score) for score in scores])
    return orjson.dumps(
        {"results": [[[c.label, next(texts)] for c in one.classes] for one in results]}, option=_OPTIONS
    )


def regress_body(response: RegressionResponse) -> bytes:
    """For each example, its number."""
    results = response.result.regressions
    if not results:
        raise RequestError("Cannot convert empty RegressionResults to JSON")
    return orjson.dumps(
        {"results": float_values(np.array([r.value for r in results], dtype=np.float32))}, option=_OPTIONS
    )


def metadata_body(name: str, version: int, signatures: Mapping[str, SignatureDef]) -> bytes:
    """Protobuf's own JSON, with the names of ``.proto`` files."""
    spec = ModelSpec(name=name)
    spec.version.value = version
    return orjson.dumps(
        {
            "model_spec": _proto(spec),
            "metadata": {"signature_def": _proto(SignatureDefMap(signature_def=signatures))},
        }
    )


def status_body(versions: Iterable[Any]) -> bytes:
    """Versions and the states they are in: a ``GetModelStatusResponse``."""
    return orjson.dumps(
        {
            "model_version_status": [
                {
                    "version": str(status.version),
                    "state": status.state.name,
                    "status": {"error_code": status.error_code, "error_message": status.error_message},
                }
                for status in versions
            ]
        }
    )


def _proto(message: Any) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
