"""The threads in which evidence is judged, so that nobody waits for another's evidence or collateral.

There are two kinds. A few threads judge what can be judged at once: it is all processor time, and the verifier library
holds Python's lock meanwhile, so that more threads would not do more. Evidence that first needs collateral from a
service goes to others, where it may wait for seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_QUICK = 2
_WAITING = 32


class MustWaitError(Exception):
    """Judging would wait for a collateral service, and may not here."""


class Judges:
    """Threads; start when they are needed."""

    def __init__(self) -> None:
        self._quick = ThreadPoolExecutor(_QUICK, thread_name_prefix="judge")
        self._waiting = ThreadPoolExecutor(_WAITING, thread_name_prefix="judge-waiting")

    async def run(self, judge: Callable[[bool], T]) -> T:
        """What ``judge`` returns, or raises.

        :param judge: is called with whether it may wait; if it may not and must, it raises :class:`MustWaitError`, and
            is called once more where it may.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._quick, judge, False)
        except MustWaitError:
            return await loop.run_in_executor(self._waiting, judge, True)

    def close(self) -> None:
        """Start nothing more."""
        self._quick.shutdown(wait=False, cancel_futures=True)
        self._waiting.shutdown(wait=False, cancel_futures=True)
