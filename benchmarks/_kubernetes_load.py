"""Verified requests at a constant rate while a cluster changes: who answered, how quickly, and what failed.

The load is open: a request is due at its time, whether or not the one before it was quick, and a late answer counts
from when its request was due.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

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


@dataclass(frozen=True)
class Rate:
    """What is asked for.

    :ivar policy: file of the clients'. :ivar callers: threads, each with a client and so with a connection of its own.
    :ivar each_second: requests of all callers together.
    """

    target: str
    policy: Path
    model: str
    inputs: dict[str, np.ndarray]
    callers: int
    each_second: float
    timeout: float = 10.0


class Load:
    """The callers, in a process of their own: what changes the cluster must not keep them waiting."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def outcomes(self, since: float, until: float) -> list[Outcome]:
        """Those that were due in this time, by :func:`time.monotonic`, and are known by now."""
        self._connection.send((since, until))
        found: list[Outcome] = self._connection.recv()
        return found


@contextmanager
def running(rate: Rate) -> Iterator[Load]:
    """The load, for as long as the block runs."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_callers, args=(rate, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Load(ours)
    finally:
        ours.close()
        process.join()


def _callers(rate: Rate, connection: Connection) -> None:
    """Call until the other end of the connection is closed."""
    policy, outcomes, stop = AppraisalPolicy.load(rate.policy), list[Outcome](), threading.Event()
    pause, began = rate.callers / rate.each_second, time.monotonic()

    def call(due: float) -> None:
        with Client(rate.target, policy, max_connections=1) as client:
            while not stop.wait(max(0.0, due - time.monotonic())):
                try:
                    answer = client.predict(rate.inputs, model=rate.model, timeout=rate.timeout)
                except SealserveError as error:
                    outcome = Outcome(due, time.monotonic() - due, error=str(error))
                else:
                    outcome = Outcome(due, time.monotonic() - due, answer.replica or "")
                outcomes.append(outcome)
                due += pause

    threads = [
        threading.Thread(target=call, args=(began + pause * number / rate.callers,)) for number in range(rate.callers)
    ]
    for thread in threads:
        thread.start()
    try:
        while True:
            since, until = connection.recv()
            connection.send([outcome for outcome in list(outcomes) if since <= outcome.due < until])
    except (EOFError, OSError):
        stop.set()
    for thread in threads:
        thread.join()


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
