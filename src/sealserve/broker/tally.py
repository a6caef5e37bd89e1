"""What the workers of one broker count, in memory that they share, so that one of them can tell of all.

Each worker has a place of its own and is the only one that writes there. A place outlives its worker: the one that
takes over goes on counting from what is there, and counters of the whole never go back.
"""

from __future__ import annotations

import json
import mmap
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields

from sealserve.broker.statistics import Statistics

_HALF = 32 << 10
_HEADER = struct.Struct("<I")


@dataclass
class Counts:
    """What a worker tells.

    :ivar connections: that are open. :ivar handshakes: by outcome.
    """

    statistics: Statistics = field(default_factory=Statistics)
    connections: int = 0
    handshakes: Counter[str] = field(default_factory=Counter)


class Tally:
    """Counts of so many workers; to be made before they are forked."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        # A place is a number that grows with each writing, and two halves, which are written in turns: the number
        # says which is whole, and a reader that finds the same number afterwards has not seen half a text.
        self._size = 1 + 2 * _HALF
        self._lock = threading.Lock()
        self._memory = mmap.mmap(-1, workers * self._size)

    def write(self, worker: int, counts: Counts) -> None:
        """Tell what a worker has counted."""
        text = _encode(counts)
        if len(text) > _HALF - _HEADER.size:
            raise ValueError("a worker's counts are too large")
        at = worker * self._size
        with self._lock:
            number = (self._memory[at] + 1) % 256
            start = at + 1 + number % 2 * _HALF
            self._memory[start : start + _HEADER.size + len(text)] = _HEADER.pack(len(text)) + text
            self._memory[at] = number

    def read(self, worker: int) -> Counts:
        """What it told last."""
        at = worker * self._size
        while True:
            number = self._memory[at]
            start = at + 1 + number % 2 * _HALF
            half = self._memory[start : start + _HALF]
            if self._memory[at] == number:
                break
        (size,) = _HEADER.unpack(half[: _HEADER.size])
        return _decode(half[_HEADER.size : _HEADER.size + size]) if size else Counts()


def total(counts: Iterable[Counts]) -> Counts:
    """The sum. An audit record that could not be written stays told, whoever failed to write it."""
    whole = Counts()
    started = [time.time()]
    for one in counts:
        ours, theirs = whole.statistics, one.statistics
        started.append(theirs.started)
        ours.decisions.update(theirs.decisions)
        ours.evidence.update(theirs.evidence)
        ours.durations = [a + b for a, b in zip(ours.durations, theirs.durations, strict=True)]
        ours.seconds += theirs.seconds
        ours.audit_records += theirs.audit_records
        ours.audit_failures += theirs.audit_failures
        ours.audit_failure = ours.audit_failure or theirs.audit_failure
        whole.connections += one.connections
        whole.handshakes.update(one.handshakes)
    whole.statistics.started = min(started)
    return whole


def _encode(counts: Counts) -> bytes:
    statistics = {f.name: getattr(counts.statistics, f.name) for f in fields(Statistics)}
    statistics["decisions"] = [[*key, count] for key, count in counts.statistics.decisions.items()]
    statistics["evidence"] = [[*key, count] for key, count in counts.statistics.evidence.items()]
    told = {"statistics": statistics, "connections": counts.connections, "handshakes": counts.handshakes}
    return json.dumps(told, separators=(",", ":")).encode()


def _decode(text: bytes) -> Counts:
    told = json.loads(text)
    statistics = told["statistics"]
    statistics["decisions"] = Counter({(p, o, r): count for p, o, r, count in statistics["decisions"]})
    statistics["evidence"] = Counter({(tee, status): count for tee, status, count in statistics["evidence"]})
    return Counts(Statistics(**statistics), told["connections"], Counter(told["handshakes"]))
