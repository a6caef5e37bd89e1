"""Metrics of this broker in Prometheus's text format. Names and labels: ``docs/broker-admin.md``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from sealserve import __version__
from sealserve.broker.grants import LiveGrants
from sealserve.broker.statistics import SECONDS, Statistics
from sealserve.broker.store.documents import KeyState
from sealserve.broker.tally import Counts
from sealserve.errors import SealserveError

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "sealserve_broker_"
_HANDSHAKES = ("completed", "failed", "timed-out", "dropped", "evicted")


class Metrics:
    """What ``/metrics`` tells.

    :param counts: gives what all workers of the broker have counted. :param connections: that enclaves may have open.
    :ivar requests: administrators' requests, by method and status.
    """

    def __init__(
        self,
        grants: LiveGrants,
        counts: Callable[[], Counts],
        *,
        connections: int,
    ) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self._registry = CollectorRegistry()
        self._registry.register(_BrokerCollector(grants, counts, self.requests, connections))
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """All metrics, as they are now."""
        return generate_latest(self._registry)


class _BrokerCollector(Collector):
    def __init__(
        self,
        grants: LiveGrants,
        counts: Callable[[], Counts],
        requests: Counter[tuple[str, int]],
        connections: int,
    ) -> None:
        self._grants = grants
        self._counts = counts
        self._requests = requests
        self._connections = connections

    def describe(self) -> list[Metric]:
        """Nothing in advance."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every family."""
        yield InfoMetricFamily(_PREFIX + "build", "This program.", {"version": __version__})
        counts = self._counts()
        yield from self._decisions(counts.statistics)
        yield from self._traffic(counts)
        yield from self._store()

    @staticmethod
    def _decisions(statistics: Statistics) -> Iterator[Metric]:
        yield _counter(
            "decisions",
            "Decisions over enclaves' requests; no reason means granted.",
            {(str(p), outcome, reason): n for (p, outcome, reason), n in statistics.decisions.copy().items()},
            ("protocol", "outcome", "reason"),
        )
        yield _counter(
            "evidence",
            "Genuine evidence that was judged, whether or not it was accepted.",
            statistics.evidence.copy(),
            ("tee", "tcb_status"),
        )
        durations = HistogramMetricFamily(
            _PREFIX + "decision_duration_seconds",
            "From an enclave's request to the answer: appraisal and the audit record.",
        )
        total, buckets = 0, []
        for bound, number in zip((*(str(s) for s in SECONDS), "+Inf"), list(statistics.durations), strict=True):
            total += number
            buckets.append((bound, float(total)))
        durations.add_metric([], buckets, statistics.seconds)
        yield durations
        yield _counter("audit_records", "Decisions recorded in the audit log.", {(): statistics.audit_records})
        yield _counter("audit_failures", "Decisions that could not be recorded.", {(): statistics.audit_failures})

    def _traffic(self, all_counts: Counts) -> Iterator[Metric]:
        yield _gauge("connections_open", "Connections of enclaves that are open.", {(): all_counts.connections})
        yield _gauge("connections_limit", "Connections of enclaves that may be open.", {(): self._connections})
        counts = {(outcome,): all_counts.handshakes.get(outcome, 0) for outcome in _HANDSHAKES}
        yield _counter("handshakes", "TLS handshakes on the enclaves' port.", counts, ("outcome",))
        requests = {(method, str(status)): n for (method, status), n in self._requests.copy().items()}
        yield _counter("admin_requests", "Requests to the administration.", requests, ("method", "code"))

    def _store(self) -> Iterator[Metric]:
        try:
            state, grants = self._grants.state, self._grants.current()
        except SealserveError:
            yield _gauge("store_trusted", "Whether the store can be trusted; if not, nothing is granted.", {(): 0})
            return
        yield _gauge("store_trusted", "Whether the store can be trusted; if not, nothing is granted.", {(): 1})
        yield _gauge("store_revision", "The store's revision that the broker goes by.", {(): state.revision})
        yield _gauge("grants", "Grants held.", {(): len(grants)})
        states = Counter(key.state() for key in state.keys.values())
        yield _gauge("key_versions", "Versions of keys.", {(s,): states[s] for s in get_args(KeyState)}, ("state",))
        expiries = {
            (grant.policy.name, platform): moment.timestamp()
            for grant in grants.values()
            for platform, moment in grant.policy.collateral_expiry().items()
            if moment is not None
        }
        yield _gauge(
            "collateral_expiry_timestamp_seconds",
            "When the collateral that a policy judges with expires.",
            expiries,
            ("policy", "platform"),
        )


def _counter(name: str, text: str, values: Mapping[Any, int], labels: tuple[str, ...] = ()) -> CounterMetricFamily:
    family = CounterMetricFamily(_PREFIX + name, text, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(key, value)
    return family


def _gauge(name: str, text: str, values: Mapping[Any, float], labels: tuple[str, ...] = ()) -> GaugeMetricFamily:
    family = GaugeMetricFamily(_PREFIX + name, text, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(key, value)
    return family
