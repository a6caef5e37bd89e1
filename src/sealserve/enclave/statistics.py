"""What a replica counts of its own doing. What is told of it: :mod:`sealserve.enclave.metrics`."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from sealserve.serving.load import Load

State = Literal["waiting", "loading", "serving", "stopping"]
"""``waiting``: for a grant."""
Outcome = Literal["granted", "refused", "unavailable"]
"""Of asking the key brokers. ``unavailable``: none answered, or this machine gave no evidence."""

SECONDS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds of the buckets of attestations' times; beyond the last is one more."""


@dataclass
class Statistics:
    """Counts since the replica's start. Safe to use from several threads.

    :ivar granted_at: when the last grant came, in seconds since 1970 by the machine's clock; None before the first.
    :ivar durations: how many answers to clients that ask for evidence took as long as each bucket of :data:`SECONDS`;
        :ivar seconds: all of them together.
    :ivar loads: of the servers, by the name of what they speak. :ivar expires: when the certificate of the owner ends,
        in seconds since 1970; None for a certificate of the replica's own, which does not.
    """

    state: State = "waiting"
    grants: Counter[Outcome] = field(default_factory=Counter)
    granted_at: float | None = None
    durations: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    seconds: float = 0.0
    loads: dict[str, Callable[[], Load]] = field(default_factory=dict)
    expires: Callable[[], float | None] = lambda: None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def asked(self, outcome: Outcome) -> None:
        """Count what came of asking the key brokers."""
        self.grants[outcome] += 1
        if outcome == "granted":
            self.granted_at = time.time()

    def attested(self, seconds: float) -> None:
        """Count evidence that a client was given. :param seconds: that it took to make."""
        with self._lock:
            self.durations[bisect_left(SECONDS, seconds)] += 1
            self.seconds += seconds
