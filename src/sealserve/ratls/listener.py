"""A TLS server over asyncio: one task for each connection, a time limit on the handshake, limits on connections."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from OpenSSL import SSL

from sealserve.addresses import Address
from sealserve.allowance import Allowance
from sealserve.errors import MachineError, SealserveError
from sealserve.logs import event, get_logger
from sealserve.ratls.crowd import ConnectionLimits, Crowd, Member
from sealserve.ratls.stream import TlsStream
from sealserve.ratls.tcp import TcpConnection
from sealserve.ratls.turns import Turns

Handler = Callable[[TlsStream], Awaitable[None]]

_log = get_logger(__name__)
_BACKLOG = 1024
_ACCEPTED_AT_ONCE = 8  # few, so that another process with the same socket gets its part
_LOOK_AGAIN = 0.1
_SECONDS_EACH = 10.0  # between two lines of the log about connections that had no room


class AddressInUseError(MachineError):
    """Another process listens at the address."""


class TlsServer:
    """A listening server; made by :func:`serve`.

    :ivar address: where it listens, with the port that the system chose if port 0 was asked for.
    :ivar handshakes: how many were ``completed``, ``failed`` or ``timed-out``; connections that were ``dropped`` had
        none, and those that were ``evicted`` had to make room for others, in the handshake or after it.
    """

    def __init__(self, context: SSL.Context, handler: Handler, limits: ConnectionLimits) -> None:
        self._context = context
        self._handler = handler
        self._crowd = Crowd(limits)
        self._servers: list[asyncio.Server] = []
        self._told = -_SECONDS_EACH
        self._allowance = Allowance()
        self._untold = 0
        self.address = Address("", 0)
        self.handshakes: Counter[str] = Counter()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._crowd)

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Serve whom these sockets accept. They may be other processes' too; each gets its turn."""
        loop = asyncio.get_running_loop()
        turns = Turns(loop)
        for listening in sockets:
            server = await loop.create_server(
                lambda: TcpConnection(self._accept, turns), sock=listening, backlog=_ACCEPTED_AT_ONCE
            )
            listening.listen(_BACKLOG)  # asyncio has one number for both
            self._servers.append(server)
        self.address = bound_address(sockets)

    async def close(self, *, grace: float = 5.0) -> None:
        """Stop accepting, let running connections finish for ``grace`` seconds, cut the rest."""
        for server in self._servers:
            server.close()
        tasks = [member.task for member in self._crowd.members if member.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, tcp: TcpConnection) -> None:
        member, leaving = self._crowd.enter(tcp)
        if leaving is not None and leaving.task is not None:
            leaving.task.cancel()
            self._no_room("evicted", leaving.tcp)
        if member is None:
            self._no_room("dropped", tcp)
            tcp.abort()
            return
        connection = SSL.Connection(self._context, None)
        connection.set_accept_state()
        serving = self._serve(TlsStream(tcp, connection), member, self._crowd.handshake_seconds)
        member.task = asyncio.get_running_loop().create_task(serving)
        member.task.add_done_callback(lambda _: self._left(member))

    def _left(self, member: Member) -> None:
        self._crowd.leave(member)
        member.tcp.abort()  # closed already, unless the task was cancelled before it began

    def _no_room(self, what: str, tcp: TcpConnection) -> None:
        """Count, and tell from time to time: strangers must not be able to fill the log."""
        self.handshakes[what] += 1
        if time.monotonic() >= self._told + _SECONDS_EACH:
            self._told = time.monotonic()
            event(
                _log,
                logging.WARNING,
                f"connection-{what}",
                reason="too many connections",
                peer=tcp.peer[0] if tcp.peer else "?",
                open=len(self._crowd),
                evicted=self.handshakes["evicted"],
                dropped=self.handshakes["dropped"],
            )

    def _tell_failure(self, name: str, **fields: object) -> None:
        """Anybody can make connections fail: the first of many are told, then some, with how many were not."""
        if not self._allowance.take():
            self._untold += 1
            return
        event(_log, logging.INFO, name, **fields, **({"untold_before": self._untold} if self._untold else {}))
        self._untold = 0

    async def _serve(self, stream: TlsStream, member: Member, handshake_seconds: float) -> None:
        peer = stream.peer_address
        try:
            try:
                async with _patience_with(member.tcp, handshake_seconds):
                    await stream.handshake(server=True)
                self.handshakes["completed"] += 1
                member.shaken = True
            except SealserveError:
                self.handshakes["failed"] += 1
                raise
            except TimeoutError:
                self.handshakes["timed-out"] += 1
                self._tell_failure("handshake-timed-out", peer=peer)
                stream.abort()
                return
            await self._handler(stream)
            await stream.close()
        except TimeoutError:
            self._tell_failure("peer-timed-out", peer=peer)
            stream.abort()
        except SealserveError as error:
            self._tell_failure("connection-failed", peer=peer, reason=error)
            with contextlib.suppress(SealserveError):
                await stream.close()
        except Exception:  # noqa: BLE001 - a defect in the handler must not end the server
            _log.exception("connection-handler-failed", extra={"fields": {"peer": peer}})
            stream.abort()
        except BaseException:  # cancelled, or a panic in a library that is written in Rust
            stream.abort()
            raise


