from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest
from authorities import Authority
from OpenSSL import SSL

from sealserve.addresses import Address
from sealserve.errors import ConfigurationError
from sealserve.ratls import TlsIdentity, extract_evidence
from sealserve.ratls.binding import EXPORTER_LABEL
from sealserve.ratls.contexts import (
    PinnedCertificate,
    ServerNotTrustedError,
    SignedByAuthority,
    client_context,
    server_context,
)
from sealserve.ratls.crowd import ConnectionLimits
from sealserve.ratls.listener import AddressInUseError, Handler, TlsServer, serve
from sealserve.ratls.stream import EndOfStreamError, TlsConnectionError, TlsStream, connect

LOOPBACK = Address("127.0.0.1", 0)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def in_loop(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await body()

    asyncio.run(limited())


@contextlib.asynccontextmanager
async def listening(
    authority: Authority,
    handler: Handler,
    *,
    names: tuple[str, ...] = ("localhost", "127.0.0.1"),
    handshake_timeout: float = 10,
    max_connections: int = 100,
    expired: bool = False,
    **context: Any,
) -> AsyncIterator[TlsServer]:
    issued = authority.issue(*names, expired=expired)
    settings = server_context([issued.certificate], issued.key, request_client_certificate=True, **context)
    limits = ConnectionLimits(max_connections, max_connections, handshake_timeout)
    server = await serve(LOOPBACK, settings, handler, limits=limits)
    try:
        yield server
    finally:
        await server.close(grace=0)


async def echo(stream: TlsStream) -> None:
    while data := await stream.read():
        await stream.write(data)


def connecting(server: TlsServer, authority: Authority, **options: Any) -> Awaitable[TlsStream]:
    name = options.pop("server_name", "localhost")
    timeout = options.pop("timeout", 10)
    context = client_context(SignedByAuthority(authority.pem), **options)
    return connect("127.0.0.1", server.address.port, context=context, server_name=name, timeout=timeout)


async def eventually(attempt: Callable[[], Awaitable[TlsStream]]) -> TlsStream:
    """The first success: the other side may need a moment to notice that a connection ended."""
    while True:
        with contextlib.suppress(TlsConnectionError):
            return await attempt()
        await asyncio.sleep(0.01)


# --- what both sides see --------------------------------------------------------------------------------------------


def test_both_sides_see_one_session_and_each_other(authority: Authority, identity: TlsIdentity) -> None:
    seen: list[tuple[Any, ...]] = []

    async def handler(stream: TlsStream) -> None:
        seen.append(
            (
                stream.peer_certificate,
                stream.alpn,
                stream.tls_version,
                stream.export_keying_material(EXPORTER_LABEL, 32),
            )
        )
        assert await stream.read_exactly(1) == b"!"
        await stream.write(b"?")

    async def body() -> None:
        async with listening(authority, handler, alpn=["one", "two"]) as server:
            stream = await connecting(server, authority, identity=identity, alpn=["other", "two"])
            await stream.write(b"!")
            assert await stream.read_exactly(1) == b"?"
            exporter = stream.export_keying_material(EXPORTER_LABEL, 32)
            assert seen == [(identity.certificate, "two", "TLSv1.3", exporter)]
            assert extract_evidence(seen[0][0]).source == "dice"
            await stream.close()
            other = await connecting(server, authority, identity=identity)
            assert other.export_keying_material(EXPORTER_LABEL, 32) != exporter
            await other.close()

    in_loop(body)


def test_a_client_without_certificate_and_protocol_is_seen_as_such(authority: Authority) -> None:
    seen: list[tuple[Any, ...]] = []

    async def handler(stream: TlsStream) -> None:
        seen.append((stream.peer_certificate, stream.alpn))
        await stream.write(b"?")

    async def body() -> None:
        async with listening(authority, handler, alpn=["one"]) as server:
            for protocols in ([], ["other"]):
                stream = await connecting(server, authority, alpn=protocols)
                assert await stream.read_exactly(1) == b"?"
                await stream.close()
        assert seen == [(None, None), (None, None)]

    in_loop(body)


def test_a_megabyte_goes_both_ways_in_whatever_pieces(authority: Authority) -> None:
    data = bytes(range(256)) * 4096

    async def body() -> None:
        async with listening(authority, echo) as server:
            stream = await connecting(server, authority)
            writing = asyncio.create_task(stream.write(data))
            assert await stream.read_exactly(len(data)) == data
            await writing
            await stream.close()

    in_loop(body)


def test_a_writer_waits_for_a_reader_that_does_not_read(authority: Authority) -> None:
    sent = 0

    async def flood(stream: TlsStream) -> None:
        nonlocal sent
        chunk = bytes(1 << 16)
        while sent < 256 << 20:
            await stream.write(chunk)
            sent += len(chunk)

    async def body() -> None:
        async with listening(authority, flood) as server:
            stream = await connecting(server, authority)
            before = -1
            while sent != before:  # until the sender makes no progress
                before = sent
                await asyncio.sleep(0.3)
            assert sent < 64 << 20
            await stream.read_exactly(1 << 20)  # and it goes on where it stopped
            stream.abort()

    in_loop(body)


# --- endings --------------------------------------------------------------------------------------------------------


def test_the_server_may_close_first(authority: Authority) -> None:
    async def handler(stream: TlsStream) -> None:
        await stream.write(b"last words")

    async def body() -> None:
        async with listening(authority, handler) as server:
            stream = await connecting(server, authority)
            await asyncio.sleep(0.05)
            assert await stream.read_exactly(10) == b"last words"
            assert await stream.read() == b""
            await stream.close()
            await stream.close()

    in_loop(body)


def test_the_client_may_close_first_and_with_unread_bytes_underway(authority: Authority) -> None:
    ended = asyncio.Event()

    async def handler(stream: TlsStream) -> None:
        assert await stream.read() == b"x"
        assert await stream.read() == b""
        ended.set()

    async def body() -> None:
        async with listening(authority, handler) as server:
            stream = await connecting(server, authority)
            await stream.write(b"x")
            await stream.close()
            await ended.wait()

    in_loop(body)


def test_bytes_sent_before_a_close_arrive_though_the_other_side_sent_something_unread(authority: Authority) -> None:
    async def handler(stream: TlsStream) -> None:
        await stream.write(b"answer")

    async def body() -> None:
        async with listening(authority, handler) as server:
            stream = await connecting(server, authority)
            await stream.write(bytes(50_000))
            assert await stream.read_exactly(6) == b"answer"
            await stream.close()

    in_loop(body)


def test_a_stream_that_ends_too_early_says_how_far_it_came(authority: Authority) -> None:
    async def handler(stream: TlsStream) -> None:
        await stream.write(b"half")

    async def body() -> None:
        async with listening(authority, handler) as server:
            stream = await connecting(server, authority)
            with pytest.raises(EndOfStreamError) as caught:
                await stream.read_exactly(8)
            assert caught.value.clean
            assert caught.value.received == 4
            await stream.close()

    in_loop(body)


def test_a_cut_connection_is_no_clean_end(authority: Authority) -> None:
    async def handler(stream: TlsStream) -> None:
        await stream.write(b"half")
        stream._tcp.close()  # FIN without close_notify

    async def body() -> None:
        async with listening(authority, handler) as server:
            stream = await connecting(server, authority)
            with pytest.raises(EndOfStreamError) as caught:
                await stream.read_exactly(8)
            assert not caught.value.clean
            await stream.close()

    in_loop(body)


# --- whom a client trusts -------------------------------------------------------------------------------------------


async def expect_untrusted(server: TlsServer, authority: Authority, **options: Any) -> None:
    with pytest.raises(ServerNotTrustedError) as caught:
        await connecting(server, authority, **options)
    assert caught.value.hint


def test_a_server_of_another_authority_or_name_or_time_is_not_trusted(authority: Authority) -> None:
    got: list[bytes] = []

    async def handler(stream: TlsStream) -> None:
        with contextlib.suppress(TlsConnectionError):
            got.append(await stream.read())

    async def body() -> None:
        async with listening(authority, handler) as server:
            await expect_untrusted(server, Authority())
            await expect_untrusted(server, authority, server_name="elsewhere.example")
            await expect_untrusted(server, authority, server_name="127.0.0.2")
            good = await connecting(server, authority, server_name="127.0.0.1")
            await good.close()
        async with listening(authority, handler, expired=True) as server:
            await expect_untrusted(server, authority)
        async with listening(authority, handler, names=()) as server:
            await expect_untrusted(server, authority)
        assert not any(got)

    in_loop(body)


def test_a_certificate_signed_by_another_server_is_not_trusted(authority: Authority) -> None:
    """The authority that an attacker trusts himself with: a server's own key that signs for another name."""
    server_of_mine = authority.issue("mine.example")
    forger = Authority.__new__(Authority)
    forger.key, forger.name = server_of_mine.key, server_of_mine.certificate.subject
    forged = forger.issue("localhost")
    with pytest.raises(ServerNotTrustedError):
        SignedByAuthority(authority.pem).judge([forged.certificate, server_of_mine.certificate], "localhost")


def test_a_pinned_certificate_is_the_only_one(authority: Authority) -> None:
    async def body() -> None:
        async with listening(authority, echo) as server:
            first = await connecting(server, authority)
            certificate = first.peer_certificate
            assert certificate is not None
            await first.close()
            pinned = client_context(PinnedCertificate(certificate))
            again = await connect("127.0.0.1", server.address.port, context=pinned, server_name="any.name")
            await again.close()
            other = client_context(PinnedCertificate(authority.certificate))
            with pytest.raises(ServerNotTrustedError):
                await connect("127.0.0.1", server.address.port, context=other)

    in_loop(body)


@pytest.mark.parametrize("pem", [b"", b"nothing", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_an_authority_that_is_no_certificate_is_a_clear_error(pem: bytes) -> None:
    with pytest.raises(ConfigurationError):
        SignedByAuthority(pem)


def test_a_certificate_and_a_foreign_key_do_not_make_a_context(authority: Authority) -> None:
    with pytest.raises(ConfigurationError):
        server_context([authority.issue("a").certificate], authority.issue("a").key)
    with pytest.raises(ConfigurationError):
        server_context([], authority.issue("a").key)


# --- versions -------------------------------------------------------------------------------------------------------


def test_tls_1_3_is_required_where_it_is_asked_for(authority: Authority) -> None:
    async def body() -> None:
        old = client_context(SignedByAuthority(authority.pem), minimum_version="1.2")
        old.settings.set_max_proto_version(SSL.TLS1_2_VERSION)
        async with listening(authority, echo) as server:
            stream = await connect("127.0.0.1", server.address.port, context=old)
            assert stream.tls_version == "TLSv1.2"
            await stream.write(b"abc")
            assert await stream.read_exactly(3) == b"abc"
            await stream.close()
        async with listening(authority, echo, minimum_version="1.3") as server:
            with pytest.raises(TlsConnectionError):
                await connect("127.0.0.1", server.address.port, context=old)

    in_loop(body)


# --- bad peers ------------------------------------------------------------------------------------------------------


def test_silent_and_slow_clients_do_not_keep_others_waiting(authority: Authority) -> None:
    async def body() -> None:
        async with listening(authority, echo, handshake_timeout=20, max_connections=300) as server:
            host, port = server.address.host, server.address.port
            idle = [await asyncio.open_connection(host, port) for _ in range(200)]
            for _, writer in idle[:100]:
                writer.write(b"\x16\x03\x01")  # the start of a handshake, and no more
            stream = await connecting(server, authority)
            await stream.write(b"hello")
            assert await stream.read_exactly(5) == b"hello"
            await stream.close()
            for _, writer in idle:
                writer.close()

    in_loop(body)


def test_a_silent_client_is_cut_off(authority: Authority) -> None:
    async def body() -> None:
        async with listening(authority, echo, handshake_timeout=0.1) as server:
            reader, writer = await asyncio.open_connection(server.address.host, server.address.port)
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()

    in_loop(body)


def test_connections_beyond_the_limit_are_dropped_and_the_server_goes_on(authority: Authority) -> None:
    async def body() -> None:
        async with listening(authority, echo, max_connections=2) as server:
            two = [await connecting(server, authority) for _ in range(2)]
            with pytest.raises(TlsConnectionError):
                await connecting(server, authority)
            await two[0].close()
            third = await eventually(lambda: connecting(server, authority))
            await third.close()
            await two[1].close()

    in_loop(body)


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(1000), b"\x00" * 20_000]
)
def test_garbage_ends_its_own_connection_only(authority: Authority, garbage: bytes) -> None:
    async def body() -> None:
        async with listening(authority, echo) as server:
            reader, writer = await asyncio.open_connection(server.address.host, server.address.port)
            writer.write(garbage)
            writer.write_eof()
            with contextlib.suppress(ConnectionResetError):
                await reader.read()
            writer.close()
            stream = await connecting(server, authority)
            await stream.close()

    in_loop(body)


def test_a_server_that_is_none_gives_a_clear_error() -> None:
    async def body() -> None:
        context = client_context(SignedByAuthority(Authority().pem))
        with socket.create_server(("127.0.0.1", 0)) as silent:
            with pytest.raises(TlsConnectionError, match="did not answer"):
                await connect("127.0.0.1", silent.getsockname()[1], context=context, timeout=0.2)
            port = silent.getsockname()[1]
        with pytest.raises(TlsConnectionError, match="cannot connect"):
            await connect("127.0.0.1", port, context=context)
        async with await asyncio.start_server(lambda _, w: w.write(b"hello\r\n" * 10), "127.0.0.1", 0) as plain:
            with pytest.raises(TlsConnectionError, match="handshake failed"):
                await connect("127.0.0.1", plain.sockets[0].getsockname()[1], context=context)

    in_loop(body)


def test_a_port_in_use_is_a_clear_error(authority: Authority) -> None:
    async def body() -> None:
        issued = authority.issue("localhost")
        async with listening(authority, echo) as server:
            with pytest.raises(AddressInUseError, match=str(server.address.port)) as caught:
                await serve(server.address, server_context([issued.certificate], issued.key), echo)
            assert caught.value.hint

    in_loop(body)


def test_closing_the_server_lets_running_connections_finish(authority: Authority) -> None:
    async def body() -> None:
        async with listening(authority, echo) as server:
            stream = await connecting(server, authority)
            closing = asyncio.create_task(server.close(grace=10))
            await asyncio.sleep(0)
            await stream.write(b"still here")
            assert await stream.read_exactly(10) == b"still here"
            await stream.close()
            await closing
            with pytest.raises(TlsConnectionError):
                await connecting(server, authority)

    in_loop(body)
