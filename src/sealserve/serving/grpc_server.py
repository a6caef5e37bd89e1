"""The gRPC server: TLS from memory or plaintext, services, health checking, on TCP ports and UNIX sockets.

It is grpcio's synchronous server. Its asyncio server ends for good when one caller, whoever it is, sends a path that is
not UTF-8 (grpcio 1.85); see ``docs/adr/0050-synchronous-grpc-server.md``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import grpc

from sealserve.errors import MachineError
from sealserve.secret import Secret
from sealserve.serving.admission import Admission
from sealserve.serving.core import ModelServer
from sealserve.serving.health import HealthService
from sealserve.serving.limits import Limits
from sealserve.serving.load import Load
from sealserve.serving.methods import Service, generic_handler
from sealserve.serving.prediction_service import SERVICE_NAME, PredictionService
from sealserve.serving.receipts import ReceiptSigner
from sealserve.serving.tls import ServerTls
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

    @property
    def load(self) -> Load:
        """Requests in work."""
        return self._admission.load

    def start(self, *, serving: bool = True) -> None:
        """Answer requests, and report every service as SERVING, or as NOT_SERVING for now."""
        self._health.serving = serving
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
        self._admission.close()
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
    receipts: ReceiptSigner | None = None,
) -> tuple[GrpcServer, int]:
    """Make a server of predictions that listens, with TLS, and is not started yet.

    :param address: ``host:port``; port 0 takes a free one.
    :param private_key_pem: of the certificate; neither touches a disk.
    :param certificate_pem: the server's certificate, and after it those that lead to its root, if there are any.
    :param limits: what its callers may hold at once.
    :param reuse_port: several sockets may have the port (SO_REUSEPORT), such as one by which a supervisor keeps it.
    :param receipts: who signs them; without, requests that ask for a receipt are refused.
    :returns: the server and its port.
    :raises InputError: key or certificate are not usable. :raises MachineError: the port cannot be had, or the threads.
    """
    limits = limits or Limits()
    prediction = PredictionService(core, max_bytes=limits.message_bytes).service()
    tls = ServerTls(private_key_pem, certificate_pem)
    services = [prediction, *extra_services]
    server, ports = listen(
        services, addresses=[address], tls=tls, limits=limits, reuse_port=reuse_port, receipts=receipts
    )
    return server, ports[0]


def listen(
    services: Sequence[Service],
    *,
    addresses: Sequence[str],
    tls: ServerTls | None,
    limits: Limits,
    reuse_port: bool = False,
    aliases: Sequence[str] = (),
    receipts: ReceiptSigner | None = None,
) -> tuple[GrpcServer, list[int]]:
    """Make a server of any services that listens and is not started yet. Health checking is one of them.

    :param addresses: ``host:port`` each (port 0 takes a free one), or ``unix:path``.
    :param tls: None for plaintext; on all addresses alike.
    :param aliases: further names of which health is told. :param receipts: see :func:`create_server`.
    :returns: the server, and a port for each address (that of a UNIX socket means nothing).
    :raises MachineError: a port cannot be had, or the threads.
    """
    _take_bytes_where_they_are_waited_for()
    health = HealthService((*(service.name for service in services), *aliases))
    admission = Admission(limits)
    threads = _threads(limits.threads)
    server = grpc.server(
        threads,
        handlers=tuple(generic_handler(service, admission, receipts) for service in (health.service(), *services)),
        options=[("grpc.so_reuseport", int(reuse_port)), *limits.grpc_options()],
        maximum_concurrent_rpcs=limits.threads + _BACKLOG,
    )
    _quiet_grpc()
    try:
        ports = [_add_port(server, address, tls) for address in addresses]
    except MachineError:
        threads.shutdown()
        raise
    return GrpcServer(server, health, admission, threads), ports


def _add_port(server: grpc.Server, address: str, tls: ServerTls | None) -> int:
    try:
        port: int = (
            server.add_insecure_port(address) if tls is None else server.add_secure_port(address, _credentials(tls))
        )
    except RuntimeError as error:
        hint = "Another program may have the port: choose another, or 0 for a free one."
        if address.startswith("unix:"):
            hint = "Its directory must exist and be writable, and its path have at most 107 bytes."
        raise MachineError(f"cannot listen on {address}", hint=hint) from error
    return port


def _threads(most: int) -> RequestThreads:
    try:
        return RequestThreads(most)
    except RuntimeError as error:
        raise MachineError("cannot start a thread", hint="Allow the process more threads.") from error


def _take_bytes_where_they_are_waited_for() -> None:
    """Before grpcio's first use in a process: have the thread that waits for requests read the sockets, too.

    Otherwise a thread of gRPC's event engine does, and wakes that one: 0.04 ms for each request (grpcio 1.85). What the
    environment says already, holds.
    """
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")


def _quiet_grpc() -> None:
    """Strangers must not be able to fill the log: grpcio writes a traceback for each header that is not UTF-8."""
    logging.getLogger("grpc._cython.cygrpc").setLevel(logging.CRITICAL)


def _credentials(tls: ServerTls) -> grpc.ServerCredentials:
    requires = tls.client_ca_pem is not None
    if not (tls.renewable or requires):
        return grpc.ssl_server_credentials([_pair(tls)])
    shown = tls.certificate_pem

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal shown
        # With each new configuration gRPC forgets the sessions before: those that resume one, for two days, show no
        # certificate, also if theirs has ended. Nothing else turns it off. It costs no more than resuming saves.
        if tls.certificate_pem == shown and not requires:
            return None
        shown = tls.certificate_pem
        return grpc.ssl_server_certificate_configuration([_pair(tls)], tls.client_ca_pem)

    first = grpc.ssl_server_certificate_configuration([_pair(tls)], tls.client_ca_pem)
    return grpc.dynamic_ssl_server_credentials(first, renewed, requires)


def _pair(tls: ServerTls) -> tuple[bytes, bytes]:
    return bytes(tls.private_key_pem.reveal()), tls.certificate_pem


__all__ = ["SERVICE_NAME", "GrpcServer", "create_server", "listen"]
