"""bfloat16, which NumPy does not have: the upper 16 bits of a float32.

Arrays of it are carried as they are, in a type of their own that NumPy moves, cuts and joins but does not compute with.
Who needs numbers makes them float32, which holds each of them exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

BFLOAT16 = np.dtype([("bfloat16", "<u2")])
"""The type of an array of bfloat16: the bits of each element, little-endian."""

_QUIET = 0x40  # the bit that a NaN keeps when its others are cut off


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Whether arrays are of bfloat16: as here, or as the package ml_dtypes has it, which TensorFlow and JAX use."""
    return dtype.kind == "V" and (dtype == BFLOAT16 or dtype.name == "bfloat16")


def widen(array: Array) -> Array:
    """The numbers of an array of bfloat16, as float32."""
    bits = array.view("<u2").astype(np.uint32)
    bits <<= 16
    return bits.view(np.float32)


def narrow(array: Array) -> Array:
    """Numbers as the nearest of bfloat16; of two that are as near, the even one, as TensorFlow rounds."""
    with np.errstate(over="ignore"):
        numbers = np.ascontiguousarray(array, np.float32)
    bits = numbers.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    upper = np.where(np.isnan(numbers), bits | np.uint32(_QUIET << 16), rounded) >> np.uint32(16)
    return upper.astype("<u2").view(BFLOAT16).reshape(array.shape)
