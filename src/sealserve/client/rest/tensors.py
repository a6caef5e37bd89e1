"""Inferences of the Open Inference Protocol over HTTP, with its extension for binary tensors.

https://github.com/kserve/open-inference-protocol, "binary tensor data". JSON stands first, and how long it is says the
header ``Inference-Header-Content-Length``; the tensors' bytes follow, little-endian. So arrays are sent without a copy,
and NaN, infinity and bytes that are no text need no spelling. Outputs that come as JSON nevertheless are read too.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import ArrayLike

from sealserve.client.errors import MalformedReplyError
from sealserve.client.rest.reply import RestReply, parse_json
from sealserve.client.rest.request import RestRequest
from sealserve.errors import InputError

HEADER_LENGTH = "inference-header-content-length"

Array = np.ndarray[Any, np.dtype[Any]]

_BYTES = "BYTES"
_TYPES = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    _BYTES: np.dtype(object),
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}
_LENGTH = struct.Struct("<I")
_MOST_DIMENSIONS = 64  # NumPy's
_MOST_STRINGS = 1_000_000  # each becomes an object
_MOST = (1 << 31) - 1
_NUMBER = "[0-9]{1,19}"
_KINDS = {"b": "b", "u": "iu", "i": "iu", "f": "iuf"}  # of JSON's values, by the kind of the array that they become


def infer_request(
    inputs: Mapping[str, ArrayLike],
    *,
    model: str,
    signature: str,
    version: int | None,
    outputs: Iterable[str],
    max_reply: int,
) -> RestRequest:
    """An inference whose outputs are to come as bytes.

    :raises InputError: an array has no counterpart in the protocol, or all are too large.
    """
    told, parts = [], []
    for name, value in inputs.items():
        array = np.asarray(value)
        datatype, data = _to_raw(name, array)
        size = {"binary_data_size": len(data)}
        told.append({"name": name, "datatype": datatype, "shape": list(array.shape), "parameters": size})
        parts.append(data)
    document: dict[str, Any] = {
        "inputs": told,
        "parameters": {"binary_data_output": True, "signature_name": signature},
    }
    if names := list(outputs):
        document["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in names]
    head = json.dumps(document).encode()
    if len(head) + sum(map(len, parts)) > _MOST:
        raise InputError("the request is too large (2 GiB)", hint="Send fewer inputs.")
    headers = (("content-type", "application/octet-stream"), (HEADER_LENGTH, str(len(head))))
    at = f"/v2/models/{quote(model, safe='')}" + (f"/versions/{version}" if version is not None else "")
    return RestRequest("POST", f"{at}/infer", [head, *parts], headers, max_reply)


def read_infer(reply: RestReply) -> tuple[str, int, dict[str, Array]]:
    """What a successful inference gave: the model, its version, the outputs by name.

    :raises MalformedReplyError: it is no answer of the protocol.
    """
    body = memoryview(reply.body)
    length = reply.header(HEADER_LENGTH)
    if length is not None and not (re.fullmatch(_NUMBER, length) and int(length) <= len(body)):
        raise _malformed("the length of its JSON is impossible")
    end = len(body) if length is None else int(length)
    document, rest = parse_json(body[:end]), body[end:]
    if not isinstance(document, dict) or not isinstance(document.get("outputs"), list):
        raise _malformed("it has no outputs")
    model, version = document.get("model_name"), document.get("model_version")
    if not isinstance(model, str) or not (isinstance(version, str) and re.fullmatch(_NUMBER, version)):
        raise _malformed("it does not say which version of which model it is of")
    arrays: dict[str, Array] = {}
    for output in document["outputs"]:
        name, array, rest = _read_output(output, rest)
        arrays[name] = array
    if rest:
        raise _malformed(f"{len(rest)} bytes follow the last tensor")
    return model, int(version), arrays


def _to_raw(name: str, array: Array) -> tuple[str, bytes | memoryview]:
    if array.dtype.kind in "OSU":
        items = [item.encode() if isinstance(item, str) else item for item in array.ravel().tolist()]
        if not all(isinstance(item, bytes) for item in items):
            raise InputError(f"the input {name} holds objects that are no strings")
        return _BYTES, b"".join(part for item in items for part in (_LENGTH.pack(len(item)), item))
    dtype = array.dtype.newbyteorder("<")
    if dtype not in _NAMES:
        raise InputError(
            f"the input {name} is of {array.dtype}, for which the Open Inference Protocol has no type",
            hint="Convert the array, or use the gRPC address.",
        )
    values = np.ascontiguousarray(array, dtype)
    return _NAMES[dtype], values.reshape(-1).view(np.uint8).data if values.size else b""


def _read_output(output: Any, rest: memoryview) -> tuple[str, Array, memoryview]:
    if not isinstance(output, dict):
        raise _malformed("an output is no object")
    name, datatype, shape = (output.get(key) for key in ("name", "datatype", "shape"))
    if not isinstance(name, str) or not isinstance(datatype, str) or datatype not in _TYPES:
        raise _malformed("an output has no name, or a type that is not known")
    if (
        not isinstance(shape, list)
        or len(shape) > _MOST_DIMENSIONS
        or not all(type(size) is int and 0 <= size <= _MOST for size in shape)
    ):
        raise _malformed(f"the shape of output {name!r} is impossible")
    count = math.prod(shape)
    parameters = output.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is None:
        return name, _from_json(name, output.get("data"), datatype, shape), rest
    if type(size) is not int or not 0 <= size <= len(rest):
        raise _malformed(f"output {name!r} is to have more bytes than there are")
    data, rest = rest[:size], rest[size:]
    dtype = _TYPES[datatype]
    if datatype == _BYTES:
        array = _strings(name, data, count)
    elif size != count * dtype.itemsize:
        raise _malformed(f"output {name!r} has {size} bytes, which its shape {shape} does not fit")
    elif dtype.kind == "b":
        array = np.asarray(np.frombuffer(data, np.uint8) != 0)
    else:
        array = np.frombuffer(data, dtype)
    try:
        array = array.reshape(shape)
    except ValueError as error:  # one dimension is 0, and the product of the others is beyond what NumPy counts
        raise _malformed(f"the shape of output {name!r} is impossible") from error
    array.flags.writeable = False
    return name, array, rest


def _strings(name: str, data: memoryview, count: int) -> Array:
    if count > min(_MOST_STRINGS, len(data) // _LENGTH.size):
        raise _malformed(f"output {name!r} has fewer bytes than its {count} strings need")
    array = np.empty(count, dtype=object)
    at = 0
    for index in range(count):
        begin = at + _LENGTH.size
        at = begin + (_LENGTH.unpack_from(data, at)[0] if begin <= len(data) else 0)
        if at > len(data):
            raise _malformed(f"output {name!r} ends within a string")
        array[index] = bytes(data[begin:at])
    if at != len(data):
        raise _malformed(f"output {name!r} has bytes after its strings")
    return array


def _from_json(name: str, data: Any, datatype: str, shape: list[int]) -> Array:
    dtype = _TYPES[datatype]
    try:
        flat = [item.encode() for item in _flat(data)] if datatype == _BYTES else _numbers(data, dtype)
        array = np.array(flat, dtype=dtype).reshape(shape)
    except (ValueError, TypeError, OverflowError, AttributeError, RecursionError) as error:
        raise _malformed(f"the data of output {name!r} does not fit its type and shape") from error
    array.flags.writeable = False
    return array


def _numbers(data: Any, dtype: np.dtype[Any]) -> list[Any]:
    """The data itself. NumPy would make numbers of anything: NaN of null, 1 of 1.7 and of "1"."""
    if not isinstance(data, list) or ((told := np.array(data)).size and told.dtype.kind not in _KINDS[dtype.kind]):
        raise TypeError
    return data


def _flat(data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise TypeError
    return [inner for item in data for inner in (_flat(item) if isinstance(item, list) else [item])]


def _malformed(why: str) -> MalformedReplyError:
    return MalformedReplyError(f"the server's answer is malformed: {why}")
