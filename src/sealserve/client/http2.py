"""Unary gRPC calls over HTTP/2 (RFC 9113), one at a time, without any I/O: bytes in, bytes out.

The synchronous and the asyncio connection both drive this. It is a client of a narrow kind: it opens one stream after
another, sends headers and one message, and reads one message and trailers. Everything else that a server may send is
either answered as the RFC asks, or refused. Header blocks are decoded by ``hpack``. ADR 60 tells why it is not ``h2``.

A server that stops gracefully says GOAWAY and still answers the requests that it has; so does this.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import hpack

from sealserve.client import frames
from sealserve.client.errors import MalformedReplyError, NotProcessedError
from sealserve.client.frames import FrameReader, frame, frame_header, without_padding
from sealserve.client.headers import NO_TABLE
from sealserve.client.reply import Headers, Reply, read_reply

CHUNK = 1 << 18
"""Most bytes of a message in one :meth:`UnaryProtocol.outgoing`, between which a caller looks for an early answer."""

MAX_REPLY = (1 << 31) - (1 << 22)
"""The largest ``max_reply``: with what comes around it, a reply fits into the window of its stream."""

_LARGEST_WINDOW = (1 << 31) - 1  # replies are bounded by `max_reply`, not by the window
_FIRST_WINDOW = 65535
_SMALLEST_MAX_FRAME, _LARGEST_MAX_FRAME = 1 << 14, (1 << 24) - 1
_MAX_FRAME = 1 << 16  # that we take
_MAX_HEADERS = 64 * 1024
_REFILL = 1 << 24  # the window is opened again after so many bytes
_OVERHEAD = 1 << 20  # what a reply may cost in bytes beyond its message; and what may come while nothing was asked
_CANCEL = 8
# gRPC's own: metadata under "-bin" may come as it is. In base64 and Huffman's code a receipt takes 0.1 ms to decode.
_TRUE_BINARY_METADATA = 0xFE03
_ENABLE_PUSH, _INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE, _MAX_HEADER_LIST_SIZE = 2, 4, 5, 6


@dataclass
class _Exchange:
    stream: int
    max_reply: int
    parts: deque[memoryview]  # of the request that were not sent yet
    unsent: int
    window: int
    budget: int
    headers: Headers | None = None
    trailers: Headers = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: int | None = None

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None


class UnaryProtocol:
    """One connection's state. After a :class:`MalformedReplyError` it must not be used again."""

    def __init__(self) -> None:
        settings = struct.pack(">HIHI", _ENABLE_PUSH, 0, _INITIAL_WINDOW_SIZE, _LARGEST_WINDOW)
        settings += struct.pack(">HIHI", _MAX_FRAME_SIZE, _MAX_FRAME, _MAX_HEADER_LIST_SIZE, _MAX_HEADERS)
        settings += struct.pack(">HI", _TRUE_BINARY_METADATA, 1)
        self._out = [frames.PREFACE, frame(frames.SETTINGS, settings), _window_update(0, _LARGEST_WINDOW - 65535)]
        self._reader = FrameReader(_MAX_FRAME)
        self._decoder = hpack.Decoder(max_header_list_size=_MAX_HEADERS)
        self._exchange: _Exchange | None = None
        self._next_stream = 1
        self._window = self._initial_window = _FIRST_WINDOW
        self._max_frame = _SMALLEST_MAX_FRAME
        self._unacknowledged = 0
        self._idle_budget = _OVERHEAD
        self._block: tuple[int, bool, bytearray] | None = None  # stream, END_STREAM, fragments so far
        self.goaway: int | None = None
        """The highest stream that the server takes, once it said that it goes."""

    @property
    def reusable(self) -> bool:
        """Whether another call may begin."""
        return self.goaway is None and self._next_stream < _LARGEST_WINDOW

    @property
    def over(self) -> bool:
        """Whether the call has ended."""
        return self._exchange is not None and self._exchange.over

    @property
    def has_more_to_send(self) -> bool:
        """Whether :meth:`outgoing` has bytes now."""
        if self._out:
            return True
        now = self._exchange
        return now is not None and not now.over and now.unsent > 0 and min(self._window, now.window) > 0

    def begin(self, block: bytes, message: Sequence[bytes | memoryview], *, max_reply: int) -> None:
        """Start a call.

        :param block: the headers, see :func:`~sealserve.client.headers.header_block`.
        :param message: the parts of the serialized message, which must not change until the call ends.
        """
        size = sum(len(part) for part in message)
        parts = deque(memoryview(part) for part in (struct.pack(">BI", 0, size), *message) if len(part))
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        if stream == 1:
            block = NO_TABLE + block
        self._exchange = _Exchange(stream, max_reply, parts, size + 5, self._initial_window, max_reply + _OVERHEAD)
        self._out.append(frame(frames.HEADERS, block, flags=frames.END_HEADERS, stream=stream))

    def outgoing(self) -> bytes:
        """What is to be sent now; empty if the server has to say something first."""
        pieces: list[bytes | memoryview] = list(self._out)
        self._out.clear()
        now = self._exchange
        if now is not None and not now.over:
            room = min(self._window, now.window, CHUNK, now.unsent)
            while room > 0:
                size = min(room, self._max_frame)
                room -= size
                self._window -= size
                now.window -= size
                now.unsent -= size
                flags = 0 if now.unsent else frames.END_STREAM
                pieces.append(frame_header(frames.DATA, flags, now.stream, size))
                while size:
                    part = now.parts.popleft()
                    if len(part) > size:
                        now.parts.appendleft(part[size:])
                        part = part[:size]
                    size -= len(part)
                    pieces.append(part)
        return b"".join(pieces)

    def feed(self, data: bytes) -> None:
        """Act on what arrived.

        :raises MalformedReplyError: the server breaks a rule, or sends more than a reply may have.
        :raises NotProcessedError: it is going away and did not take the call.
        """
        if self._exchange is not None:
            self._exchange.budget -= len(data)
            left = self._exchange.budget
        else:
            self._idle_budget -= len(data)
            left = self._idle_budget
        if left < 0:
            raise MalformedReplyError("the server sends far more than a reply needs")
        for kind, flags, stream, payload in self._reader.feed(data):
            if self._block is not None and kind != frames.CONTINUATION:
                raise _broken("a header block that does not end")
            self._take(kind, flags, stream, payload)
        now = self._exchange
        if now and not now.over and self.goaway is not None and self.goaway < now.stream:
            raise NotProcessedError("the server is going away and did not take the request", hint="Try again.")

    def finish(self) -> Reply:
        """The outcome of the call that is over.

        :raises MalformedReplyError: it is none. :raises ConnectionLostError: the server broke the call off.
        """
        now, self._exchange = self._exchange, None
        if now is None:
            raise RuntimeError("there is no call to finish")
        self._idle_budget = _OVERHEAD
        if now.unsent and now.reset is None:
            # Answered early: the rest of the request is not wanted, and its stream must not stay half open.
            self._out.append(_reset(now.stream))
        return read_reply(now.headers or [], now.trailers, now.body, ended=now.ended, reset=now.reset)

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:  # noqa: PLR0912 - one for each type
        match kind:
            case frames.DATA:
                self._take_data(flags, stream, payload)
            case frames.HEADERS:
                content = without_padding(flags, payload)
                if flags & frames.WITH_PRIORITY:
                    content = content[5:]
                self._own_stream(stream)
                self._block = (stream, bool(flags & frames.END_STREAM), bytearray())
                self._take_block(flags, stream, content)
            case frames.CONTINUATION:
                self._take_block(flags, stream, payload)
            case frames.RST_STREAM:
                self._own_stream(stream)
                if len(payload) != 4:
                    raise _broken("the size of RST_STREAM")
                if self._exchange and self._exchange.stream == stream and not self._exchange.over:
                    self._exchange.reset = int.from_bytes(payload, "big")
            case frames.SETTINGS:
                self._take_settings(flags, stream, payload)
            case frames.PING:
                if stream or len(payload) != 8:
                    raise _broken("PING")
                if not flags & frames.ACK:
                    self._out.append(frame(frames.PING, payload, flags=frames.ACK))
            case frames.GOAWAY:
                if stream or len(payload) < 8:
                    raise _broken("GOAWAY")
                self.goaway = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF
            case frames.WINDOW_UPDATE:
                self._take_window_update(stream, payload)
            case frames.PUSH_PROMISE:
                raise _broken("a push that was not allowed")
            case _:
                pass  # PRIORITY, and extensions, which section 5.5 tells to ignore

    def _own_stream(self, stream: int) -> None:
        if not stream % 2 or stream >= self._next_stream:
            raise _broken(f"stream {stream} was never opened")

    def _take_data(self, flags: int, stream: int, payload: bytes) -> None:
        self._own_stream(stream)
        self._unacknowledged += len(payload)
        now = self._exchange
        if now and now.stream == stream and not now.over:
            if now.headers is None or now.trailers:
                raise _broken("data outside of headers and trailers")
            content = without_padding(flags, payload)
            if len(now.body) + len(content) > now.max_reply + 5:
                raise MalformedReplyError(
                    f"the reply is larger than {now.max_reply} bytes",
                    hint="If the model's outputs are meant to be that large, allow more (max_reply_bytes).",
                )
            now.body += content
            now.ended = bool(flags & frames.END_STREAM)
        if self._unacknowledged >= _REFILL:
            # The connection's window only: that of a stream is larger than any reply (see MAX_REPLY).
            self._out.append(_window_update(0, self._unacknowledged))
            self._unacknowledged = 0

    def _take_block(self, flags: int, stream: int, fragment: bytes) -> None:
        if self._block is None or self._block[0] != stream:
            raise _broken("CONTINUATION")
        _, end_stream, block = self._block
        block += fragment
        if len(block) > _MAX_HEADERS:
            raise MalformedReplyError("the server's headers are too large")
        if not flags & frames.END_HEADERS:
            return
        self._block = None
        try:
            headers: Headers = [(bytes(n), bytes(v)) for n, v in self._decoder.decode(bytes(block), raw=True)]
        except hpack.HPACKError as error:
            raise _broken("headers that cannot be decoded") from error
        now = self._exchange
        if now is None or now.stream != stream or now.over:
            return  # decoded nevertheless: the table is the connection's
        if now.headers is None:
            now.headers = headers
        elif now.trailers:
            raise _broken("headers after the trailers")
        elif end_stream:
            now.trailers = headers
        elif not (status := dict(now.headers).get(b":status", b"")).startswith(b"1") or status == b"101":
            raise _broken("trailers that do not end the stream")
        else:
            now.headers = headers  # the ones before were informational
        now.ended = end_stream

    def _take_settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream or len(payload) % 6 or (flags & frames.ACK and payload):
            raise _broken("SETTINGS")
        if flags & frames.ACK:
            return
        for name, value in struct.iter_unpack(">HI", payload):
            if name == _INITIAL_WINDOW_SIZE:
                if value > _LARGEST_WINDOW:
                    raise _broken("a window that is too large")
                if self._exchange:
                    self._exchange.window += value - self._initial_window
                self._initial_window = value
            elif name == _MAX_FRAME_SIZE:
                if not _SMALLEST_MAX_FRAME <= value <= _LARGEST_MAX_FRAME:
                    raise _broken("a frame size that is not allowed")
                self._max_frame = value
        self._out.append(frame(frames.SETTINGS, b"", flags=frames.ACK))

    def _take_window_update(self, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise _broken("WINDOW_UPDATE")
        increment = int.from_bytes(payload, "big") & 0x7FFFFFFF
        if not stream:
            self._window += increment
        else:
            self._own_stream(stream)
            if self._exchange and self._exchange.stream == stream:
                self._exchange.window += increment
        if not increment or max(self._window, self._exchange.window if self._exchange else 0) > _LARGEST_WINDOW:
            raise _broken("a window of an impossible size")


def _window_update(stream: int, increment: int) -> bytes:
    return frame(frames.WINDOW_UPDATE, struct.pack(">I", increment), stream=stream)


def _reset(stream: int) -> bytes:
    return frame(frames.RST_STREAM, struct.pack(">I", _CANCEL), stream=stream)


def _broken(what: str) -> MalformedReplyError:
    return MalformedReplyError(f"the server breaks the rules of HTTP/2: {what}")
