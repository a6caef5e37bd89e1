"""Servers that break the rules, go, or say nothing: one error of our tree each, in bounded time and memory."""

from __future__ import annotations

import asyncio
import ssl
import struct
import time

import h2.config
import h2.connection
import numpy as np
import pytest
from client_parties import MARKER, SECRET_INPUT, Scripted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealserve.client import Client, EvidenceMissingError, InsecureClient, OwnerCertificates, attest
from sealserve.client.aio import InsecureAsyncClient
from sealserve.client.aio.connection import AsyncConnection, connect
from sealserve.client.connection import Connection
from sealserve.client.deadline import Deadline
from sealserve.client.endpoint import Endpoint
from sealserve.client.errors import (
    ConnectionLostError,
    DeadlinePassedError,
    MalformedReplyError,
    NotProcessedError,
    ServerFaultError,
)
from sealserve.client.headers import header_block
from sealserve.client.http2 import UnaryProtocol
from sealserve.client.protocols import GRPC, UnaryCall
from sealserve.client.reply import Reply
from sealserve.client.status import error_of
from sealserve.client.tls import why
from sealserve.errors import SealserveError, TrustError, UnavailableError
from sealserve.wire.not_begun import NOT_BEGUN, STOPPING

INPUTS = {"images": SECRET_INPUT}
SETTINGS = bytes.fromhex("000000040000000000")
PING = bytes.fromhex("000008060000000000") + bytes(8)


def frame(kind: int, payload: bytes, *, flags: int = 0, stream: int = 1) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


@pytest.mark.parametrize(
    "lines",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        bytes(4096),
        b"\xff" * 4096,
        SETTINGS + frame(0, b"data before headers", flags=1),
        SETTINGS + frame(1, b"\xff\xff\xff\xff", flags=5),
        SETTINGS + frame(9, b"continued", flags=4),
        SETTINGS + frame(5, b"\0\0\0\x02\x88", flags=4),
        SETTINGS + frame(7, b"short", stream=0),
        SETTINGS + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
        SETTINGS + frame(1, b"\x88", flags=5),  # :status 200 and nothing else
    ],
)
@pytest.mark.usefixtures("both_clients")
def test_what_is_no_grpc_is_refused(lines, identities, policy):
    with Scripted(identities[0], lines) as server:
        with pytest.raises(EvidenceMissingError):
            attest(server.target, policy)
        with Client(server.target, policy) as client, pytest.raises(EvidenceMissingError):
            client.predict(INPUTS, model="classifier")
        assert server.plaintext
        assert MARKER not in server.plaintext


@pytest.mark.parametrize("lines", [b"", SETTINGS, SETTINGS + PING * 100])
@pytest.mark.usefixtures("both_clients")
def test_a_silent_server_ends_with_the_deadline(lines, identities, policy):
    with Scripted(identities[0], lines) as server:
        with Client(server.target, policy) as client, pytest.raises(DeadlinePassedError):
            client.predict(INPUTS, model="classifier", timeout=0.4)
        assert MARKER not in server.plaintext


@pytest.mark.usefixtures("both_clients")
def test_a_server_that_never_shakes_hands_ends_with_the_deadline(policy):
    with Scripted(None) as server, pytest.raises(DeadlinePassedError):
        attest(server.target, policy, timeout=0.3)


@pytest.mark.usefixtures("both_clients")
def test_a_server_that_hangs_up_is_unavailable(identities, policy):
    with Scripted(identities[0], SETTINGS, hang_up=True) as server, pytest.raises(ConnectionLostError):
        attest(server.target, policy)


@pytest.mark.usefixtures("both_clients")
def test_a_server_that_hangs_up_during_the_handshake_is_unavailable(policy):
    with Scripted(None, hang_up=True) as server, pytest.raises(UnavailableError):
        attest(server.target, policy)


@pytest.mark.usefixtures("both_clients")
def test_a_server_that_speaks_no_http2_is_refused(identities, policy):
    with Scripted(identities[0], alpn=None) as server, pytest.raises(EvidenceMissingError, match="HTTP/2"):
        attest(server.target, policy)


