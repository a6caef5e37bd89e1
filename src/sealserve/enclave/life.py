"""The life of a replica process: one asyncio program in the main thread; models are loaded in threads beside it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import signal
import time
from typing import TYPE_CHECKING

from sealserve.broker.client import Grant, request_grant
from sealserve.enclave.attestation import AttestationService
from sealserve.enclave.granted_model import GrantedModel
from sealserve.enclave.loaded_code import check_loaded_code
from sealserve.enclave.loading import Storage
from sealserve.enclave.measured import measured_settings
from sealserve.enclave.refresh import Refresher
from sealserve.errors import SealserveError
from sealserve.evidence import Attester, SimulatedAttester, measure_simulated_enclave
from sealserve.files import read_file
from sealserve.logs import event, get_logger
from sealserve.notify import notify
from sealserve.ratls import TlsIdentity, create_identity
from sealserve.serving.core import ModelServer
from sealserve.serving.grpc_server import GrpcServer, create_server

if TYPE_CHECKING:
    from sealserve.enclave.settings import ReplicaSettings

_log = get_logger(__name__)


def live(settings: ReplicaSettings) -> None:
    """See :func:`sealserve.enclave.replica.run_replica`."""
    started = time.monotonic()
    broker_ca = read_file(settings.broker_ca)
    enclave = measure_simulated_enclave(measured_settings(deployment=settings.deployment, broker_ca=broker_ca))
    attester = SimulatedAttester(settings.platform, enclave)
    event(
        _log,
        logging.WARNING,
        "simulated-enclave",
        note="SIMULATED: protects nothing",
        mrenclave=enclave.mrenclave.hex(),
    )
    asyncio.run(_Replica(settings, broker_ca, attester).run(started))


class _Replica:
    def __init__(self, settings: ReplicaSettings, broker_ca: bytes, attester: Attester) -> None:
        self._settings = settings
        self._broker_ca = broker_ca
        self._attester = attester
        self._identity: TlsIdentity = create_identity(attester, server_names=[settings.server_name])
        self._attestation = AttestationService(self._identity, attester, replica=settings.name)
        self._core = ModelServer()
        self._model = GrantedModel(self._core, self._attestation, Storage(settings.sealed))
        self._failures: dict[str, str] = {}

    async def run(self, started: float) -> None:
        first = await self._begin()
        with self._identity.private_key_pem() as private_key:
            server, port = create_server(
                self._core,
                address=self._settings.listen,
                private_key_pem=private_key,
                certificate_pem=self._identity.certificate_pem(),
                extra_services=[self._attestation.service()],
            )
        # Until here a signal simply ends the process: it serves nobody yet.
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        server.start()
        seconds = time.monotonic() - started
        event(_log, logging.INFO, "replica-ready", port=port, seconds=round(seconds, 3))
        notify(READY=1)
        await self._serve(server, stop, Refresher(self._ask, self._model, first))
        event(_log, logging.INFO, "replica-stopped")

    async def _begin(self) -> Grant:
        """Get a grant and load what it names. :returns: the grant, wiped."""
        # Importing the engine takes longer than the broker needs to answer.
        engine = asyncio.create_task(asyncio.to_thread(_import_engine))
        notify(STATUS="asking the key broker")
        try:
            grant = await self._ask()
        except BaseException:
            engine.cancel()
            raise
        event(_log, logging.INFO, "key-granted", model=grant.model.name, decision=grant.decision)
        try:
            await engine
            notify(STATUS="loading the model")
            await asyncio.to_thread(self._model.take, grant)
        except SealserveError:
            if self._model.answering is None:
                raise
        finally:
            grant.wipe()
        return grant

    async def _ask(self, first: int = 0) -> Grant:
        """Ask the brokers, beginning with the one of this number."""
        brokers = self._settings.brokers
        first %= max(len(brokers), 1)
        return await request_grant(
            [*brokers[first:], *brokers[:first]],
            ca_pem=self._broker_ca,
            identity=self._identity,
            attester=self._attester,
            deployment=self._settings.deployment,
            timeout=self._settings.broker_timeout,
            failures=self._failures,
        )

    async def _serve(self, server: GrpcServer, stop: asyncio.Event, refresher: Refresher) -> None:
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
        notify(STOPPING=1, STATUS="finishing requests in flight")
        server.set_serving(False)
        await asyncio.to_thread(server.stop, self._settings.stop_grace)
        with contextlib.suppress(asyncio.CancelledError):
            await refreshing


def _import_engine() -> None:
    importlib.import_module("sealserve.serving.openvino_engine")
    check_loaded_code()  # before the key is used
