"""Parts of variables, as TensorFlow 1 stores and restores partitioned ones.

A stored part has a key of its own, written in TensorFlow's "ordered code"
(``tensorflow/core/lib/strings/ordered_code.cc``, ``tensorflow/core/util/saved_tensor_slice_util.cc``): 0, the name, the
number of dimensions, and for each dimension where the part starts and how long it is. What is asked for comes as text:
the whole shape, then ``start,length`` for each dimension, or ``-`` for all of it
(``tensorflow/core/framework/tensor_slice.cc``).
"""

from __future__ import annotations

import math

Extents = tuple[tuple[int, int], ...]
"""Start and length for each dimension; length -1 for all of it."""


def parse_part(text: str) -> tuple[tuple[int, ...], Extents]:
    """The shape of the whole, and the part of it: ``10 2 0,5:-``. :raises ValueError: it is malformed."""
    *sizes, part = text.split()
    shape = tuple(int(size) for size in sizes)
    extents = []
    for one in part.split(":"):
        start, _, length = one.partition(",")
        extents.append((0, -1) if one == "-" else (int(start), int(length)))
    if len(extents) != len(shape):
        raise ValueError("its dimensions are not those of the whole")
    return shape, tuple(extents)


def parse_slice_key(key: bytes) -> tuple[bytes, Extents]:
    """The variable's name and the part that a key of the index stands for.

    :raises ValueError: it is malformed.
    :raises IndexError: it is cut short.
    """
    end = key.index(b"\0\1", 1)
    # Within a name, 0 and 255 are escaped. Between two escapes is never half of one.
    name = key[1:end].replace(b"\0\xff", b"\0").replace(b"\xff\0", b"\xff")
    at = end + 2
    width = key[at]
    dimensions = int.from_bytes(key[at + 1 : at + 1 + width], "big")
    at += 1 + width
    extents = []
    for _ in range(dimensions):
        start, at = _signed(key, at)
        length, at = _signed(key, at)
        extents.append((start, length))
    if at != len(key):
        raise ValueError("a part's key is malformed")
    return name, tuple(extents)


def size_of(extents: Extents, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a part of a variable of that shape. :raises ValueError: the part leaves the whole."""
    if len(extents) != len(shape):
        raise ValueError("its dimensions are not those of the whole")
    for (start, length), size in zip(extents, shape, strict=True):
        if start < 0 or start + max(length, 0) > size or length < -1 or (length == -1 and start):
            raise ValueError("it leaves the whole")
    return tuple(size if length < 0 else length for (_, length), size in zip(extents, shape, strict=True))


def within(
    wanted: Extents, stored: Extents, shape: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...], int] | None:
    """Where two parts overlap: in the wanted one, in the stored one, and in how many elements; None if nowhere.

    :raises ValueError: one of them leaves the whole.
    """
    there, here, sizes = [], [], []
    for (start, _), size, (other, _), other_size in zip(
        wanted, size_of(wanted, shape), stored, size_of(stored, shape), strict=True
    ):
        low, high = max(start, other), min(start + size, other + other_size)
        if low >= high:
            return None
        there.append(slice(low - start, high - start))
        here.append(slice(low - other, high - other))
        sizes.append(high - low)
    return tuple(there), tuple(here), math.prod(sizes)


def _signed(key: bytes, at: int) -> tuple[int, int]:
    """As many leading ones as bytes, a zero, and the number's bits; all bits are inverted for a negative number."""
    negative = key[at] < 0x80
    first = key[at] ^ 0xFF if negative else key[at]
    length = 8 - (first ^ 0xFF).bit_length()
    if length > 7 or at + length > len(key):
        raise ValueError("a part's key is malformed")
    bits = int.from_bytes(key[at : at + length], "big")
    if negative:
        bits = ~bits
    value = bits & ((1 << (7 * length - 1)) - 1)
    return (~value if negative else value), at + length
