"""A TCP connection over asyncio whose memory is bounded, and of which one knows whom it waits for.

asyncio's own streams would do, but hide whether somebody waits for the peer: the listener needs that to tell a peer
that is silent from one that waits for us. They also cost more than the bytes that they carry.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
from collections.abc import Callable
from typing import cast

from sealserve.ratls.turns import Turns

RECEIVE_LIMIT = 64 * 1024
"""Bytes that wait to be read, at most; a little more with what came at once with the last."""


class TcpConnection(asyncio.Protocol):
    """One connection. One task may read while another writes.

    :param accepted: told of the connection when it is made. :param turns: shared with others that take turns with it.
    :ivar waits: whether somebody reads, and the peer has sent nothing. :ivar spoke: whether it ever sent something.
    """

    def __init__(self, accepted: Callable[[TcpConnection], None] | None = None, turns: Turns | None = None) -> None:
        self._accepted = accepted
        self._loop = asyncio.get_running_loop()
        self.spoke = False
        self._turns = turns
        self._number = turns.number() if turns is not None else 0
        self._received = bytearray()
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._ended = self._reading_paused = self._writing_paused = False
        self._error: Exception | None = None
        self._transport: asyncio.Transport | None = None

    @property
    def waits(self) -> bool:
        return self._reader is not None and not self._received and not self._ended

    @property
    def peer(self) -> tuple[str, int] | None:
        """Address and port of the peer."""
        name = self.transport.get_extra_info("peername")
        return (str(name[0]), int(name[1])) if isinstance(name, tuple) else None

    @property
    def transport(self) -> asyncio.Transport:
        """The transport.

        :raises RuntimeError: the connection is not made yet.
        """
        if self._transport is None:
            raise RuntimeError("not connected")
        return self._transport

    async def read(self) -> bytes:
        """What has come, at least a byte; empty at the end.

        :raises OSError: the connection broke.
        """
        if not self._received and not self._ended:
            await self._something()
        elif self._turns is not None:
            # It came before anybody asked for it: that is no reason to get ahead of others.
            await self._something(asked=True)
        if not self._received and self._error is not None:
            raise self._error
        data = bytes(self._received)
        self._received.clear()
        if self._reading_paused:
            self._reading_paused = False
            self.transport.resume_reading()
        return data

    async def _something(self, *, asked: bool = False) -> None:
        """Wait for the peer, and for our turn."""
        self._reader = self._loop.create_future()
        if asked:
            self._wake_reader()
        try:
            await self._reader
        finally:
            self._reader = None

    def _wake_reader(self) -> None:
        if self._reader is None or self._turns is None:
            _wake(self._reader)
        else:
            self._turns.ask(self._number, self._reader)

    async def write(self, data: bytes) -> None:
        """Send; returns when the socket took all but a little.

        :raises OSError: the connection broke.
        """
        if self._error is not None:
            raise self._error
        if data:
            self.transport.write(data)
        if self._writing_paused:
            self._writer = self._loop.create_future()
            try:
                await self._writer
            finally:
                self._writer = None

    def end(self) -> None:
        """Say that nothing more will be sent."""
        if not self.transport.is_closing():
            self.transport.write_eof()

    def close(self) -> bool:
        """Close, after what was written is sent; whether it is."""
        self.transport.close()
        return self.transport.get_write_buffer_size() == 0

    async def closed(self) -> None:
        """Return when it is closed."""
        await asyncio.shield(self._closed)

    def abort(self) -> None:
        """Close at once; what was written and not sent is lost."""
        self.transport.abort()

    # --- told by asyncio ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See :class:`asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)  # a loop's own kind need not derive from it
        if self._accepted is not None:
            self._accepted(self)

    def data_received(self, data: bytes) -> None:
        """See :class:`asyncio.Protocol`."""
        self.spoke = True
        self._received += data
        if len(self._received) >= RECEIVE_LIMIT and not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()
        self._wake_reader()

    def eof_received(self) -> bool:
        """See :class:`asyncio.Protocol`. We may still write."""
        self._ended = True
        self._wake_reader()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        """See :class:`asyncio.Protocol`."""
        self._ended = True
        self._error = error if isinstance(error, OSError) else ConnectionResetError("the connection is closed")
        self._wake_reader()
        if self._writer is not None and not self._writer.done():
            self._writer.set_exception(self._error)
        _wake(self._closed)

    def pause_writing(self) -> None:
        """See :class:`asyncio.Protocol`."""
        self._writing_paused = True

    def resume_writing(self) -> None:
        """See :class:`asyncio.Protocol`."""
        self._writing_paused = False
        _wake(self._writer)


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)


@functools.lru_cache(maxsize=4096)
def peer_group(host: str) -> str:
    """Whom an address is counted for: itself, or for IPv6 its network of 64 bits, which one customer has as a whole."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, 64), strict=False))
