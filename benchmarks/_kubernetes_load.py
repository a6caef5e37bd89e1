"""Verified requests at a constant rate while a cluster changes: who answered, how quickly, and what failed.

The load is open: a request is due at its time, whether or not the one before it was quick, and a late answer counts
from when its request was due.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from numpy.typing import ArrayLike

from sealserve.client import Client
from sealserve.errors import SealserveError
from sealserve.evidence import AppraisalPolicy


@dataclass(frozen=True)
class Outcome:
    """One request.

    :ivar due: when it was to be sent, by :func:`time.monotonic`. :ivar seconds: from then until its answer.
    :ivar replica: who answered; empty if nobody did. :ivar error: what failed.
    """

    due: float
    seconds: float
    replica: str = ""
    error: str = ""


class Load:
    """Callers with a client and so with a connection of their own each, in threads.

    :param rate: requests a second of all callers together.
    """

    def __init__(
        self,
        target: str,
        policy: AppraisalPolicy,
        *,
        model: str,
        inputs: Mapping[str, ArrayLike],
        callers: int,
        rate: float,
        timeout: float = 10.0,
    ) -> None:
        self._target, self._policy = target, policy
        self._model, self._inputs = model, inputs
        self._pause = callers / rate
        self._timeout = timeout
        self._stop = threading.Event()
        self._outcomes: list[Outcome] = []
        began = time.monotonic()
        self._threads = [
            threading.Thread(target=self._call, args=(began + self._pause * number / callers,), daemon=True)
            for number in range(callers)
        ]

    def _call(self, due: float) -> None:
        with Client(self._target, self._policy, max_connections=1) as client:
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                try:
                    answer = client.predict(self._inputs, model=self._model, timeout=self._timeout)
                except SealserveError as error:
                    outcome = Outcome(due, time.monotonic() - due, error=str(error))
                else:
                    outcome = Outcome(due, time.monotonic() - due, answer.replica or "")
                self._outcomes.append(outcome)
                due += self._pause

    def outcomes(self, since: float = 0.0, until: float = float("inf")) -> list[Outcome]:
        """Those that were due in this time."""
        return [outcome for outcome in list(self._outcomes) if since <= outcome.due < until]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def running(load: Load) -> Iterator[Load]:
    """The load, for as long as the block runs."""
    load.start()
    try:
        yield load
    finally:
        load.stop()


def failures(outcomes: Sequence[Outcome]) -> Counter[str]:
    """What failed, and how often."""
    return Counter(outcome.error for outcome in outcomes if outcome.error)


def percentile(outcomes: Sequence[Outcome], share: float) -> float:
    """Seconds within which this share of the requests was answered."""
    seconds = sorted(outcome.seconds for outcome in outcomes)
    return seconds[min(len(seconds) - 1, int(share * len(seconds)))]


def unevenness(outcomes: Sequence[Outcome], replicas: int) -> float:
    """How far the replica that is farthest from an even share is from it: 0.2 is a fifth more or less."""
    counts = Counter(outcome.replica for outcome in outcomes if not outcome.error)
    even = counts.total() / replicas
    return max(abs(counts.get(name, 0) - even) / even for name in [*counts, *[""] * (replicas - len(counts))])
