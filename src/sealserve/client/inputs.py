"""Inputs out of files: NumPy arrays and JSON."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sealserve.client.errors import RequestRefusedError
from sealserve.client.metadata import Signature, TensorSpec
from sealserve.errors import InputError
from sealserve.files import explain_os_error, read_file
from sealserve.wire.bfloat16 import narrow

MAX_JSON_BYTES = 256 << 20

_DTYPES: Mapping[str, Any] = {"float": np.float32, "double": np.float64, "half": np.float16, "bool": np.bool_}
Array = np.ndarray[Any, np.dtype[Any]]


def read_npy(path: Path) -> Array:
    """An array as ``numpy.save`` writes it; pickled objects are refused, for reading them runs code.

    :raises InputError: the file is missing, or is no such array.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
    except OSError as error:
        if error.errno is not None:
            raise explain_os_error(error, path, "read") from error
        raise InputError(f"{path} is no .npy file", hint="Write it with numpy.save.") from error
    except (ValueError, EOFError, MemoryError) as error:
        raise InputError(
            f"{path} is no .npy file with numbers", hint="Write it with numpy.save, as an array of numbers."
        ) from error
    if not isinstance(loaded, np.ndarray):
        raise InputError(f"{path} holds several arrays", hint="Write one array to a file, with numpy.save.")
    return loaded


def read_json(path: Path, signature: Signature) -> dict[str, Array]:
    """Inputs as JSON: an object with the inputs' names, by itself or under ``inputs``, as TensorFlow Serving's column
    format has it. Values are nested lists in the types of the signature; ``{"b64": "..."}`` is a byte string.

    :raises InputError: the file is missing or no such JSON. :raises RequestRefusedError: it does not fit the signature.
    """
    try:
        document = json.loads(read_file(path, limit=MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON: {error}", hint='Write an object such as {"x": [[1, 2]]}.') from error
    if isinstance(document, dict) and set(document) == {"inputs"} and "inputs" not in signature.inputs:
        document = document["inputs"]
        if not isinstance(document, dict) and len(signature.inputs) == 1:
            document = {next(iter(signature.inputs)): document}
    if not isinstance(document, dict):
        raise InputError(f"{path} is no JSON object with inputs", hint='Write an object such as {"x": [[1, 2]]}.')
    return {name: _array(name, value, signature) for name, value in document.items()}


def input_spec(signature: Signature, name: str | None = None) -> TensorSpec:
    """The input called ``name``, or the only one.

    :raises RequestRefusedError: there is none of that name, or there are several.
    """
    names = ", ".join(signature.inputs)
    if name is None and len(signature.inputs) != 1:
        raise RequestRefusedError(
            f"the signature {signature.name} has several inputs: {names}",
            hint="A picture is one input. Give all as arrays: --npy NAME=FILE for each, or --input-json FILE.",
        )
    try:
        return signature.inputs[name or next(iter(signature.inputs))]
    except KeyError:
        raise RequestRefusedError(
            f"the signature {signature.name} has no input {name!r}", hint=f"Its inputs: {names or 'none'}."
        ) from None


def _array(name: str, value: Any, signature: Signature) -> Array:
    spec = input_spec(signature, name)
    try:
        if spec.dtype == "string":
            return np.array(_strings(value), dtype=object)
        if spec.dtype == "bfloat16":
            return narrow(np.array(value, dtype=np.float64))
        return np.array(value, dtype=_DTYPES.get(spec.dtype, spec.dtype))
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise RequestRefusedError(f"the value given for {spec} does not fit it: {error}") from error


def _strings(value: Any) -> Any:
    match value:
        case list():
            return [_strings(item) for item in value]
        case str():
            return value.encode()
        case {"b64": str(text), **rest} if not rest:
            try:
                return base64.b64decode(text, validate=True)
            except binascii.Error as error:
                raise ValueError(f"no base64: {error}") from error
        case _:
            raise ValueError(f"{value!r} is no string")
