"""The gRPC server: TLS from memory, the prediction service, health checking, and services of upper rooms.

It is grpcio's synchronous server. Its asyncio server ends for good when one caller, whoever it is, sends a path that is
not UTF-8 (grpcio 1.85); see ``docs/adr/0050-synchronous-grpc-server.md``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from sealserve.errors import InputError, MachineError
from sealserve.secret import Secret
from sealserve.serving.admission import Admission
from sealserve.serving.core import ModelServer
from sealserve.serving.health import HealthService
from sealserve.serving.limits import Limits
from sealserve.serving.methods import Service, generic_handler
from sealserve.serving.prediction_service import SERVICE_NAME, PredictionService
from sealserve.threads import RequestThreads

_BACKLOG = 1000  # requests that may wait for a thread: those before them bring their message, or go


class GrpcServer:
    """A server that has its port, and answers nothing before :meth:`start`."""

    def __init__(
        self, server: grpc.Server, health: HealthService, admission: Admission, threads: RequestThreads
    ) -> None:
        self._server = server
        self._health = health
        self._admission = admission
        self._threads = threads

    def start(self) -> None:
        """Answer requests, and report every service as SERVING."""
        self._health.serving = True
        self._admission.start()
        self._server.start()

    def set_serving(self, serving: bool) -> None:
        """What grpc.health.v1 says of the server (the empty name) and of each service."""
        self._health.serving = serving

    def stop(self, grace: float | None = None) -> None:
        """Take no new requests, let those in flight finish for ``grace`` seconds, then cancel them. Returns when all
        are done.
        """
        self._health.serving = False
        self._server.stop(grace).wait()
        self._admission.stop()
        self._threads.shutdown()


def create_server(
    core: ModelServer,
    *,
    address: str,
    private_key_pem: Secret,
    certificate_pem: bytes,
    extra_services: Sequence[Service] = (),
    limits: Limits | None = None,
    reuse_port: bool = True,
) -> tuple[GrpcServer, int]:
    """Make a server that listens, with TLS, and is not started yet.

    :param address: ``host:port``; port 0 takes a free one.
    :param private_key_pem: of the certificate; neither touches a disk.
    :param certificate_pem: the server's certificate, and after it those that lead to its root, if there are any.
    :param limits: what its callers may hold at once.
    :param reuse_port: several sockets may have the port (SO_REUSEPORT), such as one by which a supervisor keeps it.
    :returns: the server and its port.
    :raises InputError: key or certificate are not usable. :raises MachineError: the port cannot be had, or the threads.
    """
    limits = limits or Limits()
    credentials = _credentials(private_key_pem, certificate_pem)
    prediction = PredictionService(core, max_bytes=limits.message_bytes).service()
    services = (prediction, *extra_services)
    health = HealthService(service.name for service in services)
    admission = Admission(limits)
    threads = _threads(limits.threads)
    server = grpc.server(
        threads,
        handlers=tuple(generic_handler(service, admission) for service in (health.service(), *services)),
        options=[("grpc.so_reuseport", int(reuse_port)), *limits.grpc_options()],
        maximum_concurrent_rpcs=limits.threads + _BACKLOG,
    )
    _quiet_grpc()
    try:
        port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        threads.shutdown()
        raise MachineError(
            f"cannot listen on {address}",
            hint="Another program may have the port: choose another, or 0 for a free one.",
        ) from error
    return GrpcServer(server, health, admission, threads), port


def _threads(most: int) -> RequestThreads:
    try:
        return RequestThreads(most)
    except RuntimeError as error:
        raise MachineError("cannot start a thread", hint="Allow the process more threads.") from error


def _quiet_grpc() -> None:
    """Strangers must not be able to fill the log: grpcio writes a traceback for each header that is not UTF-8."""
    logging.getLogger("grpc._cython.cygrpc").setLevel(logging.CRITICAL)


def _credentials(private_key_pem: Secret, certificate_pem: bytes) -> grpc.ServerCredentials:
    # grpcio reports a bad key or certificate as a port that cannot be had.
    try:
        load_pem_private_key(bytes(private_key_pem.reveal()), password=None)
        x509.load_pem_x509_certificates(certificate_pem)
    except (ValueError, TypeError) as error:
        raise InputError("the server's private key or its certificate is not PEM, or is encrypted") from error
    return grpc.ssl_server_credentials([(bytes(private_key_pem.reveal()), certificate_pem)])


__all__ = ["SERVICE_NAME", "GrpcServer", "create_server"]
