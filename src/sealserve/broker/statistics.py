"""What a broker counts of its own doing, for metrics. Written and read in its event loop."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histogram's buckets; beyond the last is one more."""


@dataclass
class Statistics:
    """Counts since the broker was made.

    :ivar decisions: by protocol, outcome and reason (empty if granted). :ivar evidence: genuine evidence, by kind of
        TEE and TCB status. :ivar durations: how many decisions took as long as each bucket of :data:`SECONDS`.
    :ivar audit_failure: why the last decision could not be recorded; none if it was.
    """

    started: float = field(default_factory=time.time)
    decisions: Counter[tuple[int, str, str]] = field(default_factory=Counter)
    evidence: Counter[tuple[str, str]] = field(default_factory=Counter)
    durations: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    seconds: float = 0.0
    audit_records: int = 0
    audit_failures: int = 0
    audit_failure: str | None = None

    def decided(self, protocol: int, outcome: str, reason: str, seconds: float) -> None:
        """Count a decision. :param seconds: from the enclave's request to the answer being ready."""
        self.decisions[protocol, outcome, reason] += 1
        self.durations[bisect_left(SECONDS, seconds)] += 1
        self.seconds += seconds

    def recorded(self, failure: str | None = None) -> None:
        """Count a record of the audit chain. :param failure: why it could not be written; none if it was."""
        self.audit_failure = failure
        if failure is None:
            self.audit_records += 1
        else:
            self.audit_failures += 1
