"""Whose turn it is, where many peers have sent something at once: who came first, goes first.

An event loop is fair to bytes: of a thousand peers that start together it would do the first step of each, then the
second of each, and all would be ready at the very end, or give up together. By turns the first is ready at once.
"""

from __future__ import annotations

import asyncio
import heapq
from itertools import count

AT_A_TIME = 8
"""How many are woken before the loop looks for news, which costs something, too."""


class Turns:
    """Wakes a few of those who asked, the oldest first, then lets the loop look for news. For one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._numbers = count()
        self._asking: list[tuple[int, int, asyncio.Future[None]]] = []
        self._pending = False

    def number(self) -> int:
        """A place in the order, for somebody who comes now."""
        return next(self._numbers)

    def ask(self, number: int, waiting: asyncio.Future[None]) -> None:
        """Have ``waiting`` resolved when it is the turn of whoever has this number."""
        heapq.heappush(self._asking, (number, next(self._numbers), waiting))
        if not self._pending:
            self._pending = True
            self._loop.call_soon(self._next)

    def _next(self) -> None:
        left = AT_A_TIME
        while self._asking and left:
            _, _, waiting = heapq.heappop(self._asking)
            if not waiting.done():
                waiting.set_result(None)
                left -= 1
        self._pending = bool(self._asking)
        if self._pending:
            self._loop.call_soon(self._next)
