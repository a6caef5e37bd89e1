"""The body of ``:predict``: rows (``instances``) or columns (``inputs``) to tensors by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sealserve.serving.engine import DEFAULT_SIGNATURE, Array
from sealserve.serving.errors import RequestError
from sealserve.serving.rest.json_text import Take, everything, parse_object, shown
from sealserve.serving.rest.numbers import Numbers
from sealserve.serving.rest.tensors import NotATensorError, is_base64, make_array, supported_type, to_array

Types = Mapping[str, int]
"""The inputs of a signature: ``DataType`` by name."""


class Format(Enum):
    """How a request's tensors are written, and those of its answer."""

    ROWS = "instances"
    COLUMNS = "inputs"


@dataclass(frozen=True)
class PredictBody:
    """What a caller asks for. :ivar signature: empty for the default one."""

    signature: str
    format: Format
    inputs: dict[str, Array]


def read_predict(body: bytes, types_of: Callable[[str], Types], *, take: Take = everything) -> PredictBody:
    """Read a body.

    :param types_of: the inputs of a signature, by its name.
    :param take: see :func:`parse_json`.
    :raises RequestError: it is not a request of that signature; messages are those of TensorFlow Serving's
        ``json_tensor.cc``.
    """
    document = parse_object(body, take=take)
    signature = read_signature(document)
    types = types_of(signature)
    if not types:
        raise RequestError(f"Failed to get input map for signature: {signature or 'DEFAULT'}")
    if "instances" in document and "inputs" in document:
        raise RequestError(
            f"JSON Value: {shown(document)} Not formatted correctly expecting only one of 'inputs' or 'instances' "
            "keys to exist "
        )
    if "instances" in document:
        rows = document["instances"]
        if not isinstance(rows, list | Numbers):
            raise RequestError(f"JSON Value: {shown(document)} Expecting 'instances' to be an list/array")
        if isinstance(rows, list) and not rows:
            raise RequestError(f"JSON Value: {shown(document)} No values in 'instances' array")
        return PredictBody(signature, Format.ROWS, _rows(rows, types))
    if "inputs" in document:
        return PredictBody(signature, Format.COLUMNS, _columns(document["inputs"], types))
    raise RequestError("Missing 'inputs' or 'instances' key")


def read_signature(document: Mapping[str, Any]) -> str:
    """``signature_name``, or nothing. :raises RequestError: it is no string."""
    signature = document.get("signature_name", "")
    if not isinstance(signature, str):
        raise RequestError(
            f"JSON Value: {shown(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return signature


def missing_signature(signature: str) -> RequestError:
    """What TensorFlow Serving says of a signature that the model does not have."""
    return RequestError(f'Serving signature name: "{signature or DEFAULT_SIGNATURE}" not found in signature def')


def _columns(value: Any, types: Types) -> dict[str, Array]:
    if not isinstance(value, dict) or is_base64(value):
        if len(types) > 1:
            raise RequestError(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        ((name, data_type),) = types.items()
        return {name: to_array(value, data_type)}
    inputs = {}
    for name, data_type in types.items():
        if name not in value:
            raise RequestError(f"Missing named input: {name} in 'inputs' object.")
        inputs[name] = to_array(value[name], data_type)
    return inputs


def _rows(rows: list[Any] | Numbers, types: Types) -> dict[str, Array]:
    first = rows.array if isinstance(rows, Numbers) else rows[0]
    if not isinstance(first, dict) and len(types) > 1:
        raise RequestError(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    columns: Mapping[str, Any]
    if _is_named(first) and isinstance(rows, list):
        columns = _named(rows, types)
    else:
        columns = {next(iter(types)): rows if isinstance(rows, Numbers) else _unnamed(rows)}
    try:
        return {name: make_array(values, supported_type(None, types[name])) for name, values in columns.items()}
    except (NotATensorError, RequestError):
        _explain_rows(rows, types)
        raise


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def _unnamed(rows: list[Any]) -> list[Any]:
    for index, row in enumerate(rows):
        if _is_named(row):
            raise RequestError(f"Expecting value/list but got object at item {index} of input list")
    return rows


def _named(rows: list[Any], types: Types) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in types}
    for index, row in enumerate(rows):
        if not _is_named(row):
            raise RequestError(f"Expecting object but got list at item {index} of input list")
        for name, value in row.items():
            if name not in columns:
                raise _bad_row(index, f" key: {name}", f"JSON object: does not have named input: {name}")
            columns[name].append(value)
        if len(row) != len(types):
            raise RequestError(
                f"Failed to process element: {index} of 'instances' list. JSON object: {shown(row)} keys must be "
                f"equal to: {','.join(sorted(types))}"
            )
    return columns


def _explain_rows(rows: list[Any] | Numbers, types: Types) -> None:
    """Say what is wrong, row by row."""
    shapes: dict[str, tuple[int, ...]] = {}
    for index, row in enumerate(rows.to_list() if isinstance(rows, Numbers) else rows):
        named = _is_named(row)
        for name, value in row.items() if named else ((next(iter(types)), row),):
            key = f" key: {name}" if named else ""
            try:
                shape = to_array(value, types[name]).shape
            except RequestError as error:
                raise _bad_row(index, key, error.message) from error
            expected = shapes.setdefault(name, shape)
            if math.prod(expected) != math.prod(shape):
                raise _bad_row(index, key, f"Expecting tensor size: {math.prod(expected)} but got: {math.prod(shape)}")
            if expected != shape:
                raise _bad_row(index, key, f"Expecting shape {_text(expected)} but got: {_text(shape)}")


def _bad_row(index: int, key: str, what: str) -> RequestError:
    return RequestError(f"Failed to process element: {index}{key} of 'instances' list. Error: INVALID_ARGUMENT: {what}")


def _text(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"
