"""One point in time that bounds every step of a call: connecting, checking, sending, waiting, trying again."""

from __future__ import annotations

import math
import time
from typing import Self

from sealserve.client.errors import DeadlinePassedError
from sealserve.errors import InputError


class Deadline:
    """A moment on the monotonic clock.

    :param seconds: from now; positive and finite.
    :raises InputError: for anything else.
    """

    __slots__ = ("_moment", "seconds")

    def __init__(self, seconds: float) -> None:
        if not (math.isfinite(seconds) and seconds > 0):
            raise InputError(f"a timeout of {seconds} seconds is not usable", hint="Give a positive number of seconds.")
        self.seconds = seconds
        self._moment = time.monotonic() + seconds

    def remaining(self, doing: str) -> float:
        """Seconds left, always positive.

        :param doing: what the caller is about to do, for the error: ``"waiting for an answer"``.
        :raises DeadlinePassedError: none are left.
        """
        left = self._moment - time.monotonic()
        if left <= 0:
            raise DeadlinePassedError(
                f"no result within {_rounded(self.seconds)} s; the time ran out while {doing}",
                hint="Check that the target is up and reachable, or allow more time (timeout).",
            )
        return left

    def within(self, seconds: float) -> Self:
        """The earlier one of this deadline and ``seconds`` from now."""
        return type(self)(max(min(seconds, self._moment - time.monotonic()), 1e-6))


def _rounded(seconds: float) -> str:
    """Seconds to the millisecond."""
    return f"{max(seconds, 0.001):.3f}".rstrip("0").rstrip(".")
