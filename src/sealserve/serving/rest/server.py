"""The REST server: an event loop in a thread of its own, its start and its stop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Mapping

from aiohttp import web, web_protocol

from sealserve.addresses import parse_address
from sealserve.errors import MachineError
from sealserve.http_log import library_log
from sealserve.logs import get_logger
from sealserve.serving.core import ModelServer
from sealserve.serving.load import Load
from sealserve.serving.rest.application import Application, cut, number_of
from sealserve.serving.rest.door import BACKLOG, Door
from sealserve.serving.rest.limits import RestLimits
from sealserve.serving.rest.routes import Finder, MetricsRoute, Routes
from sealserve.serving.rest.tls import load_certificate, server_context
from sealserve.serving.rest.work import Work
from sealserve.serving.tls import ServerTls

_log = get_logger(__name__)
METRICS_PATH = "/monitoring/prometheus/metrics"
_LINGER_SECONDS = 1.0  # so that a caller who still sends can read why nobody reads it
_TURN_SECONDS = 0.05  # for requests that have just arrived to begin
_CLOSE_SECONDS = 1.0  # for TLS and cancelled requests to end
_METRICS_CONNECTIONS = 32  # scrapers, and strangers
_METRICS_BYTES = 16 << 20
_HEADERS = 64  # lines of a request, of 8 KiB each at most

# Requests of one connection that are parsed, and that nobody has begun with. aiohttp keeps 32, each with all its
# headers, and has no setting for it; what is not parsed waits in the socket. With a number between, a request can be
# forgotten behind one whose body came later than its headers (3.14.5).
web_protocol.MAX_MSG_QUEUE_SIZE = 1


class RestServer:
    """A server that has its port, and answers nothing before :meth:`start`.

    :param routes: makes what is answered, from a function that says whether the server is to be called ready.
    """

    def __init__(
        self,
        core: ModelServer,
        door: Door,
        *,
        tls: ssl.SSLContext | None,
        limits: RestLimits,
        routes: Callable[[Callable[[], bool]], Finder],
    ) -> None:
        self._door = door
        self._tls = tls
        self._limits = limits
        self._serving = True
        self._application = Application(core, routes(lambda: self._serving), door, limits)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="rest", daemon=True)
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._stop = asyncio.Event()
        self._grace = 0.0

    @property
    def load(self) -> Load:
        """Requests in work."""
        return self._application.load

    def start(self) -> None:
        """Answer requests."""
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure

    def set_serving(self, serving: bool) -> None:
        """What ``/readyz`` and its like say, if the models are loaded."""
        self._serving = serving

    def renew(self, material: ServerTls) -> None:
        """Show its certificate in handshakes from now on."""
        if self._tls is not None:
            # In the loop's thread, where every handshake begins.
            with contextlib.suppress(RuntimeError):  # the server has ended
                self._loop.call_soon_threadsafe(load_certificate, self._tls, material)

    def stop(self, grace: float | None = None) -> None:
        """Take no new requests, let those in flight finish for ``grace`` seconds, then cancel them. Returns when all
        are done. Safe to call twice, and before :meth:`start`.
        """
        self._serving = False
        self._grace = grace or 0.0
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # it ends at this moment
                self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
        self._door.close()
        self._application.close()
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:  # noqa: BLE001 - told by start()
            self._failure = error
            if self._started.is_set():
                _log.exception("rest-server-failed")
                self._door.close()  # callers are refused, and do not wait for a server that is gone
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            asyncio.set_event_loop(None)
            self._started.set()

    async def _serve(self) -> None:
        application = self._application
        server = web.Server(
            application.handle,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=self._limits.idle_seconds,
            lingering_time=_LINGER_SECONDS,
            max_headers=_HEADERS,
            logger=library_log(__name__),
        )
        listening = await self._loop.create_server(
            server,
            sock=self._door,
            backlog=BACKLOG,
            ssl=self._tls,
            ssl_handshake_timeout=None if self._tls is None else self._limits.handshake_seconds,
            ssl_shutdown_timeout=None if self._tls is None else _CLOSE_SECONDS,
        )
        self._started.set()
        await self._stop.wait()
        application.stopping = True
        listening.close()
        server.pre_shutdown()
        await asyncio.sleep(_TURN_SECONDS)
        # aiohttp leaves those that were accepted a moment ago, and asyncio forgets some.
        self._door.end_others({number_of(connection.transport) for connection in server.connections})
        for connection in application.idle(server.connections):
            connection.force_close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._grace):
                await application.quiet.wait()
        for connection in server.connections:
            if connection.transport is not None and not application.quiet.is_set():
                cut(connection.transport)
        await server.shutdown(_CLOSE_SECONDS)


def create_rest_server(
    core: ModelServer,
    *,
    address: str,
    tls: ServerTls | None,
    limits: RestLimits | None = None,
    metrics: Callable[[], bytes] | None = None,
    metrics_path: str = METRICS_PATH,
    reuse_port: bool = False,
    extra: Mapping[str, Work] | None = None,
) -> tuple[RestServer, int]:
    """Make a server that listens, and is not started yet.

    :param address: ``host:port``; port 0 takes a free one.
    :param tls: None for HTTP without TLS.
    :param metrics: gives Prometheus's text, in a thread.
    :param reuse_port: several sockets may have the port (SO_REUSEPORT).
    :param extra: what is to be done for a POST to further paths, as extra services do for gRPC.
    :returns: the server and its port.
    :raises InputError: the address, key or certificates are not usable. :raises MachineError: the port cannot be had.
    """
    further = extra or {}

    def routes(serving: Callable[[], bool]) -> Finder:
        return Routes(
            core,
            ready=lambda: serving() and core.ready,
            metrics=metrics,
            metrics_path=metrics_path,
            extra=further,
        )

    return _listen(core, routes, address=address, tls=tls, limits=limits or RestLimits(), reuse_port=reuse_port)


def create_metrics_server(
    metrics: Callable[[], bytes], *, address: str, tls: ServerTls, reuse_port: bool = False
) -> tuple[RestServer, int]:
    """Make a server of metrics alone, under :data:`METRICS_PATH`. Parameters and errors: :func:`create_rest_server`."""
    limits = RestLimits(threads=1, body_bytes=1, buffered_bytes=_METRICS_BYTES, connections=_METRICS_CONNECTIONS)
    return _listen(
        ModelServer(),
        lambda _: MetricsRoute(metrics, METRICS_PATH),
        address=address,
        tls=tls,
        limits=limits,
        reuse_port=reuse_port,
    )


def _listen(
    core: ModelServer,
    routes: Callable[[Callable[[], bool]], Finder],
    *,
    address: str,
    tls: ServerTls | None,
    limits: RestLimits,
    reuse_port: bool,
) -> tuple[RestServer, int]:
    where = parse_address(address, allow_any_port=True)
    context = None if tls is None else server_context(tls)
    try:
        family, *_, place = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)[0]
        door = Door(
            place,
            family,
            most=limits.connections,
            stall_seconds=limits.answer_seconds,
            reuse_port=reuse_port,
            age=limits.connection_seconds,
        )
    except OSError as error:
        raise MachineError(
            f"cannot listen on {address}",
            hint="Another program may have the port, and `ss -ltnp` says which: choose another.",
        ) from error
    try:
        server = RestServer(core, door, tls=context, limits=limits, routes=routes)
    except RuntimeError as error:
        door.close()
        raise MachineError("cannot start a thread", hint="Allow the process more threads.") from error
    if tls is not None:
        tls.on_renewal(lambda: server.renew(tls))
    return server, int(door.getsockname()[1])
