"""A replica, from process start to the last answer: attest, get the key, unseal in memory, load, serve, stop."""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib
import logging
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sealserve.broker.client import Grant, ModelGrant, fetch_grant
from sealserve.enclave.attestation import AttestationService
from sealserve.enclave.hardening import harden_process
from sealserve.enclave.measured import measured_settings
from sealserve.errors import ConfigurationError, ModelError, SealError
from sealserve.evidence import Attester, SimulatedAttester, measure_simulated_enclave
from sealserve.files import read_file
from sealserve.logs import event, get_logger
from sealserve.notify import notify
from sealserve.ratls import TlsIdentity, create_identity
from sealserve.sealing import open_sealed_model
from sealserve.secret import Secret
from sealserve.serving.core import ModelServer
from sealserve.serving.engine import Engine
from sealserve.serving.grpc_server import create_server
from sealserve.serving.memory_directory import MemoryDirectory
from sealserve.wire import attestation_pb2

_log = get_logger(__name__)


@dataclass(frozen=True)
class ReplicaSettings:
    """What the host tells a replica. Nothing of it is trusted.

    :param listen: ``host:port``. :param brokers: ``host:port`` each, tried in order.
    :param temporary: where to keep links to memory files. :param broker_timeout: seconds to keep trying for a grant.
    :param stop_grace: seconds that requests in flight have after SIGTERM.
    """

    name: str
    listen: str
    brokers: tuple[str, ...]
    broker_ca: Path
    deployment: str
    sealed: Path
    platform: Path
    server_name: str
    temporary: Path | None = None
    broker_timeout: float = 30.0
    stop_grace: float = 10.0


def run_replica(settings: ReplicaSettings) -> None:
    """Attest, unseal, serve until SIGTERM or SIGINT, finish what is in flight, and return. Runs in the main thread.

    :raises TrustError: the broker refused, or the sealed model is not what the broker says it is.
    :raises SealserveError: anything else that keeps the replica from serving.
    """
    harden_process()
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

    with concurrent.futures.ThreadPoolExecutor(1) as loader:
        # Importing the engine takes longer than the broker needs to answer.
        engine_module = loader.submit(importlib.import_module, "sealserve.serving.openvino_engine")
        identity = create_identity(attester, server_names=[settings.server_name])
        notify(STATUS="asking the key broker")
        with _granted(settings, broker_ca, identity, attester) as grant:
            engine_module.result()
            notify(STATUS="loading the model")
            core, model = _load_granted(settings, grant)

    claims = [attestation_pb2.ServedModel(name=model.name, version=model.version, digest=model.digest)]
    attestation = AttestationService(identity, attester, replica=settings.name, models=claims)
    with identity.private_key_pem() as private_key:
        server, port = create_server(
            core,
            address=settings.listen,
            private_key_pem=private_key,
            certificate_pem=identity.certificate_pem(),
            extra_services=[attestation.service()],
        )
    # Until here a signal simply ends the process: it serves nobody yet.
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server.start()
    seconds = time.monotonic() - started
    event(_log, logging.INFO, "replica-ready", port=port, seconds=round(seconds, 3))
    notify(READY=1, STATUS=f"serving {grant.model.name} version {grant.model.version}")
    stop.wait()
    notify(STOPPING=1, STATUS="finishing requests in flight")
    server.stop(settings.stop_grace)
    event(_log, logging.INFO, "replica-stopped")


@contextlib.contextmanager
def _granted(settings: ReplicaSettings, broker_ca: bytes, identity: TlsIdentity, attester: Attester) -> Iterator[Grant]:
    """A grant from a broker; its keys are wiped when the block ends."""
    grant = fetch_grant(
        settings.brokers,
        ca_pem=broker_ca,
        identity=identity,
        attester=attester,
        deployment=settings.deployment,
        timeout=settings.broker_timeout,
    )
    event(_log, logging.INFO, "key-granted", model=grant.model.name, decision=grant.decision)
    try:
        yield grant
    finally:
        grant.wipe()


def _load_granted(settings: ReplicaSettings, grant: Grant) -> tuple[ModelServer, ModelGrant]:
    """Load the granted model, or the one before it while the storage does not hold the new one yet.

    :returns: the server, and which model it really serves.
    :raises SealError: the storage holds neither. :raises ModelError: the version is missing, or the engine fails.
    """
    try:
        return _load(settings, grant, grant.model, grant.keys[grant.model.key].value), grant.model
    except SealError as error:
        if grant.previous is None:
            raise
        event(_log, logging.WARNING, "previous-model-tried", model=grant.model.name, reason=error)
        previous = grant.previous
        return _load(settings, grant, previous.model, previous.key.value), previous.model


def _load(settings: ReplicaSettings, grant: Grant, model: ModelGrant, key: Secret) -> ModelServer:
    """Unseal a version into memory files and load it; errors as :func:`_load_granted`."""
    started = time.monotonic()
    sealed = open_sealed_model(settings.sealed, key, mount=model.mount, expected_digest=model.digest)
    version = f"{model.version}/"
    names = [file.name for file in sealed.files if file.name.startswith(version)]
    if not names:
        raise ModelError(
            f"the sealed model has no version {model.version}, which the key broker says to serve",
            hint="Seal the model with that version, or change the version in the broker's configuration.",
        )
    with MemoryDirectory(settings.temporary) as directory:
        for name in names:
            with directory.add(name.removeprefix(version)) as file:
                sealed.copy_to(name, file)
        unsealed = time.monotonic()
        loaded = _engine(grant).load(directory.path)
    event(
        _log,
        logging.INFO,
        "model-loaded",
        model=model.name,
        version=model.version,
        unseal_seconds=round(unsealed - started, 3),
        load_seconds=round(time.monotonic() - unsealed, 3),
    )
    core = ModelServer()
    core.add_model(model.name, model.version, loaded)
    return core


def _engine(grant: Grant) -> Engine:
    """The engine that the owner chose. It is never the host's choice: arguments come with the grant."""
    from sealserve.serving.openvino_engine import OpenVinoEngine

    name = grant.arguments.get("engine", OpenVinoEngine.name)
    if name != OpenVinoEngine.name:
        raise ConfigurationError(
            f"the key broker asks for the engine {name!r}, which this replica does not have",
            hint="Set model.engine to openvino.",
        )
    try:
        threads = int(grant.arguments.get("threads", "0"))
    except ValueError:
        raise ConfigurationError(f"threads is no number: {grant.arguments['threads']!r}") from None
    return OpenVinoEngine(threads=threads if threads > 0 else None)
