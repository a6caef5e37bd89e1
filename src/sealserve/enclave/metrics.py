"""Metrics of a replica in Prometheus's text format. Names and labels: ``docs/kubernetes-monitoring.md``.

They go to whoever runs the machines, who is not trusted: counts and times, which can be seen from outside, too. Nothing
of inputs, answers or keys is in them, and no text that a client chose.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import get_args

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from sealserve.enclave.statistics import SECONDS, Outcome, State, Statistics
from sealserve.serving.core import ModelServer
from sealserve.serving.heap import allocated_bytes
from sealserve.serving.process.metrics import Metrics

_PREFIX = "sealserve_replica_"
_MEMORY = {"MemTotal": "enclave_bytes", "MemFree": "enclave_free_bytes"}


class ReplicaMetrics:
    """Metrics of requests, which are counted from now on, and of everything else in ``statistics``.

    :param tee: what the replica runs in.
    """

    def __init__(self, core: ModelServer, statistics: Statistics, *, tee: str) -> None:
        registry = CollectorRegistry()
        registry.register(_ReplicaCollector(statistics, tee))
        core.observer = self._serving = Metrics(core, registry)

    def text(self) -> bytes:
        """All metrics, as they are now."""
        return self._serving.text()


class _ReplicaCollector(Collector):
    def __init__(self, statistics: Statistics, tee: str) -> None:
        self._statistics = statistics
        self._tee = tee

    def describe(self) -> list[Metric]:
        """Nothing in advance."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every family."""
        statistics = self._statistics
        yield _gauge("tee", "What the replica runs in.", {self._tee: 1}, "tee")
        states = {str(state): float(state == statistics.state) for state in get_args(State)}
        yield _gauge("state", "1 for what the replica does, 0 for what it does not.", states, "state")
        grants = CounterMetricFamily(_PREFIX + "grants", "What came of asking the key brokers.", labels=["outcome"])
        for outcome in get_args(Outcome):
            grants.add_metric([outcome], statistics.grants[outcome])
        yield grants
        if statistics.granted_at is not None:
            yield _gauge("grant_timestamp_seconds", "When the last grant came.", {"": statistics.granted_at})
        if (expires := statistics.expires()) is not None:
            yield _gauge(
                "certificate_expiry_timestamp_seconds", "When the certificate of the owner ends.", {"": expires}
            )
        yield from self._load()
        yield self._attestations()
        yield from self._memory()

    def _load(self) -> Iterator[Metric]:
        loads = {name: load() for name, load in self._statistics.loads.copy().items()}
        working = {name: float(load.working) for name, load in loads.items()}
        most = {name: float(load.most) for name, load in loads.items()}
        yield _gauge("requests_in_flight", "Requests that are queued or computed.", working)
        yield _gauge("requests_limit", "Requests that may be queued or computed.", most)
        refused = CounterMetricFamily(_PREFIX + "requests_refused", "Requests without a place.", labels=["API"])
        for name, load in loads.items():
            refused.add_metric([name], load.refused)
        yield refused

    def _attestations(self) -> Metric:
        family = HistogramMetricFamily(_PREFIX + "attestation_seconds", "Time of making evidence for a client.")
        bounds = (*(str(bound) for bound in SECONDS), "+Inf")
        counts = accumulate(self._statistics.durations)
        family.add_metric([], [*zip(bounds, map(float, counts), strict=True)], self._statistics.seconds)
        return family

    def _memory(self) -> Iterator[Metric]:
        if (allocated := allocated_bytes()) is not None:
            yield _gauge("allocated_bytes", "Memory that is allocated and not freed.", {"": allocated})
        if self._tee == "sgx":  # where Gramine answers for the kernel, and says what there is of the enclave
            with contextlib.suppress(OSError):
                for line in Path("/proc/meminfo").read_text().splitlines():
                    name, _, size = line.partition(":")
                    if name in _MEMORY:
                        yield _gauge(_MEMORY[name], "Memory of the enclave.", {"": int(size.split()[0]) << 10})


def _gauge(name: str, text: str, values: dict[str, float], label: str = "API") -> GaugeMetricFamily:
    """A family by one label; with the empty name alone, of one value without a label."""
    labels = [] if set(values) == {""} else [label]
    family = GaugeMetricFamily(_PREFIX + name, text, labels=labels)
    for key, value in values.items():
        family.add_metric([key] if labels else [], value)
    return family