@pytest.mark.usefixtures("both_clients")
def test_a_server_without_end_is_cut_off(identities, policy):
    with Scripted(identities[0], SETTINGS + PING * (4 << 16)) as server, pytest.raises(TrustError, match="far more"):
        attest(server.target, policy)


# --- the protocol alone, without sockets --------------------------------------------------------------------------


class Wire:
    """A transport whose other end is a list of what arrives."""

    usable_here = True

    def __init__(self, *arriving: bytes) -> None:
        self._arriving = list(arriving)
        self.sent = bytearray()
        self.closed = False

    def send(self, data, deadline):
        self.sent += data

    def receive(self, deadline):
        if not self._arriving:
            raise ConnectionLostError("over")
        return self._arriving.pop(0)

    def poll(self):
        return b""

    def close(self, last_words=b""):
        self.closed = True


def answer(
    message: bytes = b"answer",
    *,
    headers=(("content-type", "application/grpc"),),
    trailers=(("grpc-status", "0"),),
    prefix: bytes | None = None,
    http_status: str = "200",
) -> bytes:
    """What a server sends for the first request."""
    server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    server.initiate_connection()
    client.initiate_connection()
    client.send_headers(1, [(":method", "POST"), (":scheme", "https"), (":path", "/"), (":authority", "x")])
    server.receive_data(client.data_to_send())
    server.send_headers(1, [(":status", http_status), *headers])
    body = (struct.pack(">BI", 0, len(message)) if prefix is None else prefix) + message
    if body:
        server.send_data(1, body)
    server.send_headers(1, list(trailers), end_stream=True)
    return server.data_to_send()


def call(*arriving: bytes, max_reply: int = 1000) -> Reply:
    wire = Wire(*arriving)
    try:
        connection = Connection(wire, GRPC, authority="x")  # type: ignore[arg-type]
        return connection.run(UnaryCall("/a.B/C", [b"question"], max_reply), Deadline(5))
    except SealserveError:
        assert wire.closed
        raise


def test_a_reply_is_read_however_it_is_cut():
    whole = answer(headers=[("x", "1")], trailers=[("grpc-status", "0"), ("y", "2")])
    for size in (1, 2, 3, 7, 9, 10, 1000):
        reply = call(*[whole[i : i + size] for i in range(0, len(whole), size)])
        assert (reply.status, reply.message) == (0, b"answer")
        assert (reply.initial_metadata, reply.trailing_metadata) == ((("x", "1"),), (("y", "2"),))


def test_words_are_decoded_from_percent_encoding():
    reply = call(answer(b"", prefix=b"", trailers=[("grpc-status", "5"), ("grpc-message", "no %E2%98%83%zz%ff")]))
    assert reply.status == 5
    assert reply.text == "no \N{SNOWMAN}%zz\N{REPLACEMENT CHARACTER}"
    assert error_of(reply).exit_code == 3


@pytest.mark.parametrize(
    "bad",
    [
        {"prefix": b""},
        {"prefix": struct.pack(">BI", 1, 6)},
        {"prefix": struct.pack(">BI", 0, 5)},
        {"prefix": struct.pack(">BI", 0, 7)},
        {"prefix": struct.pack(">BI", 0, 0xFFFFFFFF)},
        {"message": b"", "prefix": b""},
        {"trailers": [("grpc-status", "")]},
        {"trailers": [("grpc-status", "-1")]},
        {"trailers": [("grpc-status", "\u0661".encode())]},
        {"trailers": [("grpc-status", "9999")]},
        {"message": b"", "prefix": b"", "trailers": [("grpc-status", "00")]},
        {"trailers": [("other", "0")]},
        {"message": bytes(2000)},
    ],
)
def test_a_reply_that_is_not_one_whole_message_is_refused(bad):
    with pytest.raises(MalformedReplyError):
        call(answer(**bad))


@pytest.mark.parametrize(("http_status", "grpc_status"), [("503", 14), ("404", 12), ("418", 2)])
def test_a_proxy_that_answers_in_http_is_understood(http_status, grpc_status):
    assert call(answer(b"", prefix=b"", http_status=http_status, trailers=[("x", "y")])).status == grpc_status


