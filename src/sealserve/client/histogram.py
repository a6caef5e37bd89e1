"""Latencies in buckets, so that a long measurement takes no more memory than a short one."""

from __future__ import annotations

import math
from collections.abc import Iterator

_STEPS = 128  # buckets for each doubling: a value is off by less than 0.6 %
_SMALLEST = 1e-6  # seconds


class Histogram:
    """Counts seconds. Percentiles are right to 0.6 %; least, most and mean are exact."""

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0
        self.total = 0.0
        self.least = math.inf
        self.most = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        bucket = round(math.log2(max(seconds, _SMALLEST) / _SMALLEST) * _STEPS)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.count += 1
        self.total += seconds
        self.least = min(self.least, seconds)
        self.most = max(self.most, seconds)

    def percentile(self, percent: float) -> float:
        """The seconds that ``percent`` of all took at most; 0 if there are none."""
        wanted = max(math.ceil(self.count * percent / 100), 1)
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= wanted:
                return min(max(_SMALLEST * 2 ** (bucket / _STEPS), self.least), self.most)
        return 0.0

    def distribution(self) -> Iterator[tuple[float, float]]:
        """Each latency that occurred, rising, with the share of all that took at most as long."""
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            yield seen / self.count, min(max(_SMALLEST * 2 ** (bucket / _STEPS), self.least), self.most)

    @property
    def mean(self) -> float:
        """0 if there are none."""
        return self.total / self.count if self.count else 0.0
