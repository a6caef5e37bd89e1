"""TLS over asyncio, with pyOpenSSL and memory buffers.

One :class:`TlsStream` is one connection. Everything it holds is bounded: ciphertext waits only up to a limit until
somebody wants plaintext, and a write returns when the socket took what was written, up to asyncio's own small buffer.
OpenSSL never touches the socket, so a peer that is slow or silent costs memory and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

from cryptography import x509
from OpenSSL import SSL

from sealserve.errors import UnavailableError
from sealserve.ratls.tcp import TcpConnection

if TYPE_CHECKING:
    from sealserve.ratls.contexts import ClientContext

_BUFFER = 64 * 1024
_CHUNK = 16 * 1024  # the most that one TLS record carries
_LINGER_SECONDS = 2.0
_LINGER_BYTES = 256 * 1024


class TlsConnectionError(UnavailableError):
    """A connection cannot be made, the handshake fails, or the connection breaks."""


class EndOfStreamError(TlsConnectionError):
    """The peer ended the stream before all expected bytes came.

    :ivar clean: whether it said so (close_notify); if not, somebody may have cut the connection.
    :ivar received: how many of the expected bytes came.
    """

    def __init__(self, message: str, *, clean: bool, received: int = 0) -> None:
        super().__init__(message)
        self.clean = clean
        self.received = received


class TlsStream:
    """One TLS connection. Use it from one event loop; one task may read while another writes."""

    def __init__(self, tcp: TcpConnection, connection: SSL.Connection) -> None:
        self._tcp = tcp
        self._connection = connection
        self._peer_ended = False
        self._broken = False
        self._closed = False
        self._said_goodbye = False

    @property
    def peer_address(self) -> str:
        """``host:port`` of the peer, for logs."""
        if self._tcp.peer is None:
            return "?"
        host, port = self._tcp.peer
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def peer_certificate(self) -> x509.Certificate | None:
        """The certificate whose key the peer proved to have.

        :raises TlsConnectionError: the peer sent one that cannot be parsed.
        """
        try:
            return self._connection.get_peer_certificate(as_cryptography=True)
        except ValueError as error:
            raise TlsConnectionError("the peer's certificate cannot be parsed") from error

    @property
    def peer_chain(self) -> list[x509.Certificate]:
        """What the peer sent, its own certificate first on the client's side."""
        try:
            return list(self._connection.get_peer_cert_chain(as_cryptography=True) or [])
        except ValueError as error:
            raise TlsConnectionError("the peer's certificates cannot be parsed") from error

    @property
    def alpn(self) -> str | None:
        """The protocol that was negotiated."""
        return self._connection.get_alpn_proto_negotiated().decode("ascii", "replace") or None

    @property
    def tls_version(self) -> str:
        """``TLSv1.2`` or ``TLSv1.3``."""
        return self._connection.get_protocol_version_name()

    def export_keying_material(self, label: bytes, length: int) -> bytes:
        """Keying material of this session (RFC 5705, RFC 8446 section 7.5), without a context.

        :raises TlsConnectionError: there is no session.
        """
        try:
            return self._connection.export_keying_material(label, length)
        except SSL.Error as error:
            raise TlsConnectionError("this TLS session exports no keying material") from error

    async def handshake(self, *, server: bool = False) -> None:
        """Shake hands. Callers set the timeout.

        :param server: the peer speaks first. :raises TlsConnectionError: it failed.
        """
        if server and not await self._fill():
            raise TlsConnectionError("the peer closed the connection before the TLS handshake")
        while True:
            try:
                self._connection.do_handshake()
            except SSL.WantReadError:
                await self._flush()
                if not await self._fill():
                    raise TlsConnectionError("the peer closed the connection during the TLS handshake") from None
            except SSL.Error as error:
                await self._last_words()
                raise self._wrapped("the TLS handshake failed", error) from error
            else:
                await self._flush()
                return

    async def read(self, limit: int = _CHUNK) -> bytes:
        """Up to ``limit`` bytes; empty when the peer closed the stream.

        :raises EndOfStreamError: the connection was cut without a closing alert.
        :raises TlsConnectionError: the connection broke.
        """
        while True:
            try:
                data = self._connection.recv(limit)
            except SSL.WantReadError:
                await self._flush()
                if not await self._fill():
                    raise EndOfStreamError("the connection was cut", clean=False) from None
            except SSL.ZeroReturnError:
                self._peer_ended = True
                return b""
            except SSL.Error as error:
                await self._last_words()
                raise self._wrapped("the TLS connection broke", error) from error
            else:
                return data

    async def read_exactly(self, size: int) -> bytes:
        """Exactly ``size`` bytes, however they are split into TLS records.

        :raises EndOfStreamError: the stream ended before. :raises TlsConnectionError: the connection broke.
        """
        parts: list[bytes] = []
        missing = size
        while missing:
            try:
                part = await self.read(min(missing, _CHUNK))
            except EndOfStreamError as error:
                error.received = size - missing
                raise
            if not part:
                raise EndOfStreamError("the peer closed the connection", clean=True, received=size - missing)
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of ``data``; returns when the socket's buffer has room again.

        :raises TlsConnectionError: the connection broke.
        """
        view = memoryview(data)
        while view:
            view = view[await self._send(view[:_CHUNK]) :]
            await self._flush()

    async def _send(self, data: memoryview) -> int:
        """Have OpenSSL encrypt ``data``, or its beginning; how much of it."""
        while True:
            try:
                return self._connection.send(data)
            except SSL.WantReadError:
                await self._flush()
                if not await self._fill():
                    raise EndOfStreamError("the connection was cut", clean=False) from None
            except SSL.Error as error:
                raise self._wrapped("the TLS connection broke", error) from error

    async def finish(self, *parts: bytes | bytearray | memoryview) -> None:
        """Send all parts and say goodbye (close_notify), in as few packets as that takes.

        What is encrypted waits in memory until all is. :raises TlsConnectionError: the connection broke.
        """
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[await self._send(view[:_CHUNK]) :]
        with contextlib.suppress(SSL.Error):
            self._connection.shutdown()
        self._said_goodbye = True
        await self._flush()

    async def close(self) -> None:
        """Say goodbye (close_notify), whichever side is first, and close. Never raises for what the peer does.

        If the peer has not ended its side yet, what it still sends is read and dropped for a short time: closing a
        socket with unread bytes would reset the connection, and the peer might lose what was sent to it last.
        """
        if self._closed:
            return
        self._closed = True
        try:
            if not self._broken:
                async with asyncio.timeout(_LINGER_SECONDS):
                    if not self._said_goodbye:
                        await self.finish()
                    self._tcp.end()
                    await self._drop_rest()
        except (TimeoutError, TlsConnectionError, OSError):
            pass
        finally:
            await self._close_socket()

    def abort(self) -> None:
        """Cut the connection at once."""
        self._closed = True
        self._tcp.abort()

    async def _drop_rest(self) -> None:
        budget = _LINGER_BYTES
        while budget > 0:
            data = await self._tcp.read()
            if not data:
                return
            budget -= len(data)

    async def _close_socket(self) -> None:
        if self._tcp.close():
            return
        try:
            async with asyncio.timeout(_LINGER_SECONDS):
                await self._tcp.closed()
        except TimeoutError:
            self._tcp.abort()

    async def _flush(self) -> None:
        """Hand what OpenSSL wants to send to the socket."""
        size = _BUFFER
        try:
            while size == _BUFFER:
                data = self._connection.bio_read(_BUFFER)
                size = len(data)
                await self._tcp.write(data)
        except SSL.WantReadError:
            return
        except SSL.Error as error:
            raise self._wrapped("the TLS connection broke", error) from error
        except OSError as error:
            self._broken = True
            raise TlsConnectionError("the peer reset the connection") from error

    async def _fill(self) -> bool:
        """Hand what the socket has to OpenSSL; false at the end."""
        try:
            data = await self._tcp.read()
        except OSError as error:
            self._broken = True
            raise TlsConnectionError("the peer reset the connection") from error
        if not data:
            self._broken = not self._peer_ended
            return False
        view = memoryview(data)
        while view:
            view = view[self._connection.bio_write(view) :]
        return True

    async def _last_words(self) -> None:
        """Send the alert that tells the peer what is wrong, if it still listens."""
        with contextlib.suppress(TlsConnectionError):
            await self._flush()

    def _wrapped(self, what: str, error: SSL.Error) -> TlsConnectionError:
        self._broken = True
        if isinstance(error, SSL.SysCallError):
            return EndOfStreamError(f"{what}: the connection was cut", clean=False)
        return TlsConnectionError(f"{what}: {explain(error)}")


def explain(error: SSL.Error) -> str:
    """The plain words of an OpenSSL error."""
    entries = error.args[0] if error.args else None
    if isinstance(entries, list) and entries:
        return "; ".join(str(entry[-1]) for entry in entries if entry[-1]) or "unknown reason"
    return str(error) or type(error).__name__


async def connect(
    host: str,
    port: int,
    *,
    context: ClientContext,
    server_name: str | None = None,
    timeout: float = 10.0,  # noqa: ASYNC109 - one number covers connecting, the handshake and the judgement
) -> TlsStream:
    """Connect, shake hands, and judge the server.

    :param server_name: the name that the server must have (default: ``host``); sent as SNI unless it is an IP address.
    :param timeout: seconds for all of it.
    :raises ServerNotTrustedError: the server's certificate is not good.
    :raises TlsConnectionError: no connection or no TLS session in time.
    """
    name = server_name or host
    try:
        async with asyncio.timeout(timeout):
            try:
                loop = asyncio.get_running_loop()
                _, tcp = await loop.create_connection(TcpConnection, host, port)
            except OSError as error:
                # asyncio puts words of its own in the place of the system's.
                why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
                raise TlsConnectionError(f"cannot connect to {host}:{port}: {why}") from error
            stream = TlsStream(tcp, _client_connection(context.settings, name))
            try:
                await stream.handshake()
                context.trust.judge(stream.peer_chain, name)
            except BaseException:
                stream.abort()
                raise
            return stream
    except TimeoutError:
        raise TlsConnectionError(f"{host}:{port} did not answer within {timeout:g} seconds") from None


def _client_connection(settings: SSL.Context, name: str) -> SSL.Connection:
    connection = SSL.Connection(settings, None)
    connection.set_connect_state()
    if not name.replace(".", "").isdigit() and ":" not in name:
        connection.set_tlsext_host_name(name.encode("ascii"))
    return connection
