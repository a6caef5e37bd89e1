"""Load on a target, and what it took: closed loop (as fast as answers come) and open loop (a constant rate).

In an open loop a request's latency counts from the moment at which it was due, also if it had to wait because others
were late: a server that stalls is not spared the requests that it kept away (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sealserve.client.aio.client import AsyncCaller
from sealserve.client.attestation import judge, open_connection, request_evidence
from sealserve.client.deadline import Deadline
from sealserve.client.endpoint import Endpoint
from sealserve.client.histogram import Histogram
from sealserve.errors import SealserveError, UnavailableError
from sealserve.evidence import AppraisalPolicy

PERCENTILES = (50.0, 90.0, 99.0, 99.9)
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Plan:
    """One measurement.

    :param concurrency: requests at the same time, at most. :param seconds: how long. :param count: or how many.
    :param rate: requests a second; as fast as answers come, if None. :param timeout: seconds, of each request.
    """

    concurrency: int
    seconds: float | None = None
    count: int | None = None
    rate: float | None = None
    timeout: float = 30.0


@dataclass
class Outcome:
    """What one measurement gave. Failed requests are in ``errors``, by cause, and in no latency.

    :param replicas: the latencies of each. :param most_late: seconds by which a request of an open loop was begun after
        it was due, at most.
    """

    plan: Plan
    batch: int
    latencies: Histogram = field(default_factory=Histogram)
    errors: Counter[str] = field(default_factory=Counter)
    replicas: dict[str, Histogram] = field(default_factory=dict)
    most_late: float = 0.0
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def label(self) -> str:
        """What was measured, in a few words."""
        return f"{self.plan.concurrency} at once" + (f", {self.plan.rate:g}/s" if self.plan.rate else "")

    @property
    def per_second(self) -> float:
        """Answers a second."""
        return self.latencies.count / max(self.seconds, 1e-9)

    @property
    def cpu_share(self) -> float:
        """How much of one core the load generator took. Near 1, it measured itself: a process has no more."""
        return self.cpu_seconds / max(self.seconds, 1e-9)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form; latencies in milliseconds."""
        done = self.latencies.count
        return {
            "concurrency": self.plan.concurrency,
            "rate": self.plan.rate,
            "batch": self.batch,
            "requests": done,
            "errors": dict(self.errors),
            "seconds": round(self.seconds, 3),
            "requests_per_second": round(self.per_second, 2),
            "inputs_per_second": round(self.per_second * self.batch, 2),
            "latency_ms": _milliseconds(self.latencies),
            "client_cpu_ms_per_request": round(self.cpu_seconds * 1000 / max(done, 1), 3),
            "client_cpu_share": round(self.cpu_share, 3),
            "begun_late_ms": None if self.plan.rate is None else round(self.most_late * 1000, 3),
            "replicas": {name: latencies.count for name, latencies in self._by_count()},
            "replica_latency_ms": {name: _milliseconds(latencies) for name, latencies in self._by_count()},
        }

    def answered(self, replica: str, seconds: float) -> None:
        """An answer came."""
        self.latencies.add(seconds)
        self.replicas.setdefault(replica, Histogram()).add(seconds)

    def _by_count(self) -> list[tuple[str, Histogram]]:
        return sorted(self.replicas.items(), key=lambda item: -item[1].count)


def _milliseconds(latencies: Histogram) -> dict[str, float]:
    shown = {f"p{percent:g}": latencies.percentile(percent) for percent in PERCENTILES}
    shown |= {"mean": latencies.mean, "max": latencies.most}
    return {name: round(value * 1000, 3) for name, value in shown.items()}


async def measure(
    client: AsyncCaller,
    inputs: Mapping[str, Array],
    plan: Plan,
    *,
    model: str,
    batch: int,
    tick: Callable[[Outcome], None] = lambda _: None,
) -> Outcome:
    """Carry out a plan.

    :param tick: is told after every request.
    :raises TrustError: a replica was refused. :raises InputError: the request is wrong.
    """
    outcome = Outcome(plan, batch)
    tickets = itertools.count() if plan.count is None else iter(range(plan.count))
    started, cpu = time.perf_counter(), time.process_time()
    end = started + plan.seconds if plan.seconds is not None else float("inf")

    async def worker() -> None:
        for ticket in tickets:
            due = time.perf_counter() if plan.rate is None else started + ticket / plan.rate
            if due >= end:
                return
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            outcome.most_late = max(outcome.most_late, time.perf_counter() - due)
            try:
                answer = await client.predict(inputs, model=model, timeout=plan.timeout)
            except UnavailableError as error:
                outcome.errors[error.reason] += 1
            else:
                outcome.answered(answer.replica, time.perf_counter() - due)
            tick(outcome)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(plan.concurrency):
                group.create_task(worker())
    except* SealserveError as several:
        raise several.exceptions[0] from None
    outcome.seconds, outcome.cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    return outcome


@dataclass(frozen=True)
class VerificationCost:
    """Medians over new connections, in seconds: what comes before the first byte of an input.

    :param connect: TCP and TLS. :param evidence: question and answer. :param appraise: of that evidence, and its CPU.
    """

    connect: float
    evidence: float
    appraise: float
    appraise_cpu: float
    quote_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form, in milliseconds."""
        names = ("connect", "evidence", "appraise", "appraise_cpu")
        return {f"{name}_ms": round(getattr(self, name) * 1000, 3) for name in names} | {
            "quote_bytes": self.quote_bytes
        }


def measure_verification(
    endpoint: Endpoint, policy: AppraisalPolicy, *, times: int = 5, timeout: float = 10.0
) -> VerificationCost:
    """Check a replica on ``times`` new connections, one after another; errors as :func:`sealserve.client.attest`."""
    rows, size = [], 0
    for _ in range(times):
        deadline = Deadline(timeout)
        moments = [time.perf_counter()]
        connection = open_connection(endpoint, deadline)
        try:
            moments.append(time.perf_counter())
            presented = request_evidence(connection, deadline)
            moments.append(time.perf_counter())
            cpu = time.thread_time()
            judge(presented, policy)
            cpu = time.thread_time() - cpu
            moments.append(time.perf_counter())
        finally:
            connection.close()
        size = len(presented.quote)
        rows.append((*np.diff(moments), cpu))
    connect, evidence, appraise, appraise_cpu = (float(value) for value in np.median(rows, axis=0))
    return VerificationCost(connect, evidence, appraise, appraise_cpu, size)