def test_a_broken_off_stream_is_a_lost_connection():
    with pytest.raises(ConnectionLostError, match="REFUSED_STREAM"):
        call(SETTINGS + frame(3, (7).to_bytes(4, "big")))


def test_a_server_that_stops_breaks_calls_off_and_its_caller_knows_that_it_was_not_the_caller():
    with pytest.raises(ConnectionLostError, match="broke the call off") as caught:
        call(answer(b"", prefix=b"", trailers=[("grpc-status", "1"), ("grpc-message", "CANCELLED")]))
    assert not isinstance(caught.value, NotProcessedError), "nobody knows how far it came"


def test_a_server_that_stops_says_what_it_did_not_begin_with():
    with pytest.raises(NotProcessedError, match="stopping"):
        call(answer(b"", prefix=b"", trailers=[("grpc-status", "14"), (NOT_BEGUN, STOPPING)]))
    assert call(answer(b"", prefix=b"", trailers=[("grpc-status", "14")])).status == 14
    assert call(answer(b"", prefix=b"", trailers=[("grpc-status", "13"), (NOT_BEGUN, STOPPING)])).status == 13
    assert call(answer(trailers=[("grpc-status", "14"), (NOT_BEGUN, STOPPING)])).status == 14, "it had begun"
    assert call(answer(trailers=[("grpc-status", "0"), (NOT_BEGUN, STOPPING)])).message == b"answer", "it answered"


def test_an_answer_after_goaway_still_counts():
    goaway = frame(7, (1).to_bytes(4, "big") + bytes(4) + b"max_age", stream=0)
    assert call(SETTINGS + goaway + answer() + goaway).message == b"answer"


def test_a_request_that_goaway_leaves_out_is_a_lost_connection():
    with pytest.raises(ConnectionLostError, match="going away"):
        call(SETTINGS + frame(7, bytes(8), stream=0))


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_bytes_end_in_an_error_of_ours(data):
    with pytest.raises(SealserveError):
        call(SETTINGS + data)


@given(st.data())
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_damaged_reply_is_the_same_reply_or_an_error_of_ours(data):
    whole = bytearray(answer(headers=[("x", "1")]))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        reply = call(bytes(whole))
    except SealserveError:
        return
    assert len(reply.message) <= 1000


def test_windows_stay_right_over_many_replies():
    """Another implementation of HTTP/2 keeps the books: it refuses a window that grows beyond what is allowed."""
    server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    server.initiate_connection()
    client = UnaryProtocol()
    client.feed(server.data_to_send())
    for call_number in range(30):
        client.begin(header_block("/a.B/C", "x", 1.0), [b"question"], max_reply=1 << 21)
        server.receive_data(client.outgoing())
        stream = 2 * call_number + 1
        server.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
        left = struct.pack(">BI", 0, 1 << 20) + bytes(1 << 20)
        while left:
            size = min(server.local_flow_control_window(stream), server.max_outbound_frame_size, len(left))
            assert size > 0
            server.send_data(stream, left[:size])
            left = left[size:]
            client.feed(server.data_to_send())
            server.receive_data(client.outgoing())
        server.send_headers(stream, [("grpc-status", "0")], end_stream=True)
        client.feed(server.data_to_send())
        assert len(client.finish().message) == 1 << 20
        server.receive_data(client.outgoing())


def test_the_number_of_a_tls_error_is_not_told_as_the_operating_systems():
    broken = ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "EOF occurred in violation of protocol")
    broken.reason = None  # type: ignore[assignment]
    assert why(broken) == "EOF occurred in violation of protocol"
    assert why(BrokenPipeError(32, "x")) == "Broken pipe"


class Early(Scripted):
    """Answers as soon as it hears of a request, and goes, while the request is being sent."""

    async def handle(self, reader, writer):
        self.plaintext += await reader.read(65536)
        writer.write(self._lines)
        await writer.drain()
        writer.transport.abort()


