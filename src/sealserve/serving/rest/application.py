"""What happens to every request before and after its own work: bodies, limits, deadlines, errors, counting."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus

from aiohttp import web

from sealserve.errors import SealserveError
from sealserve.logs import event, get_logger
from sealserve.serving.core import ModelServer
from sealserve.serving.errors import ReceiptUnavailableError, RequestError, StoppingError
from sealserve.serving.load import Load
from sealserve.serving.receipts import NONCE
from sealserve.serving.rest.answers import error_body
from sealserve.serving.rest.bodies import decompress, is_compressed, read_body
from sealserve.serving.rest.door import Door
from sealserve.serving.rest.http_errors import headers_of, status_of
from sealserve.serving.rest.limits import RestLimits
from sealserve.serving.rest.places import Memory, Places, Share
from sealserve.serving.rest.routes import Finder
from sealserve.serving.rest.work import Call, Reply, Work

_log = get_logger(__name__)
_GONE = 499  # no status of HTTP's own
_THREADS_BESIDE = 2
_MOST_TEXT = 4096  # characters of an error


class Application:
    """Handles requests, one at a time on each connection.

    :ivar stopping: new work is refused, and connections end with their answers.
    :ivar quiet: no request is in flight.
    """

    def __init__(self, core: ModelServer, routes: Finder, door: Door, limits: RestLimits) -> None:
        self._core = core
        self._door = door
        self._routes = routes
        self._places = Places(limits.threads, limits.waiting)
        # For what is quick, and asked for when the server is busy.
        self._beside = Places(_THREADS_BESIDE, limits.waiting)
        self._limits = limits
        self.memory = Memory(limits.buffered_bytes)
        self.stopping = False
        self.quiet = asyncio.Event()
        self.quiet.set()
        self._busy: set[web.RequestHandler] = set()

    @property
    def load(self) -> Load:
        """Requests in work, but for those that are quick."""
        return self._places.load

    def close(self) -> None:
        """Take no more work."""
        self._places.close()
        self._beside.close()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request, whatever goes wrong."""
        connection = request.protocol
        self._busy.add(connection)
        self.quiet.clear()
        held = self._door.begin(number_of(request.transport))
        try:
            return await self._handle(request)
        finally:
            self._busy.discard(connection)
            if not self._busy:
                self.quiet.set()
            self._door.end(held)

    def idle(self, connections: Iterable[web.RequestHandler]) -> list[web.RequestHandler]:
        """Those without a request."""
        return [connection for connection in connections if connection not in self._busy]

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        started = time.perf_counter()
        call = Call(request.method, _path(request), request.headers)
        code = "OK"
        try:
            reply = await self._reply(request, call)
        except asyncio.CancelledError:
            self._count(call, "CANCELLED", started)
            raise
        except RequestError as error:
            code = error.code
            reply = _refusal(error)
        except SealserveError as error:
            event(_log, logging.ERROR, "request-failed", reason=error)
            code = "INTERNAL"
            reply = Reply(error_body(error.message[:_MOST_TEXT]), status=HTTPStatus.INTERNAL_SERVER_ERROR)
        except RecursionError:
            code = RequestError.code
            reply = _refusal(RequestError("JSON Parse error: too many lists and objects inside each other."))
        except Exception:  # noqa: BLE001 - a defect in one request must not end the others
            _log.exception("request-failed")
            code = "INTERNAL"
            reply = Reply(
                error_body("an error inside the server; its log has more"), status=HTTPStatus.INTERNAL_SERVER_ERROR
            )
        self._count(call, code, started)
        return await self._send(request, reply)

    async def _reply(self, request: web.BaseRequest, call: Call) -> Reply:
        if NONCE in request.headers:
            raise ReceiptUnavailableError("there are no receipts over REST: ask over gRPC")
        work = self._routes.find(call)
        if isinstance(work, Reply):
            return work
        if self.stopping and not work.beside:
            raise StoppingError("the server is stopping")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limits.timeout_seconds
        share = Share(self.memory)
        try:
            body = b""
            if work.has_body:
                body = await read_body(
                    request,
                    max_bytes=self._most(work),
                    seconds=self._limits.receive_seconds,
                    take=share.take,
                )
            step = self._step(work, body, share, compressed=is_compressed(request))
        except BaseException:
            share.give_all()
            raise
        del body
        places = self._beside if work.beside else self._places
        return await places.run(step, deadline=deadline, share=share)

    def _most(self, work: Work) -> int:
        most = self._limits.body_bytes
        return most if work.max_bytes is None else min(work.max_bytes, most)

    def _step(
        self, work: Work, body: bytes, share: Share, *, compressed: bool
    ) -> Callable[[Callable[[], bool]], Reply]:
        def step(wanted: Callable[[], bool]) -> Reply:
            content = body
            if compressed:
                content = decompress(body, max_bytes=self._most(work), take=share.take)
            return work.run(content, wanted, share.take)

        return step

    async def _send(self, request: web.BaseRequest, reply: Reply) -> web.StreamResponse:
        answer = web.Response(
            body=reply.body,
            status=reply.status,
            reason="Client Closed Request" if reply.status == _GONE else None,
            headers={"Content-Type": reply.content_type, **reply.headers},
        )
        # What is left of a body is not read, and is no request.
        old = self._door.is_old(number_of(request.transport))
        if self.stopping or old or not request.content.at_eof():
            answer.force_close()
        self.memory.add(len(reply.body))
        try:
            async with asyncio.timeout(self._limits.answer_seconds):
                await answer.prepare(request)
                await answer.write_eof()
        except TimeoutError:
            if request.transport is not None:
                cut(request.transport)
        finally:
            self.memory.give(len(reply.body))
        return answer

    def _count(self, call: Call, code: str, started: float) -> None:
        observer = self._core.observer
        if call.operation and observer is not None:
            # Callers choose names: whoever counts by name must not be made to count without end.
            model = call.model if call.model in self._core.names() else ""
            observer.request(model, call.operation, "REST", code, time.perf_counter() - started)


def cut(transport: asyncio.BaseTransport) -> None:
    """End a connection, and take back what the system holds for its caller."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if isinstance(transport, asyncio.WriteTransport):
        transport.abort()


def number_of(transport: asyncio.BaseTransport | None) -> int:
    """The connection's file descriptor; below 0 if it is closed."""
    connection = None if transport is None else transport.get_extra_info("socket")
    return -1 if connection is None else int(connection.fileno())


def _refusal(error: RequestError) -> Reply:
    return Reply(error_body(error.message[:_MOST_TEXT]), status=status_of(error), headers=headers_of(error))


def _path(request: web.BaseRequest) -> str:
    """As it came, without the query."""
    raw = request.raw_path
    if not raw.startswith("/"):  # http://host/path
        raw = request.rel_url.raw_path
    return raw.partition("?")[0].partition("#")[0]
