"""A TLS server over asyncio: one task for each connection, a time limit on the handshake, a limit on connections."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from OpenSSL import SSL

from sealserve.addresses import Address
from sealserve.errors import MachineError, SealserveError
from sealserve.logs import event, get_logger
from sealserve.ratls.stream import SOCKET_BUFFER, TlsStream

Handler = Callable[[TlsStream], Awaitable[None]]

_log = get_logger(__name__)
_BACKLOG = 1024


class AddressInUseError(MachineError):
    """Another process listens at the address."""


class TlsServer:
    """A listening server; made by :func:`serve`.

    :ivar address: where it listens, with the port that the system chose if port 0 was asked for.
    """

    def __init__(
        self, context: SSL.Context, handler: Handler, *, handshake_timeout: float, max_connections: int
    ) -> None:
        self._context = context
        self._handler = handler
        self._handshake_timeout = handshake_timeout
        self._max_connections = max_connections
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.address = Address("", 0)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._tasks)

    async def start(self, address: Address) -> None:
        """Listen.

        :raises AddressInUseError: somebody else does. :raises MachineError: the address cannot be used.
        """
        try:
            self._server = await asyncio.start_server(
                self._accept, address.host, address.port, limit=SOCKET_BUFFER, backlog=_BACKLOG
            )
        except OSError as error:
            raise _explain(error, address) from error
        host, port = self._server.sockets[0].getsockname()[:2]
        self.address = Address(host, port)

    async def close(self, *, grace: float = 5.0) -> None:
        """Stop accepting, let running connections finish for ``grace`` seconds, cut the rest."""
        if self._server is not None:
            self._server.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) >= self._max_connections:
            event(_log, logging.WARNING, "connection-dropped", reason="too many connections", open=len(self._tasks))
            writer.transport.abort()
            return
        connection = SSL.Connection(self._context, None)
        connection.set_accept_state()
        task = asyncio.get_running_loop().create_task(self._serve(TlsStream(reader, writer, connection)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, stream: TlsStream) -> None:
        peer = stream.peer_address
        try:
            try:
                async with asyncio.timeout(self._handshake_timeout):
                    await stream.handshake()
            except TimeoutError:
                event(_log, logging.INFO, "handshake-timed-out", peer=peer)
                stream.abort()
                return
            await self._handler(stream)
            await stream.close()
        except SealserveError as error:
            event(_log, logging.INFO, "connection-failed", peer=peer, reason=error)
            with contextlib.suppress(SealserveError):
                await stream.close()
        except Exception:  # noqa: BLE001 - a defect in the handler must not end the server
            _log.exception("connection-handler-failed", extra={"fields": {"peer": peer}})
            stream.abort()
        except BaseException:  # cancelled, or a panic in a library that is written in Rust
            stream.abort()
            raise


async def serve(
    address: Address,
    context: SSL.Context,
    handler: Handler,
    *,
    handshake_timeout: float = 10.0,
    max_connections: int = 2000,
) -> TlsServer:
    """Serve TLS connections until :meth:`TlsServer.close`.

    :param handler: called after the handshake with the stream, which is closed when it returns.
    :param handshake_timeout: seconds. :param max_connections: more are dropped at once.
    :raises MachineError: see :meth:`TlsServer.start`.
    """
    server = TlsServer(context, handler, handshake_timeout=handshake_timeout, max_connections=max_connections)
    await server.start(address)
    return server


def _explain(error: OSError, address: Address) -> MachineError:
    # asyncio wraps the error of bind(2) in one of its own text, with the same number.
    text = f"cannot listen at {address}: {error.strerror or error}"
    if error.errno == 98 or "address already in use" in str(error).lower():
        return AddressInUseError(
            f"cannot listen at {address}: another process does",
            hint=f"Stop it, or choose another port; `ss -ltnp 'sport = :{address.port}'` shows which it is.",
        )
    return MachineError(text, hint="Check that the address belongs to this machine and the port is not reserved.")
