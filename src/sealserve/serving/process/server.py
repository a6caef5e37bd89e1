"""The parts, put together to one process, and its life: start, reload, stop."""

from __future__ import annotations

import contextlib
import logging
import queue
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from sealserve.logs import event, get_logger
from sealserve.notify import notify
from sealserve.serving import health, open_inference
from sealserve.serving.batching import BatchingParameters
from sealserve.serving.core import ModelServer
from sealserve.serving.grpc_server import GrpcServer, listen
from sealserve.serving.prediction_service import PredictionService
from sealserve.serving.process.configuration import Configuration, explain_missing
from sealserve.serving.process.gate import Gate
from sealserve.serving.process.loading import Loader
from sealserve.serving.process.metrics import Metrics
from sealserve.serving.process.options import METRICS_PATH, ServeOptions, default_rest_threads
from sealserve.serving.process.text_files import read_text
from sealserve.serving.reflection import reflection_services
from sealserve.serving.versions import ModelService, ServedModelConfig, VersionManager
from sealserve.wire.tensorflow_serving_config_pb2 import ModelServerConfig

if TYPE_CHECKING:
    from sealserve.serving.rest.server import RestServer

# TensorFlow Serving tells of these, without the package.
_ALIASES = ("ModelService", "PredictionService")
_STOP = "stop"
_LOOK = 0.1  # seconds between two looks whether all models are there

_log = get_logger(__name__)


