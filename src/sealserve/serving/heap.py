"""The process's heap, as glibc keeps it: mallinfo(3), malloc_trim(3)."""

from __future__ import annotations

import ctypes

_NAMES = (
    "arena",
    "ordblks",
    "smblks",
    "hblks",
    "hblkhd",
    "usmblks",
    "fsmblks",
    "uordblks",
    "fordblks",
    "keepcost",
)


class _Mallinfo2(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_size_t) for name in _NAMES)


def allocated_bytes() -> int | None:
    """Bytes that are allocated and not freed; None where the C library does not tell (glibc before 2.33, musl)."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return None
    mallinfo2.restype = _Mallinfo2
    told = mallinfo2()
    return int(told.uordblks) + int(told.hblkhd)


def give_back() -> None:
    """Give freed memory back to the system, which glibc would keep for later."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
