"""Unary gRPC calls, one at a time, on one TLS connection (gRPC over HTTP/2: github.com/grpc/grpc, PROTOCOL-HTTP2.md).

``grpcio`` chooses and replaces its connections behind the caller's back and offers no word in judging a certificate.
Here the caller holds the connection: what was attested on it is what answers on it. The ``h2`` library does the
HTTP/2.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from h2.errors import ErrorCodes

from sealserve import __version__
from sealserve.client.deadline import Deadline
from sealserve.client.errors import ConnectionLostError, MalformedReplyError
from sealserve.client.frames import FrameGate
from sealserve.client.transport import TlsTransport

_UNAVAILABLE, _UNKNOWN, _UNIMPLEMENTED, _INTERNAL = 14, 2, 12, 13
# What an HTTP status means where a proxy answered instead of a gRPC server (grpc: http-grpc-status-mapping.md).
_HTTP_STATUS = {
    400: _INTERNAL,
    401: 16,
    403: 7,
    404: _UNIMPLEMENTED,
    **dict.fromkeys((429, 502, 503, 504), _UNAVAILABLE),
}
# The largest window and frame that HTTP/2 allows: replies are bounded by `max_reply` instead.
_WINDOW = (1 << 31) - 1
_MAX_FRAME = (1 << 24) - 1
_CHUNK = 1 << 17  # bytes sent before looking whether the server answered early; large ones cost page faults
_OVERHEAD = 1 << 20  # what a reply may cost in bytes beyond its messages: headers, frames, pings
_MAX_HEADERS = 64 * 1024
_SMALL = 64 * 1024
_IDLE_READS = 16
_PADDED = 512  # a gRPC prefix and HTTP/2 padding
_SMALLEST_MAX_FRAME = 1 << 14


@dataclass(frozen=True)
class Reply:
    """How a call ended.

    :param status: gRPC status code; 0 is success. :param text: the server's words for it.
    :param metadata: text headers and trailers. :param message: the serialized message; empty without success.
    """

    status: int
    text: str
    metadata: dict[str, str]
    message: bytes


@dataclass
class _Exchange:
    stream: int
    max_reply: int
    metadata: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: int | None = None

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None


class GrpcConnection:
    """A client connection that carries one call at a time, from one thread at a time.

    After an exception from :meth:`call` the connection is closed.
    """

    def __init__(self, transport: TlsTransport, *, authority: str) -> None:
        self.transport = transport
        self._authority = authority
        self._gate = FrameGate()
        self._exchange: _Exchange | None = None
        self._open = True
        configuration = h2.config.H2Configuration(
            client_side=True,
            header_encoding=None,
            # Our own headers are well-formed; what arrives is checked.
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self._http = h2.connection.H2Connection(configuration)
        codes = h2.settings.SettingCodes
        self._http.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                codes.ENABLE_PUSH: 0,
                codes.INITIAL_WINDOW_SIZE: _WINDOW,
                codes.MAX_FRAME_SIZE: _MAX_FRAME,
                codes.MAX_HEADER_LIST_SIZE: _MAX_HEADERS,
            },
        )
        # h2 took this from its default settings before ours were there.
        self._http.max_inbound_frame_size = _MAX_FRAME
        self._http.initiate_connection()
        self._http.increment_flow_control_window(_WINDOW - 65535)

    @property
    def reusable(self) -> bool:
        """Whether another call can be tried, by what was seen so far."""
        return self._open and self._gate.received is None and self.transport.usable_here

    def alive(self) -> bool:
        """As :attr:`reusable`, after a look at what arrived meanwhile; does not wait."""
        if not self.reusable:
            return False
        try:
            reads = 0
            while (data := self.transport.poll()) and reads < _IDLE_READS:
                self._feed(data)
                reads += 1
        except (ConnectionLostError, MalformedReplyError):
            self.close()
            return False
        # A server that keeps talking while nothing was asked is not waited for.
        return self._gate.received is None and reads < _IDLE_READS

    def call(self, path: str, request: bytes, *, deadline: Deadline, max_reply: int) -> Reply:
        """Call a unary method.

        :param path: ``/package.Service/Method``. :param request: the serialized message.
        :param deadline: also told to the server, which need not work for a caller who is gone.
        :param max_reply: bytes that the reply's message may have.
        :raises ConnectionLostError: the connection broke, or the server did not take the call.
        :raises MalformedReplyError: the server broke a protocol's rule, or its reply is larger than ``max_reply``.
        :raises DeadlinePassedError: no reply in time.
        """
        done = False
        try:
            with _rules():
                stream = self._http.get_next_available_stream_id()
                self._exchange = exchange = _Exchange(stream, max_reply)
                self._gate.longest = max(max_reply + _PADDED, _SMALLEST_MAX_FRAME)
                self._http.send_headers(stream, self._headers(path, deadline))
            self._send_message(exchange, request, deadline)
            budget = max_reply + _OVERHEAD
            while not exchange.over:
                budget -= self._receive(deadline)
                if budget < 0:
                    raise MalformedReplyError("the server sends far more than a reply needs")
            reply = _read_reply(exchange)
            self._flush(deadline)
            done = True
            return reply
        finally:
            self._exchange = None
            if not done:
                self.close()

    def close(self) -> None:
        """Close the connection; further calls fail."""
        if self._open:
            self._open = False
            last_words = b""
            if self.transport.usable_here:
                try:
                    self._http.close_connection()
                    last_words = self._http.data_to_send()
                except h2.exceptions.H2Error:
                    last_words = b""
            self.transport.close(last_words)

    def _headers(self, path: str, deadline: Deadline) -> list[tuple[str, str]]:
        milliseconds = min(max(int(deadline.remaining("sending") * 1000), 1), 99_999_999)
        return [
            (":method", "POST"),
            (":scheme", "https"),
            (":path", path),
            (":authority", self._authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("grpc-timeout", f"{milliseconds}m"),
            ("user-agent", f"sealserve/{__version__}"),
        ]

    def _send_message(self, exchange: _Exchange, request: bytes, deadline: Deadline) -> None:
        prefix = struct.pack(">BI", 0, len(request))
        # A large message is not copied just to stand behind its prefix; gRPC does not care how it is cut into frames.
        parts = [memoryview(prefix + request)] if len(request) < _SMALL else [memoryview(prefix), memoryview(request)]
        for part in parts:
            left = part
            while left and not exchange.over:
                with _rules():
                    room = min(
                        self._http.local_flow_control_window(exchange.stream), self._http.max_outbound_frame_size
                    )
                if room <= 0:
                    self._receive(deadline)
                    continue
                chunk = left[: min(room, _CHUNK)]
                left = left[len(chunk) :]
                end = part is parts[-1] and not left
                with _rules():
                    self._http.send_data(exchange.stream, chunk, end_stream=end)
                self._flush(deadline)
                if not end and (data := self.transport.poll()):
                    self._feed(data)

    def _receive(self, deadline: Deadline) -> int:
        """Wait for bytes and act on them; returns how many came."""
        self._flush(deadline)
        data = self.transport.receive(deadline)
        self._feed(data)
        return len(data)

    def _flush(self, deadline: Deadline) -> None:
        if data := self._http.data_to_send():
            self.transport.send(data, deadline)

    def _feed(self, data: bytes) -> None:
        passed = self._gate.feed(data)
        with _rules():
            for happened in self._http.receive_data(passed):
                self._take(happened)
        gone = self._gate.received
        if gone and self._exchange and not self._exchange.over and gone.last_stream < self._exchange.stream:
            raise ConnectionLostError("the server is going away and did not take the request", hint="Try again.")

    def _take(self, happened: h2.events.Event) -> None:
        exchange = self._exchange
        if exchange is None or getattr(happened, "stream_id", None) != exchange.stream:
            return
        match happened:
            case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                exchange.metadata.update(_text_headers(happened.headers or ()))
            case h2.events.DataReceived():
                if len(exchange.body) + len(happened.data) > exchange.max_reply + 5:
                    raise MalformedReplyError(
                        f"the reply is larger than {exchange.max_reply} bytes",
                        hint="If the model's outputs are meant to be that large, allow more (max_reply_bytes).",
                    )
                exchange.body += happened.data
                self._http.acknowledge_received_data(happened.flow_controlled_length, exchange.stream)
            case h2.events.StreamEnded():
                exchange.ended = True
            case h2.events.StreamReset():
                exchange.reset = int(happened.error_code)


@contextlib.contextmanager
def _rules() -> Iterator[None]:
    try:
        yield
    except h2.exceptions.H2Error as error:
        why = str(error) or type(error).__name__
        raise MalformedReplyError(f"the server breaks the rules of HTTP/2: {why}") from error


def _text_headers(headers: Iterable[tuple[bytes | str, bytes | str]]) -> dict[str, str]:
    return {_text(name): _text(value) for name, value in headers}


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode(errors="replace")


def _read_reply(exchange: _Exchange) -> Reply:
    """The outcome of a finished exchange; a gRPC status that the server gave is no exception."""
    metadata = exchange.metadata
    status = metadata.get("grpc-status")
    text = unquote_to_bytes(metadata.get("grpc-message", "")).decode(errors="replace")
    if exchange.reset not in {None, ErrorCodes.NO_ERROR} or not exchange.ended:
        code = ErrorCodes(exchange.reset).name if exchange.reset in set(ErrorCodes) else str(exchange.reset)
        if status is None:
            raise ConnectionLostError(f"the server broke the call off ({code})", hint="Try again.")
    if status is None:
        http_status = metadata.get(":status", "")
        if not http_status.isascii() or not http_status.isdigit() or http_status == "200":
            raise MalformedReplyError("the server's reply has no gRPC status")
        return Reply(_HTTP_STATUS.get(int(http_status), _UNKNOWN), f"HTTP status {http_status}", metadata, b"")
    if not (status.isascii() and status.isdigit() and len(status) <= 3):
        raise MalformedReplyError("the server's gRPC status is no number")
    if status != "0":
        return Reply(int(status), text, metadata, b"")
    body = exchange.body
    if len(body) < 5 or body[0] != 0 or int.from_bytes(body[1:5], "big") != len(body) - 5:
        raise MalformedReplyError("the server's reply is not exactly one uncompressed message")
    return Reply(0, text, metadata, bytes(memoryview(body)[5:]))
