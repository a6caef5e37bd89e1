"""Standard streams that can be written to, whatever the caller made of them."""

from __future__ import annotations

import contextlib
import io
import os
import sys


def prepare_streams() -> None:
    """Put the null device where a standard stream is closed, and have text escaped that a stream cannot encode."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                _open_null(number)
                setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - for the process's life
    for stream in (sys.stdout, sys.stderr):
        # Pictures, names and `…` must not end a command where the locale knows ASCII only.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _open_null(number: int) -> None:
    """A closed standard descriptor would otherwise be the next file that is opened, and what is printed go there."""
    try:
        os.fstat(number)
    except OSError:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor != number:
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.set_inheritable(number, True)
