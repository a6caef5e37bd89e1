"""Looks at the frames of an inbound HTTP/2 byte stream before the ``h2`` library does (RFC 9113, section 4.1).

A server that stops gracefully says GOAWAY and still answers the requests that it has. The ``h2`` library treats a
connection as over once it sees GOAWAY (section 6.8) and refuses those answers, so it is not shown the frame; we keep
its content. And what does not begin like HTTP/2, or announces a frame that no permitted reply needs, is refused at
once instead of being waited for.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from sealserve.client.errors import MalformedReplyError

_HEADER = 9
_SETTINGS, _GOAWAY = 0x4, 0x7
_MAX_GOAWAY = 16 * 1024


@dataclass(frozen=True)
class GoAway:
    """The highest stream that the server has taken, and why it goes (RFC 9113, section 7; 0 is graceful)."""

    last_stream: int
    error_code: int


class FrameGate:
    """Feed it what arrives; it passes everything on but GOAWAY frames, without waiting for frames to be whole."""

    def __init__(self) -> None:
        self.longest = 1 << 14
        """The largest payload of a frame to let through, in bytes."""
        self._begun = False
        self._header = bytearray()
        self._left = 0  # payload bytes of the current frame that are still to come
        self._payload: bytearray | None = None  # of a GOAWAY frame
        self.received: GoAway | None = None
        """The last GOAWAY."""

    def feed(self, data: bytes) -> bytes:
        """What of ``data`` is for the HTTP/2 library.

        :raises MalformedReplyError: it does not begin with SETTINGS, a frame is too large, or GOAWAY is malformed.
        """
        passed: list[memoryview | bytes] = []
        view = memoryview(data)
        while view or (self._payload is not None and not self._left):
            if self._payload is not None:
                self._payload += view[: self._left]
                view = self._advance(view)
                if not self._left:
                    self._finish()
            elif self._left:
                passed.append(view[: self._left])
                view = self._advance(view)
            else:
                missing = _HEADER - len(self._header)
                self._header += view[:missing]
                view = view[missing:]
                if len(self._header) == _HEADER:
                    self._start(passed)
        return b"".join(passed)

    def _advance(self, view: memoryview) -> memoryview:
        taken = min(self._left, len(view))
        self._left -= taken
        return view[taken:]

    def _start(self, passed: list[memoryview | bytes]) -> None:
        self._left = int.from_bytes(self._header[:3], "big")
        if not self._begun and (self._header[3] != _SETTINGS or self._header[5:] != bytes(4)):
            raise MalformedReplyError("what answers does not speak HTTP/2")
        self._begun = True
        if self._left > self.longest:
            raise MalformedReplyError(
                f"the server announces {self._left} bytes at once, which is more than the reply may have",
                hint="If the model's outputs are meant to be that large, allow more (max_reply_bytes).",
            )
        if self._header[3] == _GOAWAY:
            if not 8 <= self._left <= _MAX_GOAWAY or self._header[5:] != bytes(4):
                raise MalformedReplyError("the server sent a malformed GOAWAY frame")
            self._payload = bytearray()
        else:
            passed.append(bytes(self._header))
        self._header.clear()

    def _finish(self) -> None:
        last_stream, error_code = struct.unpack_from(">II", self._payload or b"")
        self.received = GoAway(last_stream & 0x7FFFFFFF, error_code)
        self._payload = None
