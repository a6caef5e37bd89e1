"""The gRPC server: TLS from memory, the prediction service, health checking, and services of upper rooms."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent import futures

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from sealserve.errors import InputError, MachineError
from sealserve.secret import Secret
from sealserve.serving.core import ModelServer
from sealserve.serving.methods import Service, generic_handler
from sealserve.serving.prediction_service import SERVICE_NAME, PredictionService

MAX_MESSAGE_BYTES = 256 << 20
"""Default limit of a request and of an answer."""

THREADS = 16
"""Default number of requests that are worked on at once; the engine has a limit of its own."""


class GrpcServer:
    """A server that has its port, and answers nothing before :meth:`start`."""

    def __init__(self, server: grpc.Server, checker: health.HealthServicer, services: Sequence[str]) -> None:
        self._server = server
        self._health = checker
        self._services = services

    def start(self) -> None:
        """Answer requests, and report every service as SERVING."""
        self._server.start()
        self.set_serving(True)

    def set_serving(self, serving: bool) -> None:
        """What grpc.health.v1 says of the server (the empty name) and of each service."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self._services):
            self._health.set(name, status)

    def stop(self, grace: float | None = None) -> None:
        """Take no new requests, let those in flight finish for ``grace`` seconds, then cancel them. Returns when all
        are done.
        """
        self._health.enter_graceful_shutdown()
        self._server.stop(grace).wait()

    def wait_for_termination(self, timeout: float | None = None) -> bool:
        """Wait until the server has stopped. :returns: whether the time was up first."""
        return bool(self._server.wait_for_termination(timeout))


def create_server(
    core: ModelServer,
    *,
    address: str,
    private_key_pem: Secret,
    certificate_pem: bytes,
    extra_services: Sequence[Service] = (),
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    threads: int = THREADS,
    max_concurrent_requests: int | None = None,
    reuse_port: bool = True,
    max_connection_age: float | None = None,
    max_connection_age_grace: float | None = None,
) -> tuple[GrpcServer, int]:
    """Make a server that listens, with TLS, and is not started yet.

    :param address: ``host:port``; port 0 takes a free one.
    :param private_key_pem: of the certificate; neither touches a disk.
    :param certificate_pem: the server's certificate, and after it those that lead to its root, if there are any.
    :param max_concurrent_requests: more than these are answered RESOURCE_EXHAUSTED at once; no limit if not given.
    :param reuse_port: several sockets may have the port (SO_REUSEPORT), such as one by which a supervisor keeps it.
    :param max_connection_age: seconds after which a connection is closed in good order, so that clients behind a
        layer-4 balancer come to other replicas; ``max_connection_age_grace`` more for its requests in flight.
    :returns: the server and its port.
    :raises InputError: key or certificate are not usable. :raises MachineError: the port cannot be had.
    """
    options: list[tuple[str, int]] = [
        ("grpc.so_reuseport", int(reuse_port)),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
    ]
    if max_connection_age is not None:
        options.append(("grpc.max_connection_age_ms", round(max_connection_age * 1000)))
    if max_connection_age_grace is not None:
        options.append(("grpc.max_connection_age_grace_ms", round(max_connection_age_grace * 1000)))
    credentials = _credentials(private_key_pem, certificate_pem)
    pool = futures.ThreadPoolExecutor(max_workers=threads, thread_name_prefix="request")
    server = grpc.server(pool, options=options, maximum_concurrent_rpcs=max_concurrent_requests)
    prediction = PredictionService(core, max_tensor_bytes=max_message_bytes).service()
    services = (prediction, *extra_services)
    server.add_generic_rpc_handlers(tuple(generic_handler(service) for service in services))
    checker = health.HealthServicer()
    checker.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checker, server)
    try:
        port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise MachineError(
            f"cannot listen on {address}",
            hint="Another program may have the port: choose another, or 0 for a free one.",
        ) from error
    return GrpcServer(server, checker, [service.name for service in services]), port


def _credentials(private_key_pem: Secret, certificate_pem: bytes) -> grpc.ServerCredentials:
    # grpcio reports a bad key or certificate as a port that cannot be had.
    try:
        load_pem_private_key(bytes(private_key_pem.reveal()), password=None)
        x509.load_pem_x509_certificates(certificate_pem)
    except (ValueError, TypeError) as error:
        raise InputError("the server's private key or its certificate is not PEM, or is encrypted") from error
    return grpc.ssl_server_credentials([(bytes(private_key_pem.reveal()), certificate_pem)])


__all__ = ["MAX_MESSAGE_BYTES", "SERVICE_NAME", "THREADS", "GrpcServer", "create_server"]
