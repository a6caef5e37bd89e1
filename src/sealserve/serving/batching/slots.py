"""Whose turn it is to run a batch."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable


class BatchSlots:
    """So many batches run at once; the queues they come from take turns. Safe to use from several threads.

    There are no threads for batches: the request that began a batch runs it, in its own thread, which saves two
    switches between threads; it would only wait otherwise.

    :param count: how many batches may run at once.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._lock = threading.Lock()
        self._waiting: dict[Hashable, deque[threading.Lock]] = {}

    def acquire(self, queue: Hashable) -> None:
        """Wait for the turn of a batch from this queue."""
        with self._lock:
            if self._free:
                self._free -= 1
                return
            turn = threading.Lock()
            turn.acquire()
            self._waiting.setdefault(queue, deque()).append(turn)
        turn.acquire()

    def release(self) -> None:
        """End a turn; the next queue has one."""
        with self._lock:
            if not self._waiting:
                self._free += 1
                return
            queue = next(iter(self._waiting))
            turns = self._waiting.pop(queue)
            turn = turns.popleft()
            if turns:
                self._waiting[queue] = turns  # behind all others
        turn.release()
