"""Prometheus's metrics under TensorFlow Serving's names, and some of this server's own.

Names, labels and buckets: ``tensorflow_serving/servables/tensorflow/util.cc``, ``saved_model_warmup_util.cc`` and
``tensorflow/cc/saved_model/loader.cc``. Times are in microseconds.

Labels come from callers too (a model's name, a path): a name that no configured model has counts as the empty one.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from sealserve import __version__
from sealserve.serving.core import ModelChoice, ModelServer
from sealserve.serving.errors import RequestError

_MICROSECONDS = 1_000_000
# 33 of them, from 10 on, each 1.8 times the one before; the last is open.
_LATENCY = tuple(10 * 1.8**power for power in range(33))
_PREFIX = ":tensorflow:serving:"
_METHODS = frozenset(
    {
        "predict", "classify", "regress", "multiinference", "getmodelmetadata", "getmodelstatus", "metadata", "status",
        "infer", "modelinfer", "modelmetadata", "handlereloadconfigrequest",
    }
)  # fmt: skip
_STATUSES = ("success", "fail")
_OTHER = "other"
_MOST_PATHS = 200  # versions: those that were loaded last. A model that is trained each minute has many in a year
# When each label was first seen: the library tells it, TensorFlow Serving does not.
_CREATED = re.compile(rb"^(# (HELP|TYPE) )?:tensorflow:\S+_created[ {].*\n", re.MULTILINE)


class Metrics:
    """Counts what the server does: the :class:`~sealserve.serving.core.Observer` of ``core``, and more.

    Safe to use from several threads.

    :param registry: with further metrics, which are told with these; none if not given.
    """

    def __init__(self, core: ModelServer, registry: CollectorRegistry | None = None) -> None:
        self._core = core
        self._registry = registry = registry or CollectorRegistry()
        self._requests = _counter(registry, _PREFIX + "request_count", "Requests.", "model_name", "status")
        self._latency = _histogram(
            registry, "request_latency", "Time of requests that were answered.", "model_name", "API", "entrypoint"
        )
        self._runtime = _histogram(
            registry, "runtime_latency", "Time in the engine, batching with it.", "model_name", "API", "runtime"
        )
        self._warm_up = _histogram(
            registry, "model_warmup_latency", "Time of replaying a version's requests.", "model_path", "status"
        )
        self._warm_up_records = _counter(
            registry, _PREFIX + "model_warmup_records_read", "Requests that were replayed.", "model_path", "status"
        )
        self._batches = _counter(registry, _PREFIX + "batching_session:wrapped_run_count", "Batches that were run.")
        saved_model = ":tensorflow:cc:saved_model:"
        self._loads = _counter(
            registry, saved_model + "load_attempt_count", "Versions that were loaded.", "model_path", "status"
        )
        self._load_time = _counter(registry, saved_model + "load_latency", "Time of loading.", "model_path")
        self._counters = {
            f"{prefix}{name}"
            for prefix, names in (
                (_PREFIX, ("request_count", "model_warmup_records_read", "batching_session:wrapped_run_count")),
                (saved_model, ("load_attempt_count", "load_latency")),
            )
            for name in names
        }
        self._states = Gauge(
            "sealserve_model_state",
            "State of a version, as GetModelStatus gives it: 10 start, 20 loading, 30 available, 40 unloading, 50 end.",
            ["model_name", "version"],
            registry=registry,
        )
        Gauge("sealserve_build", "This program.", ["version"], registry=registry).labels(__version__).set(1)
        ProcessCollector(registry=registry)
        self._known: dict[tuple[str, str, str, str], tuple[Any, Any]] = {}
        self._lock = threading.Lock()
        self._paths: dict[str, str] = {}

    def request(self, model: str, method: str, api: str, status: str, seconds: float) -> None:
        """One request was answered; see :class:`~sealserve.serving.core.Observer`."""
        key = (model, method, api, status)
        found = self._known.get(key)
        if found is None:
            name = model if model in self._core.names() else ""
            label = method if method.lower() in _METHODS else _OTHER
            found = self._requests.labels(name, status), self._latency.labels(name, label, api)
            if name == model and label == method:
                self._known[key] = found
        count, latency = found
        count.inc()
        if status == "OK":  # as TensorFlow Serving counts
            latency.observe(seconds * _MICROSECONDS)

    def runtime(self, model: str, engine: str) -> Any:
        """What takes each time (µs) that an engine took for one answer of ``model``: has a method ``observe``."""
        return self._runtime.labels(model, "Predict", engine)

    def batch(self, _microseconds: float) -> None:
        """A batch was run."""
        self._batches.inc()

    @contextlib.contextmanager
    def loading(self, model: str, path: Path) -> Iterator[None]:
        """Counts the load in the block, and whether it failed. ``path``: of the version."""
        with self._lock:
            self._paths.pop(str(path), None)
            self._paths[str(path)] = model
            oldest = next(iter(self._paths)) if len(self._paths) > _MOST_PATHS else None
        if oldest is not None:
            self._forget_path(oldest)
        with _timed() as spent:
            try:
                yield
            except BaseException:
                self._loads.labels(str(path), "fail").inc()
                raise
        self._loads.labels(str(path), "success").inc()
        self._load_time.labels(str(path)).inc(spent[0])

    def warmed_up(self, path: Path, records: int, seconds: float, status: str) -> None:
        """A version's requests were replayed."""
        self._warm_up.labels(str(path), status).observe(seconds * _MICROSECONDS)
        self._warm_up_records.labels(str(path), status).inc(records)

    def text(self) -> bytes:
        """All metrics, as they are now, in Prometheus's text format."""
        self._forget()
        self._states.clear()
        for name in self._core.names():
            for version, state in _states(self._core, name):
                self._states.labels(name, str(version)).set(state)
        text = _CREATED.sub(b"", generate_latest(self._registry))
        # The library appends `_total` to counters' names; TensorFlow Serving does not.
        for name in self._counters:
            text = text.replace(f"{name}_total".encode(), name.encode())
        return text

    def _forget(self) -> None:
        """Let go of models that are not configured any more: names must not add up over time."""
        names = set(self._core.names())
        gone = {key[0] for key in list(self._known)} - names - {""}
        for key in list(self._known):
            if key[0] in gone:
                del self._known[key]
        for metric in (self._requests, self._latency, self._runtime):
            for labels in _label_values(metric):
                if labels[0] and labels[0] not in names:
                    metric.remove(*labels)
        with self._lock:
            paths = [path for path, model in self._paths.items() if model not in names]
        for path in paths:
            self._forget_path(path)

    def _forget_path(self, path: str) -> None:
        with self._lock:
            self._paths.pop(path, None)
        for metric in (self._warm_up, self._warm_up_records, self._loads):
            for status in _STATUSES:
                with contextlib.suppress(KeyError):  # as old versions of the library say that there is none
                    metric.remove(path, status)
        with contextlib.suppress(KeyError):
            self._load_time.remove(path)


def _counter(registry: CollectorRegistry, name: str, text: str, *labels: str) -> Counter:
    return Counter(name, text, labels, registry=registry)


def _histogram(registry: CollectorRegistry, name: str, text: str, *labels: str) -> Histogram:
    return Histogram(_PREFIX + name, f"{text} Microseconds.", labels, buckets=_LATENCY, registry=registry)


def _label_values(metric: Any) -> list[tuple[str, ...]]:
    names = metric._labelnames
    found = {tuple(sample.labels[name] for name in names) for family in metric.collect() for sample in family.samples}
    return sorted(found)


def _states(core: ModelServer, name: str) -> list[tuple[int, int]]:
    try:
        return [(status.version, int(status.state)) for status in core.status(ModelChoice(name))]
    except RequestError:
        return []


@contextlib.contextmanager
def _timed() -> Iterator[list[float]]:
    started = time.monotonic()
    spent: list[float] = []
    yield spent
    spent.append((time.monotonic() - started) * _MICROSECONDS)
