"""JSON as TensorFlow Serving reads it (RapidJSON with ``kParseNanAndInfFlag | kParseStopWhenDoneFlag``), bounded.

``NaN``, ``Infinity`` and ``-Infinity`` are numbers; of a key that comes twice the first counts; what follows the
document is not looked at. Unlike there, text that is not UTF-8 is refused.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Callable
from typing import Any

from sealserve.serving.errors import RequestError
from sealserve.serving.rest.numbers import Numbers, cut_numbers

Take = Callable[[int], None]
"""Told of bytes before there are so many more; may refuse them with an error."""

_MARK = secrets.token_hex(8)  # of this process: nobody writes it by chance or by will
_SHOWN = 256  # characters of a value that an error repeats
_WHITE = " \t\n\r"

# Python's words for what is wrong, and RapidJSON's (rapidjson/error/en.h).
_MESSAGES = {
    "Expecting value": "Invalid value.",
    "Expecting property name enclosed in double quotes": "Missing a name for object member.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Expecting ',' delimiter": "Missing a comma or a closing bracket after an element.",
    "Unterminated string starting at": "Missing a closing quotation mark in string.",
    "Invalid control character at": "Invalid encoding in string.",
    "Invalid \\escape": "Invalid escape character in string.",
    "Invalid \\uXXXX escape": "Incorrect hex digit after \\u escape in string.",
}


def everything(_size: int) -> None:
    """A :data:`Take` that refuses nothing."""


def parse_json(body: bytes, *, take: Take = everything) -> Any:
    """Read a document.

    :param take: told of the memory that the parsed document may take, before it does; may refuse it.
    :returns: what :mod:`json` returns, with :class:`Numbers` in the place of large regular lists of numbers.
    :raises RequestError: it is no JSON.
    """
    # What cutting takes at most, of the shortest numbers and strings.
    take(len(body) * 2 + body.count(b",") * 80 + body.count(b'"') * 64)
    rest, arrays = cut_numbers(body, _MARK)
    take(_parsed_bytes(rest))
    decoder = json.JSONDecoder(object_pairs_hook=_Members(arrays), parse_float=_number)
    try:
        text = rest.decode("utf-8-sig")
        # Not decode(): what follows the document does not count.
        return decoder.raw_decode(text, len(text) - len(text.lstrip(_WHITE)))[0]
    except UnicodeDecodeError as error:
        raise _parse_error("Invalid encoding in string.", error.start) from error
    except json.JSONDecodeError as error:
        empty = not rest.strip()
        what = "The document is empty." if empty else _MESSAGES.get(error.msg, f"{error.msg}.")
        raise _parse_error(what, error.pos) from error
    except RecursionError as error:
        raise RequestError("JSON Parse error: too many lists and objects inside each other.") from error
    except ValueError as error:  # an integer of thousands of digits, or a number above 1.8e308
        raise RequestError("JSON Parse error: Number too big to be stored in double.") from error


def parse_object(body: bytes, *, take: Take = everything) -> dict[str, Any]:
    """Read a document that is an object. :raises RequestError: see :func:`parse_json`, or it is something else."""
    document = parse_json(body, take=take)
    if not isinstance(document, dict):
        raise RequestError(f"JSON Value: {shown(document)} Is not object")
    return document


def type_of(value: Any) -> str:
    """RapidJSON's name of a value's type."""
    match value:
        case None:
            return "Null"
        case bool():
            return "True" if value else "False"
        case dict():
            return "Object"
        case list() | Numbers():
            return "Array"
        case str():
            return "String"
        case _:
            return "Number"


def shown(value: Any) -> str:
    """A value as errors repeat it, cut after 256 characters."""
    parts: list[str] = []
    left = _SHOWN
    for part in _written(value, ""):
        parts.append(part)
        left -= len(part)
        if left <= 0:
            break
    # Where it is cut does not depend on how it was read: a list of numbers is one part, or as many as it has.
    return "".join(parts)[:_SHOWN]


class _Members:
    """Makes objects; one with the mark is an array that was cut out."""

    def __init__(self, arrays: list[Numbers]) -> None:
        self._arrays = arrays

    def __call__(self, pairs: list[tuple[str, Any]]) -> Any:
        if len(pairs) == 1 and pairs[0][0] == _MARK:
            return self._arrays[pairs[0][1]]
        pairs.reverse()
        return dict(pairs)


def _number(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(text)
    return value


def _parsed_bytes(text: bytes) -> int:
    """At most what CPython takes for it: an object has 64 to 232 bytes, a list 56 to 88, a number 32 and its place."""
    return len(text) * 2 + text.count(b"{") * 300 + text.count(b"[") * 100 + text.count(b",") * 60


def _parse_error(what: str, offset: int) -> RequestError:
    return RequestError(f"JSON Parse error: {what} at offset: {offset}")


def _written(value: Any, indent: str) -> Any:
    """RapidJSON's PrettyWriter with lists on one line, piece by piece, so that none writes more than is shown."""
    match value:
        case Numbers():
            yield value.text[:_SHOWN].decode()
        case list():
            yield "["
            for index, item in enumerate(value):
                if index:
                    yield ", "
                yield from _written(item, indent)
            yield "]"
        case dict():
            yield "{"
            for index, (key, item) in enumerate(reversed(value.items())):
                yield f"{',' if index else ''}\n{indent}    {json.dumps(key, ensure_ascii=False)}: "
                yield from _written(item, indent + "    ")
            yield f"\n{indent}}}" if value else "}"
        case str():
            yield json.dumps(value[:_SHOWN], ensure_ascii=False)
        case int() if not isinstance(value, bool):
            yield str(value) if value.bit_length() < 4096 else "(a large number)"
        case _:
            yield json.dumps(value)
