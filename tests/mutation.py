"""Bytes that are almost right: valid ones, changed in the ways in which parsers break, by a fixed and printed seed."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence

LIES = (b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff", b"\x80\0\0\0")
"""Lengths and counts are where parsers believe what they are told."""

SEED = int(os.environ.get("FUZZ_SEED", "20260801"))


def randomness(name: str) -> random.Random:
    """Where the changes of one test come from; FUZZ_SEED in the environment gives others."""
    print(f"{name}: FUZZ_SEED={SEED}")  # noqa: T201 - pytest shows it when a test fails
    return random.Random(f"{name}{SEED}")


def mutate(data: bytes, source: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """One to four changes of a byte string; the result may be equal to it by accident.

    :param others: other valid byte strings to take pieces from.
    """
    changed = bytearray(data)
    for _ in range(source.randint(1, 4)):
        at = source.randrange(len(changed) + 1)
        length = min(len(changed) - at, source.choice((1, 1, 2, 4, 16, 64, 1024)))
        match source.randrange(8):
            case 0 if at < len(changed):
                changed[at] ^= 1 << source.randrange(8)
            case 1:
                changed[at : at + length] = source.randbytes(length)
            case 2:
                del changed[at : at + length]
            case 3:
                changed[at:at] = source.randbytes(length)
            case 4:
                changed[at:at] = changed[at : at + length]
            case 5:
                del changed[at:]
            case 6:
                # Lengths and counts are where parsers believe what they are told.
                changed[at : at + 4] = source.choice(
                    (b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff", b"\x80\0\0\0")
                )
            case _:
                other = source.choice(others) if others else data
                start = source.randrange(len(other) + 1)
                changed[at : at + length] = other[start : start + length]
    return bytes(changed)