@contextlib.asynccontextmanager
async def _patience_with(tcp: TcpConnection, seconds: float) -> AsyncIterator[None]:
    """A time limit for the peer alone: while it waits for us, it is extended.

    :raises TimeoutError: the peer did not do its part in time.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as limit:
        timer: asyncio.TimerHandle

        def look() -> None:
            nonlocal timer
            if tcp.waits:
                limit.reschedule(loop.time())
            else:
                timer = loop.call_later(_LOOK_AGAIN, look)

        timer = loop.call_later(seconds, look)
        try:
            yield
        finally:
            timer.cancel()


async def serve(
    address: Address,
    context: SSL.Context,
    handler: Handler,
    *,
    limits: ConnectionLimits | None = None,
    sockets: Sequence[socket.socket] = (),
) -> TlsServer:
    """Serve TLS connections until :meth:`TlsServer.close`.

    :param handler: called after the handshake with the stream, which is closed when it returns. When it raises
        TimeoutError, the peer did not do its part in time.
    :param sockets: that listen at the address already; they are made if none are given.
    :raises MachineError: see :func:`listening_sockets`.
    """
    server = TlsServer(context, handler, limits or ConnectionLimits())
    await server.start(sockets or listening_sockets(address))
    return server


def listening_sockets(address: Address) -> list[socket.socket]:
    """Listen: one socket for each address that the host's name has, all with the same port.

    :raises AddressInUseError: another process does. :raises MachineError: the address cannot be used.
    """
    made: list[socket.socket] = []
    unusable: OSError | None = None
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, place in dict.fromkeys((family, place) for family, _, _, _, place in found):
            where = (place[0], made[0].getsockname()[1], *place[2:]) if made and address.port == 0 else place
            try:
                made.append(_listen(family, where))
            except OSError as error:
                # A name such as localhost may have an address of a family that this machine does not use.
                if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                    raise
                unusable = error
        if not made:
            raise unusable or OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    except OSError as error:
        for listening in made:
            listening.close()
        raise explain_listening(error, address) from error
    return made


def _listen(family: int, where: Any) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(where)
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening


def bound_address(sockets: Sequence[socket.socket]) -> Address:
    """Where the first of them listens."""
    host, port = sockets[0].getsockname()[:2]
    return Address(host, port)


def explain_listening(error: OSError, address: Address) -> MachineError:
    """Why nobody can listen at an address."""
    # asyncio wraps the error of bind(2) in one of its own text, with the same number.
    text = f"cannot listen at {address}: {error.strerror or error}"
    if error.errno == 98 or "address already in use" in str(error).lower():
        return AddressInUseError(
            f"cannot listen at {address}: another process does",
            hint=f"Stop it, or choose another port; `ss -ltnp 'sport = :{address.port}'` shows which it is.",
        )
    return MachineError(text, hint="Check that the address belongs to this machine and the port is not reserved.")
