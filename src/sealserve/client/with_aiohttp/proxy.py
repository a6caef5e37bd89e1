"""A local endpoint that speaks plain REST to programs as they are, and the attested protocol to the cluster.

A request is taken whole, up to a bound, and then sent on a connection whose replica was checked; method, path and body
pass as they are, and so do those headers that mean something to a replica.
"""

from __future__ import annotations

import asyncio
import json
import socket
from http import HTTPStatus
from pathlib import Path

from aiohttp import web

from sealserve.addresses import Address
from sealserve.client.accepting import accept_all
from sealserve.client.aio.client import AsyncCaller
from sealserve.client.doors import SocketFile, is_own, open_local_port
from sealserve.client.errors import DeadlinePassedError, MalformedReplyError
from sealserve.client.rest.reply import RestReply
from sealserve.client.with_aiohttp.guard import RefusedError, check, passed, passed_back
from sealserve.errors import InputError, MachineError, SealserveError, TrustError, UnavailableError
from sealserve.http_log import library_log

REASON = "Sealserve-Reason"
"""Header with the machine-readable cause (:attr:`SealserveError.reason`) of an error that no server gave."""

_CONNECTIONS = 1024
_FIRST_SECONDS = 30.0  # in which a connection must have brought its first request's headers
_IDLE_SECONDS = 75.0  # and a further one's
_LINGER_SECONDS = 1.0  # so that a program that still sends can read why nobody reads it
_BODY_SECONDS = 30.0  # in which a body has to arrive
_ANSWER_SECONDS = 30.0  # in which the program must have taken its answer
_SLOT_SECONDS = 0.2  # a request that has its answer is over a moment later


