"""The body of ``:classify`` and ``:regress``: examples, and the context they share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sealserve.serving.errors import RequestError
from sealserve.serving.rest.json_text import Take, everything, parse_object, shown, type_of
from sealserve.serving.rest.numbers import Numbers
from sealserve.serving.rest.predict_request import read_signature
from sealserve.serving.rest.tensors import decode_base64, is_base64
from sealserve.wire.tensorflow_pb2 import Example, Feature
from sealserve.wire.tensorflow_serving_pb2 import Input

_MAX = (1 << 63) - 1
_KINDS = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}


def read_examples(body: bytes, *, take: Take = everything) -> tuple[str, Input]:
    """Read a body.

    :param take: see :func:`parse_json`.
    :returns: the signature's name, empty for the default one, and the examples.
    :raises RequestError: with the messages of TensorFlow Serving's ``json_tensor.cc``.
    """
    document = parse_object(body, take=take)
    signature = read_signature(document)
    given = Input()
    examples = given.example_list.examples
    if "context" in document:
        # Set even if it is empty: that there is a context counts.
        given.example_list_with_context.context.CopyFrom(_example(document["context"]))
        examples = given.example_list_with_context.examples
    if "examples" not in document:
        raise _malformed(document, "When method is classify, key 'examples' is expected and was not found")
    found = document["examples"]
    if isinstance(found, Numbers):
        found = found.to_list()
    if not isinstance(found, list):
        raise _malformed(document, "Expecting 'examples' value to be an list/array")
    if not found:
        raise _malformed(document, "'examples' value is an empty array")
    examples.extend(_example(value) for value in found)
    return signature, given


def _malformed(document: Mapping[str, Any], what: str) -> RequestError:
    return RequestError(f"JSON Value: {shown(document)} {what}")


def _example(value: Any) -> Example:
    if not isinstance(value, dict):
        raise RequestError(f"Example must be JSON object but got JSON {type_of(value)}")
    example = Example()
    for name, content in value.items():
        _fill(example.features.feature[_utf8(name, name)], name, content)
    return example


def _fill(feature: Feature, name: str, content: Any) -> None:
    if isinstance(content, Numbers):
        content = content.to_list()
    for value in content if isinstance(content, list) else [content]:
        kind, item = _kind(name, value)
        held = feature.WhichOneof("kind")
        if held not in {None, kind}:
            raise RequestError(f"Unexpected element type in feature: {name} expecting type: {_KINDS[held]}")
        try:
            getattr(feature, kind).value.append(item)
        except (ValueError, OverflowError) as error:
            raise RequestError(f"Feature: {name} has a number that its type cannot hold") from error


def _kind(name: str, value: Any) -> tuple[str, Any]:
    match value:
        case bool():
            return "int64_list", int(value)
        case str():
            return "bytes_list", _utf8(name, value).encode()
        case int():
            if value > _MAX:
                raise RequestError(f"Feature: {name} has uint64_t element. Only int64_t is supported.")
            return "int64_list", value
        case float():
            return "float_list", value
        case dict() if is_base64(value):
            return "bytes_list", decode_base64(value)
        case _:
            raise RequestError(f"Feature: {name} has element with unexpected JSON type: {type_of(value)}")


def _utf8(name: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"Feature: {name!a} has half of a surrogate pair") from error
    return text
