"""An allowance for what strangers can cause as fast as they like, such as lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable

BURST = 100
SECONDS_EACH = 10.0


class Allowance:
    """A hundred at once, then one in ten seconds. For one thread.

    :param clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left = float(BURST)
        self._then = clock()

    def take(self) -> bool:
        """Whether there is one left; it is gone then."""
        now = self._clock()
        self._left = min(float(BURST), self._left + (now - self._then) / SECONDS_EACH)
        self._then = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
