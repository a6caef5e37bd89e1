"""Which loaded versions a request has used, for whoever has to say afterwards what answered it.

A request is answered in one thread, and so the thread is where this is kept. Nothing is kept unless somebody watches.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sealserve.serving.in_use import LoadedVersion


class _Seen(threading.local):
    used: list[tuple[str, LoadedVersion]] | None = None


_seen = _Seen()


def note(name: str, version: LoadedVersion) -> None:
    """A request in this thread uses a version of the model ``name``."""
    if _seen.used is not None:
        _seen.used.append((name, version))


@contextlib.contextmanager
def watched() -> Iterator[list[tuple[str, LoadedVersion]]]:
    """Names and versions that this thread uses while the block runs."""
    used: list[tuple[str, LoadedVersion]] = []
    before, _seen.used = _seen.used, used
    try:
        yield used
    finally:
        _seen.used = before
