"""Strangers: peers that did not prove to be any enclave. They must not be able to fill the disk.

Every decision about evidence that is genuine and made for this very connection is recorded by itself, granted or not.
Anybody can send anything else, recorded evidence of others included, as fast as they like. Of that the first hundred
are recorded one by one, then one in ten seconds, and the others are counted: by reason, in one record a minute.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sealserve.allowance import Allowance

SUMMARY_SECONDS = 60.0


class Strangers:
    """Decides what is recorded by itself, and counts the rest.

    :param clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._allowance = Allowance(clock)
        self._counted: Counter[str] = Counter()
        self._since = ""

    def admit(self, reason: str) -> bool:
        """Whether this refusal is recorded by itself; otherwise it is counted.

        :param reason: the refusal's.
        """
        if self._allowance.take():
            return True
        self._since = self._since or datetime.now(UTC).isoformat(timespec="milliseconds")
        self._counted[reason] += 1
        return False

    def summary(self) -> dict[str, Any] | None:
        """A record of what was counted since the last one; none if nothing was. Counting starts anew."""
        if not self._counted:
            return None
        record = {
            "event": "strangers",
            "since": self._since,
            "refused": self._counted.total(),
            "reasons": dict(self._counted.most_common()),
        }
        self._counted.clear()
        self._since = ""
        return record
