"""Taking turns at what only so many callers can use at once, in the order in which they came."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from sealserve.serving.errors import CallerGoneError

_WAIT = 0.05  # seconds between two looks at whether the caller is still there

T = TypeVar("T")


class Turns(Generic[T]):
    """Hands out ``things``, each to one caller at a time; safe to use from several threads.

    A caller that waits keeps its place while it looks whether its answer is still wanted.
    """

    def __init__(self, things: Iterable[T]) -> None:
        self._lock = threading.Lock()
        self._free = list(things)
        self._waiting: deque[queue.SimpleQueue[T]] = deque()

    def take(self, wanted: Callable[[], bool]) -> T:
        """The next that is free, to be given back. :raises CallerGoneError: nobody waits for the answer any more."""
        if not wanted():
            raise _gone()
        with self._lock:
            if self._free:  # then nobody waits
                return self._free.pop()
            place: queue.SimpleQueue[T] = queue.SimpleQueue()
            self._waiting.append(place)
        while True:
            try:
                return place.get(timeout=_WAIT)
            except queue.Empty:
                if not wanted():
                    self._leave(place)
                    raise _gone() from None

    def give_back(self, thing: T) -> None:
        """It is free again: for who has waited longest."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().put(thing)
            else:
                self._free.append(thing)

    def _leave(self, place: queue.SimpleQueue[T]) -> None:
        with self._lock:
            if place in self._waiting:
                self._waiting.remove(place)
                return
        self.give_back(place.get())  # it came at the last moment


def _gone() -> CallerGoneError:
    return CallerGoneError("the caller does not wait for the answer any more")
