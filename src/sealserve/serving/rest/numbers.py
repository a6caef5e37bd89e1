"""Large arrays of numbers in JSON, read without a Python object for each number.

JSON's text outside strings is cut where a list begins. If the list is one of numbers and as regular as a tensor, it is
read by simdjson straight into an array, and a short mark takes its place in the text.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from sealserve.serving.engine import Array

try:
    from simdjson import Parser
except ImportError:  # it has no wheels for every Python
    Parser = None  # type: ignore[assignment, misc]

_WORTH_IT = 512  # bytes of a list's text
_NOT_STRUCTURE = b"0123456789+-.eE \t\r\nNanIfity"
_MOST_DIMENSIONS = 32
# Numbers that nobody knows, for those that simdjson does not take. Sign and space keep what is beside them apart.
_STAND_INS = {token: -float(f"{secrets.randbits(52)}e250") for token in (b"-Infinity", b"Infinity", b"NaN")}

MOST_DIMENSIONS = 64  # NumPy's own limit


@dataclass(frozen=True)
class Numbers:
    """A regular list of numbers.

    :ivar array: of int64 if all were written as integers, else of float64.
    :ivar text: as it came.
    """

    array: Array
    text: bytes

    def to_list(self) -> Any:
        """As the plain lists that they are."""
        return json.loads(self.text)


def cut_numbers(body: bytes, mark: str) -> tuple[bytes, list[Numbers]]:
    """Take large arrays of numbers out of JSON.

    :param mark: the key of an object that takes the place of each; its value is the array's index.
    :returns: the text that is left, and the arrays. What is no regular array of numbers stays in the text.
    """
    if len(body) < _WORTH_IT or b"\\" in body:  # an escaped quote would hide where strings end
        return body, []
    found: list[Numbers] = []
    pieces = body.split(b'"')
    for index in range(0, len(pieces), 2):
        piece = pieces[index]
        if len(piece) < _WORTH_IT:
            continue
        start = piece.find(b"[")
        brace = piece.find(b"}")
        end = piece.rfind(b"]", 0, len(piece) if brace < 0 else brace) + 1
        if start < 0 or end - start < _WORTH_IT:
            continue
        if (numbers := _read(piece[start:end])) is not None:
            pieces[index] = b'%s{"%s":%d}%s' % (piece[:start], mark.encode(), len(found), piece[end:])
            found.append(numbers)
    return (b'"'.join(pieces), found) if found else (body, [])


def _read(text: bytes) -> Numbers | None:
    shape = _shape(text.translate(None, _NOT_STRUCTURE))
    if shape is None:
        return None
    odd = b"N" in text or b"I" in text
    try:
        flat = _flat(_with_stand_ins(text) if odd else text)
    except (ValueError, TypeError, RuntimeError, OverflowError):  # not JSON, not numbers, or numbers without a type
        return None
    if flat.size != np.prod(shape, dtype=np.int64):
        return None
    if odd:
        flat = flat.copy()
        for token, stand_in in _STAND_INS.items():
            flat[flat == stand_in] = float(token)
    return Numbers(flat.reshape(shape), text)


def _with_stand_ins(text: bytes) -> bytes:
    for token, stand_in in _STAND_INS.items():
        text = text.replace(token, b"%r " % stand_in)
    return text


def _flat(text: bytes) -> Array:
    whole = not any(sign in text for sign in (b".", b"e", b"E"))
    if Parser is None:
        flat: Array = np.array(orjson.loads(text), dtype=np.int64 if whole else np.float64)
        return flat.ravel()
    # A parser of its own: it lets go of its memory, and is no thread's but this one's.
    parsed: Any = Parser().parse(text)
    return np.frombuffer(parsed.as_buffer(of_type="i" if whole else "d"), np.int64 if whole else np.float64)


def _shape(structure: bytes) -> Sequence[int] | None:
    """Of a regular list, from its brackets and commas alone; None if it is not regular."""
    rank = len(structure) - len(structure.lstrip(b"["))
    if not 0 < rank <= _MOST_DIMENSIONS:
        return None
    shape: list[int] = []
    unit = b""
    for depth in range(1, rank + 1):
        start = rank - depth
        end = structure.find(b"]" * depth, start) + depth
        if end < depth:
            return None
        # n units and n - 1 commas between two brackets.
        count, rest = divmod(end - start - 1, len(unit) + 1)
        if rest:
            return None
        unit = b"[" + b",".join([unit] * count) + b"]"
        if unit != structure[start:end]:
            return None
        shape.insert(0, count)
    return shape if unit == structure else None
