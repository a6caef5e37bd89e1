"""Exchanges, one at a time, on one TLS connection of asyncio; see :mod:`sealserve.client.connection`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from sealserve.client.aio.tls import TlsProtocol
from sealserve.client.connection import no_more_requests
from sealserve.client.deadline import Deadline
from sealserve.client.endpoint import Endpoint
from sealserve.client.errors import ConnectionLostError, TargetUnreachableError
from sealserve.client.protocols import Exchange, Grpc, Rest, StateMachine
from sealserve.client.tls import Peer, lost, no_connection, no_session, read_peer
from sealserve.errors import SealserveError


class AsyncConnection(TlsProtocol):
    """Carries one exchange at a time. After an exception from :meth:`run`, also a cancellation, it is closed.

    :ivar heard: whether the other end ever said something, beyond the handshake.
    """

    peer: Peer
    judged: object | None = None

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self._endpoint = endpoint
        self._http: StateMachine = endpoint.protocol.start()
        self._waiter: asyncio.Future[None] | None = None
        self._error: SealserveError | None = None
        self.heard = False

    @property
    def protocol(self) -> Grpc | Rest:
        """What is spoken on it."""
        return self._endpoint.protocol

    @property
    def reusable(self) -> bool:
        """Whether another exchange can be tried."""
        return self._error is None and self._http.reusable

    async def run(self, exchange: Exchange, deadline: Deadline) -> Any:
        """Send a request and wait for its answer; see :meth:`sealserve.client.connection.Connection.run`."""
        if self._error is not None:
            raise self._error
        if not self._http.reusable:
            self.close()
            raise no_more_requests()
        exchange.begin(self._http, self._endpoint.authority, deadline)
        done = False
        try:
            self._waiter = asyncio.get_running_loop().create_future()
            self._pump()
            async with bounded(deadline, "waiting for an answer"):
                await self._waiter
            reply = self._http.finish()
            self._pump()
            done = True
            return reply
        finally:
            self._waiter = None
            if not done:
                self.close()

    def close(self) -> None:
        """Close the connection; further calls fail."""
        self._fail(ConnectionLostError("the connection was closed"))

    # --- what its TLS calls -------------------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """See :class:`TlsProtocol`."""
        self.heard = True
        if self._error is not None:
            return
        try:
            self._http.feed(data)
            self._pump()
        except SealserveError as error:
            self._fail(error)
            return
        if self._http.over and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def writable(self) -> None:
        """See :class:`TlsProtocol`."""
        self._pump()

    def lost(self, error: Exception | None) -> None:
        """See :class:`TlsProtocol`."""
        self._fail(lost(self._endpoint.address, error, heard=self.heard))

    def _pump(self) -> None:
        while self._writable and self._error is None and (data := self._http.outgoing()):
            self.write(data)

    def _fail(self, error: SealserveError) -> None:
        if self._error is None:
            self._error = error
            self.abort()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)


async def connect(endpoint: Endpoint, deadline: Deadline) -> AsyncConnection:
    """Connect and shake hands; errors as :func:`sealserve.client.transport.connect`."""
    loop = asyncio.get_running_loop()
    address = endpoint.address
    try:
        connection = AsyncConnection(endpoint)
        async with bounded(deadline, f"connecting to {address}"):
            await loop.create_connection(lambda: connection, address.host, address.port)
    except TimeoutError as error:
        raise TargetUnreachableError(
            f"{address} does not answer", hint="Check the address and the firewall between here and there."
        ) from error
    except (OSError, UnicodeError, ValueError) as error:
        raise no_connection(address, error) from error
    try:
        async with bounded(deadline, f"shaking hands with {address}"):
            await connection.shake_hands()
        connection.peer = read_peer(connection.session, address, endpoint.protocol)
    except OSError as error:
        connection.close()
        raise no_session(address, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.asynccontextmanager
async def bounded(deadline: Deadline, doing: str) -> AsyncIterator[None]:
    """:raises DeadlinePassedError: the block did not end in time."""
    try:
        async with asyncio.timeout(deadline.remaining(doing)):
            yield
    except TimeoutError:
        deadline.remaining(doing)
        raise
