"""Accepts connections, closes those of strangers unread, and relays the bytes of the others to a socket file."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import cast

from sealserve.client.accepting import accept_all
from sealserve.errors import MachineError

_MOST = 1024  # connections at once; more are closed


class Relay:
    """Belongs to one event loop.

    :param inner: the socket file that connections are relayed to.
    :param admits: tells of an accepted connection, of which nothing was read, whether it may stay.
    """

    def __init__(self, inner: Path, admits: Callable[[socket.socket], bool]) -> None:
        self._inner = inner
        self._admits = admits
        self._open: set[_End] = set()

    async def accept(self, listening: socket.socket) -> None:
        """Serve one listening socket until it is cancelled, or fails.

        :raises MachineError: the listening socket is of no use any more, or nobody serves the inner socket.
        """
        await accept_all(listening, self._take)

    def close(self) -> None:
        """Close all connections."""
        for end in list(self._open):
            end.transport.abort()

    async def _take(self, connection: socket.socket) -> bool:
        return len(self._open) < 2 * _MOST and self._admits(connection) and await self._join(connection)

    async def _join(self, connection: socket.socket) -> bool:
        """Connect one with the inner socket. :returns: False, if that cannot take more now."""
        loop = asyncio.get_running_loop()
        try:
            inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:
            return False
        inner.setblocking(False)
        try:
            inner.connect(str(self._inner))  # a socket file takes it at once, or not
        except BlockingIOError:
            inner.close()
            return False
        except OSError as error:
            inner.close()
            raise MachineError("the proxy's server has ended") from error
        near, far = _End(self._open), _End(self._open)
        near.other, far.other = far, near
        await loop.connect_accepted_socket(lambda: far, inner)
        try:
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.connect_accepted_socket(lambda: near, connection)
        except OSError:
            far.transport.abort()
            return False
        for end in (near, far):
            with contextlib.suppress(RuntimeError):  # it is closed already
                end.transport.resume_reading()
        if far.transport.is_closing():
            near.transport.abort()
        return True


class _End(asyncio.Protocol):
    """One of the two connections. What the other cannot take yet is not read: buffers stay small."""

    transport: asyncio.Transport
    other: _End

    def __init__(self, opened: set[_End]) -> None:
        self._opened = opened

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.pause_reading()  # until the other is there
        self._opened.add(self)

    def data_received(self, data: bytes) -> None:
        self.other.transport.write(data)

    def pause_writing(self) -> None:
        self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        with contextlib.suppress(RuntimeError):
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._opened.discard(self)
        if hasattr(self.other, "transport"):
            self.other.transport.close()
