"""The life of a replica process: one asyncio program in the main thread; models are loaded in threads beside it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import signal
import time
from typing import TYPE_CHECKING

from sealserve.broker.client import Grant, GrantRefusedError, request_grant
from sealserve.enclave.attestation import AttestationService
from sealserve.enclave.attesters import create_attester
from sealserve.enclave.first_grant import ROUND_SECONDS, ask_until_granted
from sealserve.enclave.granted_model import GrantedModel
from sealserve.enclave.loaded_code import check_loaded_code
from sealserve.enclave.loading import Storage
from sealserve.enclave.receipts import ReceiptKey
from sealserve.enclave.refresh import Refresher
from sealserve.enclave.serving_tls import ServingTls
from sealserve.enclave.statistics import Statistics
from sealserve.errors import SealserveError
from sealserve.evidence import Attester
from sealserve.files import read_file
from sealserve.logs import event, get_logger
from sealserve.notify import notify
from sealserve.ratls import TlsIdentity, create_identity
from sealserve.serving import health, open_inference
from sealserve.serving.core import ModelServer
from sealserve.serving.grpc_server import GrpcServer, listen
from sealserve.serving.limits import Limits
from sealserve.serving.prediction_service import PredictionService
from sealserve.serving.reflection import reflection_services
from sealserve.serving.tls import ServerTls
from sealserve.serving.versions import ModelService

if TYPE_CHECKING:
    from sealserve.enclave.settings import ReplicaSettings
    from sealserve.serving.rest.server import RestServer

_log = get_logger(__name__)


def live(settings: ReplicaSettings) -> None:
    """See :func:`sealserve.enclave.replica.run_replica`."""
    started = time.monotonic()
    broker_ca = read_file(settings.broker_ca)
    attester = create_attester(settings, broker_ca=broker_ca)
    asyncio.run(_Replica(settings, broker_ca, attester).run(started))


class _Replica:
    def __init__(self, settings: ReplicaSettings, broker_ca: bytes, attester: Attester) -> None:
        self._settings = settings
        self._broker_ca = broker_ca
        self._attester = attester
        self._identity: TlsIdentity = create_identity(attester, server_names=[settings.server_name])
        self._core = ModelServer()
        self._failures: dict[str, str] = {}
        self._statistics = Statistics()

    async def run(self, started: float) -> None:
        metrics = self._metrics()
        # Importing the engine takes longer than the broker needs to answer.
        engine = asyncio.create_task(asyncio.to_thread(_import_engine))
        notify(STATUS="asking the key broker")
        try:
            first = await self._first_grant()
        except BaseException:
            engine.cancel()
            raise
        event(_log, logging.INFO, "key-granted", model=first.model.name, decision=first.decision)
        try:
            tls = ServingTls(first, self._identity)
            receipts = ReceiptKey(tls.key)
            attestation = AttestationService(
                tls.key,
                self._attester,
                replica=self._settings.name,
                receipt_key=receipts.public_key,
                shared_tls_key=tls.shared,
                answered=self._statistics.attested,
            )
            model = GrantedModel(self._core, attestation, Storage(self._settings.sealed, self._settings.most_threads))
            self._statistics.state = "loading"
            await engine
            await self._load(model, first)
        finally:
            first.wipe()
        server, port = self._grpc(tls.server, attestation, receipts)
        rest, rest_port = self._rest(tls.server, attestation)
        if not tls.server.renewable:
            tls.server.private_key_pem.wipe()
        self._statistics.expires = tls.expires
        # Until here a signal ends the process at once: it serves nobody yet.
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        server.start()
        if rest is not None:
            rest.start()
            rest.set_serving(True)
        self._statistics.state = "serving"
        seconds = time.monotonic() - started
        event(_log, logging.INFO, "replica-ready", port=port, rest_port=rest_port, seconds=round(seconds, 3))
        notify(READY=1)
        await self._serve(server, rest, stop, Refresher(self._ask, model, tls, first))
        if metrics is not None:
            await asyncio.to_thread(metrics.stop)
        event(_log, logging.INFO, "replica-stopped")

    async def _load(self, model: GrantedModel, grant: Grant) -> None:
        """Load what a grant names, or what it names as the one before. :raises SealserveError: neither can be had."""
        notify(STATUS="loading the model")
        try:
            await asyncio.to_thread(model.take, grant)
        except SealserveError:
            if model.answering is None:
                raise

    async def _first_grant(self) -> Grant:
        if not self._settings.keep_asking:
            return await self._ask()
        return await ask_until_granted(lambda first: self._ask(first, ROUND_SECONDS))

    async def _ask(self, first: int = 0, seconds: float | None = None) -> Grant:
        """Ask the brokers, beginning with the one of this number, for so many seconds if none answers."""
        brokers = self._settings.brokers
        first %= max(len(brokers), 1)
        try:
            grant = await request_grant(
                [*brokers[first:], *brokers[:first]],
                ca_pem=self._broker_ca,
                identity=self._identity,
                attester=self._attester,
                deployment=self._settings.deployment,
                timeout=seconds or self._settings.broker_timeout,
                failures=self._failures,
            )
        except SealserveError as error:
            self._statistics.asked("refused" if isinstance(error, GrantRefusedError) else "unavailable")
            raise
        self._statistics.asked("granted")
        return grant

    def _grpc(self, tls: ServerTls, attestation: AttestationService, receipts: ReceiptKey) -> tuple[GrpcServer, int]:
        # Which models there are is not for callers to say.
        limits = Limits(connection_seconds=self._settings.max_connection_age)
        services = [
            PredictionService(self._core, max_bytes=limits.message_bytes).service(),
            attestation.service(),
            ModelService(self._core, None).service(),
            open_inference.service(self._core, max_bytes=limits.message_bytes),
        ]
        names = [health.SERVICE_NAME, *(service.name for service in services)]
        server, ports = listen(
            [*services, *reflection_services(names)],
            addresses=[self._settings.listen],
            tls=tls,
            limits=limits,
            reuse_port=True,
            receipts=receipts,
        )
        self._statistics.loads["GRPC"] = lambda: server.load
        return server, ports[0]

    def _rest(self, tls: ServerTls, attestation: AttestationService) -> tuple[RestServer, int] | tuple[None, None]:
        if self._settings.rest_listen is None:
            return None, None
        # Takes a third of the time of all imports.
        from sealserve.enclave.rest_attestation import evidence_work
        from sealserve.serving.rest.limits import RestLimits
        from sealserve.serving.rest.server import create_rest_server

        server, port = create_rest_server(
            self._core,
            address=self._settings.rest_listen,
            tls=tls,
            limits=RestLimits(connection_seconds=self._settings.max_connection_age),
            reuse_port=True,
            extra=evidence_work(attestation),
        )
        self._statistics.loads["REST"] = lambda: server.load
        return server, port

    def _metrics(self) -> RestServer | None:
        """Tell metrics from now on, so that it can be seen that a replica waits for its key, too."""
        if self._settings.metrics_listen is None:
            return None
        from sealserve.enclave.metrics import ReplicaMetrics
        from sealserve.serving.rest.server import create_metrics_server

        metrics = ReplicaMetrics(self._core, self._statistics, tee=self._settings.tee)
        # Its own key, and no certificate of a caller's: there is no grant yet.
        tls = ServerTls(self._identity.private_key_pem(), self._identity.certificate_pem())
        server, port = create_metrics_server(metrics.text, address=self._settings.metrics_listen, tls=tls)
        tls.private_key_pem.wipe()
        server.start()
        event(_log, logging.INFO, "metrics-listening", port=port)
        return server

    async def _serve(
        self, server: GrpcServer, rest: RestServer | None, stop: asyncio.Event, refresher: Refresher
    ) -> None:
        """Serve until told to stop, or until the broker's word ends it; then let requests in flight finish.

        :raises TrustError: the broker's word ended it.
        """
        refreshing = asyncio.create_task(refresher.run())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([refreshing, stopping], return_when=asyncio.FIRST_COMPLETED)
        if refreshing.done():
            event(_log, logging.ERROR, "service-ended", reason=refreshing.exception())
        refreshing.cancel()
        stopping.cancel()
        self._statistics.state = "stopping"
        notify(STOPPING=1, STATUS="finishing requests in flight")
        server.set_serving(False)
        stopping_servers = [asyncio.to_thread(server.stop, self._settings.stop_grace)]
        if rest is not None:
            rest.set_serving(False)
            stopping_servers.append(asyncio.to_thread(rest.stop, self._settings.stop_grace))
        await asyncio.gather(*stopping_servers)
        with contextlib.suppress(asyncio.CancelledError):
            await refreshing


def _import_engine() -> None:
    importlib.import_module("sealserve.serving.openvino_engine")
    check_loaded_code()  # before the key is used