class RestProxy:
    """Serves until it is stopped, and keeps its ports until it is closed; belongs to one event loop.

    :param client: through which requests go; its target speaks REST. :param timeout: seconds, for each request.
    :param max_concurrent: requests at the same time; more are answered 429. Memory is bounded by it times twice
        ``max_message_bytes``, the largest body and the largest answer.
    :param insecure_any_local_user: serve every user of this machine who can connect.
    """

    def __init__(
        self,
        client: AsyncCaller,
        *,
        timeout: float = 60.0,
        max_concurrent: int = 128,
        max_message_bytes: int = 64 << 20,
        insecure_any_local_user: bool = False,
    ) -> None:
        self._client = client
        self._timeout = timeout
        self._most = max_message_bytes
        self._slots = asyncio.Semaphore(max_concurrent)
        self._admits = (lambda _: True) if insecure_any_local_user else is_own
        self._any_host = False
        self._listening: list[socket.socket] = []
        self._files: list[SocketFile] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._silent: set[web.RequestHandler] = set()  # connections that have brought no request yet
        self._server: web.Server  # from the start on

    def listen(self, address: Address, *, insecure_beyond_loopback: bool = False) -> Address:
        """Take a TCP port.

        :param address: of the loopback interface; port 0 takes a free one. :returns: the address it has.
        :param insecure_beyond_loopback: take any address, and requests that name any host.
        :raises InputError: the address is another. :raises MachineError: the port cannot be had.
        """
        listening, taken = open_local_port(address, insecure_beyond_loopback=insecure_beyond_loopback)
        self._any_host = self._any_host or insecure_beyond_loopback
        self._listening.append(listening)
        return taken

    def listen_on_socket(self, path: Path) -> None:
        """Take a socket file that its owner alone may use (mode 0600). One that nobody serves any more is replaced.

        :raises InputError: something else is there, another program serves it, or the directory cannot be written.
        """
        self._files.append(SocketFile(path))
        self._listening.append(self._files[-1].listening)

    async def start(self) -> None:
        """Answer from now on."""
        self._server = web.Server(
            self._handle,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=_IDLE_SECONDS,
            lingering_time=_LINGER_SECONDS,
            logger=library_log(__name__),
        )
        self._tasks = [asyncio.create_task(accept_all(listening, self._take)) for listening in self._listening]

    async def ended(self) -> None:
        """Wait for what should not happen.

        :raises MachineError: connections cannot be accepted any more.
        """
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        raise MachineError("the proxy has ended")

    async def stop(self, grace: float = 5.0) -> None:
        """Take no new connections, and let requests that are under way end, for ``grace`` seconds. Ports stay taken."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._server.pre_shutdown()
        await self._server.shutdown(grace)

    def close(self) -> None:
        """Give the ports back and remove the socket files, last of all: whoever has the port next gets the requests."""
        for file in self._files:
            file.close()
        for listening in self._listening:
            listening.close()

    async def _take(self, connection: socket.socket) -> bool:
        if len(self._server.connections) >= _CONNECTIONS or not self._admits(connection):
            return False
        loop = asyncio.get_running_loop()
        try:
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _, handler = await loop.connect_accepted_socket(self._server, connection)
        except OSError:
            return False
        self._silent.add(handler)
        loop.call_later(_FIRST_SECONDS, self._end_silent, handler)
        return True

    def _end_silent(self, handler: web.RequestHandler) -> None:
        if handler in self._silent:
            self._silent.discard(handler)
            if handler.transport is not None:
                handler.transport.abort()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self._silent.discard(request.protocol)
        held = False
        try:
            headers = list(request.headers.items())
            any_host = self._any_host or _is_unix(request)
            version = (request.version.major, request.version.minor)
            check(request.method, request.raw_path, headers, any_host=any_host, version=version)
            held = await self._take_slot()
            reply = await self._client.request(
                request.method,
                request.raw_path,
                await self._read(request),
                headers=passed(headers),
                timeout=self._timeout,
            )
            return await _send(request, _response(reply, head=request.method == "HEAD"))
        except RefusedError as error:
            answer = _error(error.status, error.text)
            answer.force_close()  # what follows a request that was not understood may be no request
            return await _send(request, answer)
        except SealserveError as error:
            return await _send(request, _explain(error))
        finally:
            # Not before the program has its answer, which is in memory until then.
            if held:
                self._slots.release()

    async def _take_slot(self) -> bool:
        try:
            async with asyncio.timeout(_SLOT_SECONDS):
                return await self._slots.acquire()
        except TimeoutError:
            raise RefusedError(HTTPStatus.TOO_MANY_REQUESTS, "the proxy has as many requests as it may") from None

    async def _read(self, request: web.BaseRequest) -> bytes:
        if (request.content_length or 0) > self._most:
            raise self._too_large()
        expects = request.headers.get("Expect", "").lower() == "100-continue"
        # HTTP/1.0 has no answer before the answer (RFC 9110, section 10.1.1): it would be taken for it.
        if expects and (request.version.major, request.version.minor) >= (1, 1) and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        parts, size = [], 0
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                while part := await request.content.readany():
                    size += len(part)
                    if size > self._most:
                        raise self._too_large()
                    parts.append(part)
        except TimeoutError:
            raise RefusedError(HTTPStatus.REQUEST_TIMEOUT, "the body did not come in time") from None
        except web.RequestPayloadError:
            raise RefusedError(HTTPStatus.BAD_REQUEST, "the body is malformed") from None
        return b"".join(parts)

    def _too_large(self) -> RefusedError:
        return RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the proxy takes bodies of {self._most} bytes")


async def _send(request: web.BaseRequest, answer: web.Response) -> web.Response:
    if not request.content.at_eof():
        answer.force_close()  # what is left of a body is not read, and is no request
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            await answer.prepare(request)
            await answer.write_eof()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
    return answer


def _response(reply: RestReply, *, head: bool) -> web.Response:
    answer = web.Response(status=reply.status, body=None if head else reply.body)
    answer.headers.popall("Content-Type", None)  # aiohttp's own choice
    for name, value in passed_back(reply.headers):
        answer.headers.add(name, value)
    if head and (length := reply.header("content-length")) is not None:
        answer.headers["Content-Length"] = length
    return answer


def _explain(error: SealserveError) -> web.Response:
    """An error that no server gave. A refusal of trust is 502: what stands behind is not what it should be."""
    text = f"{error.message}. {error.hint}" if error.hint else error.message
    match error:
        case TrustError() | MalformedReplyError():
            status = HTTPStatus.BAD_GATEWAY
        case DeadlinePassedError():
            status = HTTPStatus.GATEWAY_TIMEOUT
        case UnavailableError():
            status = HTTPStatus.SERVICE_UNAVAILABLE
        case InputError():
            status = HTTPStatus.BAD_REQUEST
        case _:
            status = HTTPStatus.INTERNAL_SERVER_ERROR
    return _error(status, text, error.reason)


def _error(status: int, text: str, reason: str | None = None) -> web.Response:
    document = {"error": text} | ({"sealserve": reason} if reason else {})
    headers = {REASON: reason} if reason else {}
    if status in {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS}:
        headers["Retry-After"] = "1"
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = "GET, HEAD, POST"
    return web.Response(
        status=status, body=json.dumps(document).encode(), headers=headers, content_type="application/json"
    )


def _is_unix(request: web.BaseRequest) -> bool:
    connection = None if request.transport is None else request.transport.get_extra_info("socket")
    return connection is not None and connection.family == socket.AF_UNIX
