"""HTTP/2 frames as bytes (RFC 9113, section 4.1), and the few that a client of unary calls writes."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from sealserve.client.errors import MalformedReplyError

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
HEADER_SIZE = 9
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

Frame = tuple[int, int, int, bytes]
"""Type, flags, stream, payload."""


def frame_header(kind: int, flags: int, stream: int, length: int) -> bytes:
    """The nine bytes before a payload of ``length`` bytes."""
    return struct.pack(">IBI", length << 8 | kind, flags, stream)


def frame(kind: int, payload: bytes, *, flags: int = 0, stream: int = 0) -> bytes:
    """A whole frame."""
    return frame_header(kind, flags, stream, len(payload)) + payload


class FrameReader:
    """Cuts what arrives into frames.

    :param longest: the largest payload to take, in bytes. What announces more is refused before it is waited for.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._begun = False
        self._kept = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are whole with ``data``.

        :raises MalformedReplyError: it does not begin with SETTINGS (it is no HTTP/2), or a frame is too large.
        """
        if self._kept:
            data = self._kept + data
            self._kept = b""
        position, end = 0, len(data)
        while end - position >= HEADER_SIZE:
            word, flags, stream = struct.unpack_from(">IBI", data, position)
            length, kind = word >> 8, word & 0xFF
            if not self._begun and (kind != SETTINGS or stream or flags):
                raise MalformedReplyError("what answers does not speak HTTP/2")
            self._begun = True
            if length > self._longest:
                raise MalformedReplyError(f"the server announces a frame of {length} bytes, more than it may send")
            start = position + HEADER_SIZE
            if end - start < length:
                break
            position = start + length
            yield kind, flags, stream & 0x7FFFFFFF, data[start:position]
        self._kept = data[position:] if position else data


def without_padding(flags: int, payload: bytes) -> bytes:
    """The content of a DATA or HEADERS frame.

    :raises MalformedReplyError: there is more padding than payload.
    """
    if flags & PADDED:
        if not payload or payload[0] >= len(payload):
            raise MalformedReplyError("the server breaks the rules of HTTP/2: padding")
        payload = payload[1 : len(payload) - payload[0]]
    return payload
