"""Where evidence is judged, so that nobody waits for another's collateral.

What can be judged at once is judged on the spot, in the event loop: it is a millisecond of processor time, in which the
verifier library holds Python's lock, so that a thread would only add its own cost. Evidence that first needs collateral
from a service or a disk, and evidence that many policies have to look at, go to threads, where they may take seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_THREADS = 32


class MustWaitError(Exception):
    """Judging would wait for a collateral service, and may not here."""


class Judges:
    """Threads; start when they are needed."""

    def __init__(self) -> None:
        self._waiting = ThreadPoolExecutor(_THREADS, thread_name_prefix="judge")

    async def run(self, judge: Callable[[bool], T], *, at_once: bool = True) -> T:
        """What ``judge`` returns, or raises.

        :param judge: is called with whether it may wait; if it may not and must, it raises :class:`MustWaitError`, and
            is called once more where it may.
        :param at_once: try on the spot first.
        """
        if at_once:
            try:
                return judge(False)
            except MustWaitError:
                pass
        return await asyncio.get_running_loop().run_in_executor(self._waiting, judge, True)

    def close(self) -> None:
        """Start nothing more."""
        self._waiting.shutdown(wait=False, cancel_futures=True)
