"""TLS on one TCP connection of asyncio, of which nothing is lost that arrived before the connection ended.

asyncio's own TLS drops what is still unread when a write fails. A server that answers early and goes, while a long
request is on its way to it, has answered all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from typing import cast

from sealserve.client.endpoint import Endpoint
from sealserve.client.http2 import CHUNK
from sealserve.client.transport import tune

_READ = 1 << 16


class TlsProtocol(asyncio.Protocol):
    """The TLS of a client. Subclasses say what becomes of the plain bytes.

    :ivar session: the TLS session, made with once :meth:`shake_hands` has returned.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.session = endpoint.context.wrap_bio(self._arrived, self._leaving, server_hostname=endpoint.server_name)
        self._transport: asyncio.Transport | None = None
        self._inode = 0
        self._handshake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writable = True

    def received(self, data: bytes) -> None:
        """Take what arrived."""
        raise NotImplementedError

    def writable(self) -> None:
        """More can be written now."""
        raise NotImplementedError

    def lost(self, error: Exception | None) -> None:
        """The connection broke, or the other end closed it."""
        raise NotImplementedError

    async def shake_hands(self) -> None:
        """Make the TLS session. :raises ssl.SSLError: it cannot be made. :raises OSError: the connection broke."""
        await self._handshake

    def write(self, data: bytes) -> None:
        """Send; what the socket does not take yet is kept, and ``self._writable`` says whether to go on."""
        view = memoryview(data)
        try:
            while view:
                view = view[self.session.write(view) :]
        except ssl.SSLError as error:
            self.lost(error)
            return
        self._flush()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    # --- what asyncio calls -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=CHUNK)
        plain = transport.get_extra_info("socket")
        if plain is not None:
            self._inode = os.fstat(plain.fileno()).st_ino
            if plain.family != socket.AF_UNIX:
                with contextlib.suppress(OSError):  # on some systems, of one that is reset already
                    tune(plain)
        self._go_on()

    def data_received(self, data: bytes) -> None:
        self._arrived.write(data)
        self._go_on()

    def eof_received(self) -> None:
        self._end(None)

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self.writable()

    def connection_lost(self, exc: Exception | None) -> None:
        self._writable = False
        if exc is not None and self._handshake.done():
            self._read_what_is_left()
        self._end(exc)

    # ------------------------------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Act on what arrived."""
        try:
            if not self._handshake.done():
                self.session.do_handshake()
                self._handshake.set_result(None)
            while data := self.session.read(_READ):
                self.received(data)
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            self._flush()  # an alert, which tells the server why
            self._end(error)
        else:
            self._end(None)

    def _end(self, error: Exception | None) -> None:
        if self._handshake.done():
            self.lost(error)
        else:
            self._handshake.set_exception(error or ConnectionResetError("the connection was closed"))
            self._handshake.exception()  # nobody may wait any more: then it is nobody's error

    def _flush(self) -> None:
        if self._transport is not None and self._leaving.pending:
            self._transport.write(self._leaving.read())
            self._writable = self._writable and not self._transport.is_closing()

    def _read_what_is_left(self) -> None:
        """After a failed write. Reading may go on, until the socket is closed, a moment after this."""
        plain = self._transport.get_extra_info("socket") if self._transport is not None else None
        with contextlib.suppress(OSError):
            # Loops other than asyncio's own may have closed it: its number can be another's by now.
            if plain is None or plain.fileno() < 0 or os.fstat(plain.fileno()).st_ino != self._inode:
                return
            while data := os.read(plain.fileno(), _READ):
                self.data_received(data)
