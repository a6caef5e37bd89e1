"""Loading a version: its engine, the replay of its requests, batching in front of it, and what it takes counted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sealserve.logs import event, get_logger
from sealserve.serving.batching import BatchingModel, BatchingParameters, BatchSlots
from sealserve.serving.engine import Array, Engine, LoadedModel, RunsTogether, Signature, always
from sealserve.serving.engines import create_engine
from sealserve.serving.model_files import ModelFiles
from sealserve.serving.process.metrics import Metrics
from sealserve.serving.process.options import EngineOptions
from sealserve.serving.versions import ServedModelConfig
from sealserve.serving.warm_up import warm_up
from sealserve.wire.tensorflow_pb2 import SignatureDef

_OWN_PARAMETERS = "batching_params.pbtxt"

_log = get_logger(__name__)


class Loader:
    """Loads versions; the :data:`~sealserve.serving.versions.Load` of a version manager. Safe in several threads.

    :param batching: None for none. :param own_batching: a version's own parameters count before those.
    :param warm_up_rounds: how often the requests that come with a version are replayed; 0 for never.
    """

    def __init__(
        self,
        options: EngineOptions,
        metrics: Metrics,
        *,
        batching: BatchingParameters | None = None,
        own_batching: bool = False,
        warm_up_rounds: int = 1,
    ) -> None:
        self._options = options
        self._metrics = metrics
        self._batching = batching
        # Threads are common to all models, whatever parameters they have of their own.
        self._slots = BatchSlots(batching.num_batch_threads) if batching else None
        self._own_batching = own_batching
        self._rounds = warm_up_rounds
        self._engines: dict[str, Engine] = {}

    def prepare(self, names: Sequence[str]) -> None:
        """Start the engines of these names now.

        :raises ConfigurationError: one is not installed, or does not take the options.
        """
        for name in names:
            self._engine(name)

    def __call__(self, config: ServedModelConfig, version: int, files: ModelFiles) -> LoadedModel:
        """Load one version. :raises ModelError: it cannot be run, or its own requests fail."""
        path = Path(config.name) / str(version)
        started = time.monotonic()
        with self._metrics.loading(config.name, path):
            loaded = self._engine(config.engine).load(files)
        try:
            if self._batching is not None:
                counted = _Timed(loaded, self._metrics.batch)
                loaded = BatchingModel(counted, self._parameters(files, self._batching), self._slots)
            loading = time.monotonic() - started
            records = self._warm_up(loaded, files, path)
            loaded = _Timed(loaded, self._metrics.runtime(config.name, loaded.platform).observe)
        except BaseException:
            loaded.close()
            raise
        event(
            _log,
            logging.INFO,
            "model-loaded",
            model=config.name,
            version=version,
            engine=config.engine,
            load_seconds=round(loading, 3),
            warm_up_requests=records,
        )
        return loaded

    def _engine(self, name: str) -> Engine:
        if name not in self._engines:
            precision = self._options.precision if name == "openvino" else "f32"
            self._engines[name] = create_engine(
                name,
                precision=precision,
                threads=self._options.threads,
                parallel_requests=self._options.parallel_requests,
            )
        return self._engines[name]

    def _parameters(self, files: ModelFiles, common: BatchingParameters) -> BatchingParameters:
        if not self._own_batching or _OWN_PARAMETERS not in files:
            return common
        files[_OWN_PARAMETERS].seek(0)
        return BatchingParameters.from_text(
            files[_OWN_PARAMETERS].read().decode(errors="replace"), source=_OWN_PARAMETERS
        )

    def _warm_up(self, loaded: LoadedModel, files: ModelFiles, path: Path) -> int:
        started, records, status = time.monotonic(), 0, "fail"
        try:
            for _ in range(self._rounds):
                records = warm_up(loaded, files)
            status = "success"
        finally:
            if records or status == "fail":
                self._metrics.warmed_up(path, records, time.monotonic() - started, status)
        return records


class _Timed:
    """A loaded model whose answers are timed."""

    def __init__(self, loaded: LoadedModel, observe: Callable[[float], Any]) -> None:
        self._loaded = loaded
        self._observe = observe

    @property
    def platform(self) -> str:
        return self._loaded.platform

    @property
    def signatures(self) -> Mapping[str, Signature]:
        return self._loaded.signatures

    @property
    def signature_definitions(self) -> Mapping[str, SignatureDef]:
        return self._loaded.signature_definitions

    def predict(
        self,
        signature: str,
        inputs: Mapping[str, Array],
        output_filter: Sequence[str] = (),
        *,
        wanted: Callable[[], bool] = always,
    ) -> dict[str, Array]:
        started = time.perf_counter_ns()
        answer = self._loaded.predict(signature, inputs, output_filter, wanted=wanted)
        self._observe((time.perf_counter_ns() - started) / 1000)
        return answer

    def predict_together(
        self, outputs: Mapping[str, Sequence[str]], inputs: Mapping[str, Array], *, wanted: Callable[[], bool] = always
    ) -> dict[str, dict[str, Array]] | None:
        if not isinstance(self._loaded, RunsTogether):
            return None
        started = time.perf_counter_ns()
        answer = self._loaded.predict_together(outputs, inputs, wanted=wanted)
        if answer is not None:
            self._observe((time.perf_counter_ns() - started) / 1000)
        return answer

    def close(self) -> None:
        self._loaded.close()
