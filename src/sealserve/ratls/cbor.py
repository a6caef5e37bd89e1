"""CBOR (RFC 8949) from strangers: a small part of it, checked before the decoder sees it.

Accepted: integers, byte and text strings, arrays, maps, ``true``, ``false`` and ``null``, all of definite length, and
the tags that the caller names. A CBOR decoder makes regular expressions, dates and shared references out of other
tags, and ignores what follows the first item: neither is wanted here.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import cbor2

MAX_DEPTH = 16


class CborError(ValueError):
    """The bytes are not one item of the accepted part of CBOR. Callers wrap it into their own error."""


def encode(value: object) -> bytes:
    """The deterministic encoding of RFC 8949, section 4.2.1."""
    return cbor2.dumps(value, canonical=True)


def decode(data: bytes, *, tags: Collection[int] = ()) -> Any:
    """Decode one item that fills ``data`` exactly.

    :param tags: tag numbers to accept; they come out as :class:`cbor2.CBORTag`, unless the decoder knows them.
    :raises CborError: it is malformed, nested too deeply, has an unaccepted type or a map key twice.
    """
    pairs = _check(data, frozenset(tags))
    try:
        value = cbor2.loads(data)
    except Exception as error:
        raise CborError("invalid text or value") from error
    if _count_pairs(value) != pairs:
        raise CborError("a map has the same key twice")
    return value


def _check(data: bytes, tags: frozenset[int]) -> int:
    """Walk over the heads of all items; returns the number of key-value pairs of all maps."""
    pairs = 0
    position = 0
    # One entry for each open container: how many items it still lacks, and whether it is a map.
    open_items: list[tuple[int, bool]] = [(1, False)]
    while open_items:
        missing, is_map = open_items.pop()
        if missing == 0:
            continue
        open_items.append((missing - 1, is_map))
        major, argument, position = _head(data, position)
        if is_map and missing % 2 == 0 and major > 3:
            raise CborError("a map key is neither a number nor a string")
        if major in {2, 3}:
            position += argument
        elif major in {4, 5}:
            pairs += argument if major == 5 else 0
            open_items.append((argument * (2 if major == 5 else 1), major == 5))
        elif major == 6:
            if argument not in tags:
                raise CborError(f"tag {argument} is not accepted here")
            open_items.append((1, False))
        # Every item takes a byte at least: a count beyond what is left can never be met.
        if position > len(data) or open_items[-1][0] > len(data) - position:
            raise CborError("truncated")
        if len(open_items) > MAX_DEPTH:
            raise CborError("nested too deeply")
    if position != len(data):
        raise CborError("something follows the item")
    return pairs


def _head(data: bytes, position: int) -> tuple[int, int, int]:
    """Major type, argument, and the position after the head."""
    if position >= len(data):
        raise CborError("truncated")
    major, low = data[position] >> 5, data[position] & 0x1F
    position += 1
    if major == 7 and low not in {20, 21, 22}:
        raise CborError("floating-point numbers and simple values are not accepted here")
    if low < 24:
        return major, low, position
    if low > 27:
        raise CborError("indefinite lengths are not accepted here")
    size = 1 << (low - 24)
    if position + size > len(data):
        raise CborError("truncated")
    return major, int.from_bytes(data[position : position + size], "big"), position + size


def _count_pairs(value: Any) -> int:
    match value:
        case dict():
            return len(value) + sum(_count_pairs(item) for item in value.values())
        case list() | tuple():
            return sum(_count_pairs(item) for item in value)
        case cbor2.CBORTag():
            return _count_pairs(value.value)
        case _:
            return 0