class Server:
    """A server that has its ports, and answers nothing before :meth:`run`.

    :raises SealserveError: a file, a model or a port cannot be had.
    """

    def __init__(self, options: ServeOptions) -> None:
        self._started = time.monotonic()
        self._options = options
        self._core = ModelServer()
        self._core.observer = self._metrics = Metrics(self._core)
        self._configuration = Configuration(options)
        self._models = self._configuration.first()
        self._loader = Loader(
            options.engines,
            self._metrics,
            batching=_batching(options),
            own_batching=options.values["enable_per_model_batching_parameters"],
            warm_up_rounds=_rounds(options),
        )
        self._manager = VersionManager(
            self._core,
            self._loader,
            poll_seconds=options.values["file_system_poll_wait_seconds"],
            load_threads=options.values["num_load_threads"],
            load_retries=options.values["max_num_load_retries"],
            retry_seconds=max(0, options.values["load_retry_interval_micros"] / 1_000_000),
            allow_unavailable_labels=options.values["allow_version_labels_for_unavailable_models"],
        )
        self._gate = Gate()
        self._grpc, self.ports = self._listen()
        self._rest, self.rest_port = self._listen_rest()
        self._happenings: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
        self._reload = threading.Event()

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; then finish what is in flight. SIGHUP reads the models' file again.

        :raises SealserveError: a model did not load at start.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop_on_signal)
        signal.signal(signal.SIGHUP, lambda *_: self._reload.set())
        try:
            self._begin()
            self._serve()
        finally:
            self._stop()

    def _begin(self) -> None:
        self._grpc.start(serving=False)
        if self._rest:
            self._rest.start()
        event(
            _log,
            logging.INFO,
            "server-listening",
            grpc=list(self._options.addresses),
            rest=self._options.rest_address,
            tls=self._options.tls is not None,
        )
        notify(STATUS="loading the models")
        threading.Thread(target=self._load, args=(self._models,), name="loading", daemon=True).start()

    def _serve(self) -> None:
        happened = self._next()
        if isinstance(happened, BaseException):
            raise happened
        if happened == _STOP:
            return
        self._gate.open()
        threading.Thread(target=self._follow_file, name="configuration", daemon=True).start()
        if not self._wait_until_ready():
            return
        self._set_serving(serving=True)
        seconds = round(time.monotonic() - self._started, 3)
        event(_log, logging.INFO, "server-ready", models=self._core.names(), seconds=seconds)
        notify(READY=1, STATUS="serving")
        while self._next() != _STOP:
            pass

    def _next(self) -> str | BaseException | None:
        """What happens next. Waits in turns: a signal that comes just before a wait begins does not end that wait, and
        its handler runs after it.
        """
        while True:
            with contextlib.suppress(queue.Empty):
                return self._happenings.get(timeout=_LOOK)

    def _wait_until_ready(self) -> bool:
        """Wait for models that have no version yet. :returns: False if the server is to stop instead."""
        if not self._core.ready:
            for model in self._models:
                if model.name not in self._core.models:
                    event(_log, logging.WARNING, "waiting-for-versions", model=model.name, note=explain_missing(model))
        while not self._core.ready:
            with contextlib.suppress(queue.Empty):
                if self._happenings.get(timeout=_LOOK) == _STOP:
                    return False
        return True

    def _load(self, models: list[ServedModelConfig]) -> None:
        try:
            self._loader.prepare(sorted({model.engine for model in models}))
            self._manager.start(models, wait=True)
        except BaseException as error:  # noqa: BLE001 - the main thread ends with it
            self._happenings.put(error)
        else:
            self._happenings.put(None)

    def _follow_file(self) -> None:
        """Read the models' file again when SIGHUP says so, and every so often if that was asked for."""
        every = self._options.values["model_config_file_poll_wait_seconds"] or None
        while True:
            asked = self._reload.wait(every)
            self._reload.clear()
            if self._configuration.file is None:
                event(_log, logging.WARNING, "nothing-to-reload", note="there is no --model_config_file")
                continue
            self._configuration.reload_file(self._manager, asked=asked)

    def _stop_on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a handler's signature
        # Once more, and it ends at once.
        for other in (signal.SIGTERM, signal.SIGINT):
            signal.signal(other, signal.SIG_DFL)
        self._happenings.put(_STOP)

    def _stop(self) -> None:
        notify(STOPPING=1, STATUS="finishing requests in flight")
        event(_log, logging.INFO, "server-stopping")
        self._set_serving(serving=False)
        grace = self._options.values["stop_grace"]
        stopping = [threading.Thread(target=self._grpc.stop, args=(grace,))]
        if self._rest:
            stopping.append(threading.Thread(target=self._rest.stop, args=(grace,)))
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()
        self._manager.stop()
        event(_log, logging.INFO, "server-stopped")

    def _set_serving(self, *, serving: bool) -> None:
        self._grpc.set_serving(serving)
        if self._rest:
            self._rest.set_serving(serving)

    def _listen(self) -> tuple[GrpcServer, list[int]]:
        options = self._options
        services = [
            self._gate.guard(PredictionService(self._core, max_bytes=options.limits.message_bytes).service()),
            ModelService(self._core, self._reload_config if options.reload_requests else None).service(),
            self._gate.guard(
                open_inference.service(self._core, max_bytes=options.limits.message_bytes), only=("ModelInfer",)
            ),
        ]
        names = [*(service.name for service in services), health.SERVICE_NAME]
        return listen(
            [*services, *reflection_services(names)],
            addresses=options.addresses,
            tls=options.tls,
            limits=options.limits,
            aliases=_ALIASES,
        )

    def _listen_rest(self) -> tuple[RestServer | None, int | None]:
        options = self._options
        if options.rest_address is None:
            return None, None
        # Only now: it takes a third of the time that all imports take.
        from sealserve.serving.rest.limits import RestLimits
        from sealserve.serving.rest.server import create_rest_server

        limits = RestLimits(
            threads=options.values["rest_api_num_threads"] or default_rest_threads(),
            timeout_seconds=options.values["rest_api_timeout_in_ms"] / 1000,
        )
        return create_rest_server(
            self._core,
            address=options.rest_address,
            tls=options.tls,
            limits=limits,
            metrics=self._metrics.text if options.metrics_path else None,
            metrics_path=options.metrics_path or METRICS_PATH,
        )

    def _reload_config(self, config: ModelServerConfig) -> None:
        self._configuration.reload(config, self._manager)


def _rounds(options: ServeOptions) -> int:
    if not options.values["enable_model_warmup"]:
        return 0
    rounds: int = options.values["num_request_iterations_for_warmup"]
    return max(1, rounds)


def _batching(options: ServeOptions) -> BatchingParameters | None:
    flag = "batching_parameters_file"
    if not options.values["enable_batching"]:
        return None
    if not options.values[flag]:
        return BatchingParameters()
    text = read_text(Path(options.values[flag]), flag)
    if "thread_pool_name" in text:
        note = "batches run in the threads of their requests"
        event(_log, logging.WARNING, "setting-without-effect", setting="thread_pool_name", note=note)
    return BatchingParameters.from_text(text, source=f"--{flag}: {options.values[flag]}")
