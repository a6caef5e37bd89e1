"""Requests and answers of the Open Inference Protocol over HTTP: JSON, and tensors as bytes behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from sealserve.serving.engine import Array
from sealserve.serving.errors import RequestError
from sealserve.serving.open_inference.contents import read_contents
from sealserve.serving.open_inference.datatypes import find_datatype
from sealserve.serving.open_inference.raw import Raw, read_raw, write_raw
from sealserve.serving.rest.answers import float_values
from sealserve.serving.rest.json_text import Take, everything, parse_object, shown
from sealserve.serving.rest.numbers import MOST_DIMENSIONS, Numbers
from sealserve.serving.rest.tensors import NotATensorError, make_array
from sealserve.wire.bfloat16 import BFLOAT16, widen
from sealserve.wire.open_inference_pb2 import InferParameter, ModelInferRequest, ModelInferResponse

HEADER_LENGTH = "Inference-Header-Content-Length"

_MAX_INT64 = (1 << 63) - 1


@dataclass(frozen=True)
class Wishes:
    """How a caller wants its outputs. :ivar binary: of all that are not named in ``outputs``."""

    binary: bool
    outputs: Mapping[str, bool]


def read_infer(
    name: str, version: str, body: bytes, json_length: int | None, *, take: Take = everything
) -> tuple[ModelInferRequest, list[Raw], Wishes]:
    """Read a request.

    :param json_length: of the JSON at the beginning of the body, where bytes of tensors follow.
    :param take: see :func:`parse_json`.
    :returns: the request, the raw contents of each of its inputs, which the message does not have, and how answers are
        wanted. Binary tensors are parts of the body, and no copies.
    :raises RequestError: it is malformed.
    """
    if json_length is not None and json_length > len(body):
        raise RequestError(f"{HEADER_LENGTH} is {json_length}, and the body has {len(body)} bytes")
    document = parse_object(body[:json_length], take=take)
    rest = memoryview(body)[json_length if json_length is not None else len(body) :]
    request = ModelInferRequest(
        model_name=name,
        model_version=version,
        id=_text(document.get("id", ""), "id"),
    )
    _set_parameters(request.parameters, document.get("parameters"))
    raw: list[Raw] = []
    for given in _objects(document, "inputs"):
        contents, rest = _read_input(request, given, rest)
        raw.append(contents)
    if rest:
        raise RequestError(f"{len(rest)} bytes follow the last binary tensor")
    wishes: dict[str, bool] = {}
    binary = _flag(document.get("parameters"), "binary_data_output", default=False)
    for given in _objects(document, "outputs", optional=True):
        name = _text(given.get("name"), "name of an output")
        request.outputs.add(name=name)
        wishes[name] = _flag(given.get("parameters"), "binary_data", default=binary)
    return request, raw, Wishes(binary, wishes)


def _read_input(request: ModelInferRequest, given: Mapping[str, Any], rest: memoryview) -> tuple[Raw, memoryview]:
    """The raw contents of one input, and what of the body is left behind it."""
    name = _text(given.get("name"), "name of an input")
    datatype = _text(given.get("datatype"), f"datatype of input {name}")
    shape = _shape(given.get("shape"), name)
    find_datatype(datatype, name)
    parameters = given.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    if size is None:
        if "data" not in given:
            raise RequestError(f"input {name} has no data")
        return _to_raw(given["data"], name, datatype, shape), rest
    if "data" in given:
        raise RequestError(f"input {name} has both data and binary_data_size")
    if type(size) is not int or not 0 <= size <= len(rest):
        raise RequestError(f"input {name} declares {shown(size)} bytes, and {len(rest)} are there")
    return rest[:size], rest[size:]


def _to_raw(data: Any, name: str, datatype: str, shape: Sequence[int]) -> bytes:
    try:
        array = make_array(data, find_datatype(datatype, name).item)
    except NotATensorError as error:
        raise RequestError(f"the data of input {name} is no regular list of values of {datatype}") from error
    if array.ndim == 0 or array.size != math.prod(shape) or (array.ndim > 1 and array.shape != tuple(shape)):
        raise RequestError(f"the data of input {name} has the shape {list(array.shape)}, and not {list(shape)}")
    return write_raw(array)


def write_infer(response: ModelInferResponse, wishes: Wishes) -> tuple[bytes, int | None]:
    """Write an answer.

    :returns: the body, and the length of the JSON at its beginning if bytes of tensors follow.
    :raises RequestError: a string is not UTF-8, and was not asked for in binary.
    """
    document: dict[str, Any] = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id:
        document["id"] = response.id
    outputs: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for index, output in enumerate(response.outputs):
        if response.raw_output_contents:
            raw = response.raw_output_contents[index]
            array = read_raw(output.datatype, output.shape, raw, tensor=output.name)
        else:
            array = read_contents(output.datatype, output.shape, output.contents, tensor=output.name)
            raw = write_raw(array)
        told: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
        if wishes.outputs.get(output.name, wishes.binary):
            told["parameters"] = {"binary_data_size": len(raw)}
            binary.append(raw)
        else:
            told["data"] = _data(output.name, array)
        outputs.append(told)
    document["outputs"] = outputs
    text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join([text, *binary]), len(text)) if binary else (text, None)


def _data(name: str, array: Array) -> Any:
    flat = widen(array.ravel()) if array.dtype == BFLOAT16 else array.ravel()
    if flat.dtype.kind != "O":
        return float_values(flat) if flat.dtype.kind == "f" else flat
    try:
        return [item.decode() for item in flat.tolist()]
    except UnicodeDecodeError as error:
        raise RequestError(
            f"output {name} holds bytes that are not UTF-8", hint='Ask for it with "binary_data": true.'
        ) from error


def _objects(document: Mapping[str, Any], key: str, *, optional: bool = False) -> list[dict[str, Any]]:
    found = document.get(key, [] if optional else None)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise RequestError(f"{key} must be a list of objects")
    return found


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise RequestError(f"the {what} must be a string")
    return value


def _shape(value: Any, name: str) -> list[int]:
    # Before anything is computed with it: the product of a million sizes takes many seconds.
    given = value.array.size if isinstance(value, Numbers) else len(value) if isinstance(value, list) else 0
    if given > MOST_DIMENSIONS:
        raise RequestError(f"the shape of input {name} has more than {MOST_DIMENSIONS} dimensions")
    if isinstance(value, Numbers):
        value = value.to_list()
    if not isinstance(value, list) or not all(type(size) is int and size >= 0 for size in value):
        raise RequestError(f"the shape of input {name} must be a list of numbers that are not negative")
    if math.prod(size or 1 for size in value) > _MAX_INT64:
        raise RequestError(f"the shape of input {name} is impossible")
    return value


def _flag(parameters: Any, name: str, *, default: bool) -> bool:
    value = parameters.get(name, default) if isinstance(parameters, dict) else default
    if not isinstance(value, bool):
        raise RequestError(f"the parameter {name} must be true or false")
    return value


def _set_parameters(target: Any, given: Any) -> None:
    if given is None:
        return
    if not isinstance(given, dict):
        raise RequestError("parameters must be an object")
    for name, value in given.items():
        match value:
            case bool():
                parameter = InferParameter(bool_param=value)
            case int() if -_MAX_INT64 <= value <= _MAX_INT64:
                parameter = InferParameter(int64_param=value)
            case float():
                parameter = InferParameter(double_param=value)
            case str():
                parameter = InferParameter(string_param=_text(value, f"parameter {shown(name)}"))
            case _:
                raise RequestError(f"the parameter {shown(name)} must be a string, a number, true or false")
        target[_text(name, "name of a parameter")].CopyFrom(parameter)