async def predict(target, certificates, name, inputs):
    async with InsecureAsyncClient(target, certificates, server_name=name) as client:
        await client.predict(inputs, model="classifier", timeout=10)


@pytest.mark.parametrize("size", [100, 1 << 24])
def test_a_server_that_answers_before_the_request_is_sent_gets_it_once(size, owner):
    inputs = {"images": np.zeros((1, size), np.uint8)}
    lines = answer(b"", prefix=b"", trailers=[("grpc-status", "13"), ("grpc-message", "early")])
    # With a window for all of it, the request is still on its way when the server goes.
    lines += frame(8, (1 << 30).to_bytes(4, "big"), stream=0) + frame(4, struct.pack(">HI", 4, 1 << 30), stream=0)
    roots = OwnerCertificates(roots=owner.path("ca.pem"))
    with Early(owner.identity(), lines) as server:
        with (
            InsecureClient(server.target, roots, server_name=owner.name) as client,
            pytest.raises(ServerFaultError, match="early"),
        ):
            client.predict(inputs, model="classifier", timeout=10)
        assert server.accepted == 1
        with pytest.raises(ServerFaultError, match="early"):
            asyncio.run(predict(server.target, roots, owner.name, inputs))
        assert server.accepted == 2


def test_an_answer_stands_if_the_server_is_gone_when_it_is_thanked_for_it():
    class Gone(Wire):
        def send(self, data, deadline):
            if self.sent:
                raise ConnectionLostError("gone")
            super().send(data, deadline)

    wire = Gone(answer())
    connection = Connection(wire, GRPC, authority="x")  # type: ignore[arg-type]
    reply = connection.run(UnaryCall("/a.B/C", [b"question"], 1000), Deadline(5))
    assert bytes(reply.message) == b"answer"
    assert wire.closed
    assert not connection.reusable


def test_an_answer_that_came_before_the_request_was_sent_is_read_before_the_connection_is_given_up():
    class Gone(Wire):
        def send(self, data, deadline):
            raise ConnectionLostError("gone")

        def poll(self):
            return self.receive(None)

    whole = answer()
    wire = Gone(whole[:20], whole[20:])
    connection = Connection(wire, GRPC, authority="x")  # type: ignore[arg-type]
    reply = connection.run(UnaryCall("/a.B/C", [b"question"], 1000), Deadline(5))
    assert bytes(reply.message) == b"answer"
    assert wire.closed
    with pytest.raises(ConnectionLostError):
        Connection(Gone(whole[:-1]), GRPC, authority="x").run(UnaryCall("/a.B/C", [b"q"], 1000), Deadline(5))  # type: ignore[arg-type]


def test_under_asyncio_an_answer_is_read_although_a_write_fails_before_it_could_be(owner):
    async def ask(target):
        roots = OwnerCertificates(roots=owner.path("ca.pem"))
        connection = await connect(Endpoint.by_certificate(target, owner.name, roots), Deadline(10))
        call = asyncio.create_task(connection.run(UnaryCall("/a.B/C", [bytes(1 << 20)], 1000), Deadline(10)))
        await asyncio.sleep(0)  # it has sent as much as the server's window takes
        for _ in range(5):
            # The loop stands still meanwhile: the answer comes, the server goes, and nobody has read a byte.
            time.sleep(0.1)  # noqa: ASYNC251
            connection.write(PING)
        reply = await call
        assert not connection.reusable
        return reply

    with Early(owner.identity(), answer()) as server:
        assert bytes(asyncio.run(ask(server.target)).message) == b"answer"


def test_under_asyncio_a_handshake_that_fails_at_once_is_told_as_one(owner):
    async def begin(target):
        endpoint = Endpoint.by_certificate(target, owner.name, OwnerCertificates(roots=owner.path("ca.pem")))
        connection = AsyncConnection(endpoint)
        connection.data_received(b"HTTP/1.1 400 Bad Request\r\n\r\n")  # before anybody waits for the handshake
        with pytest.raises(ssl.SSLError):
            await connection.shake_hands()

    asyncio.run(begin("127.0.0.1:1"))
