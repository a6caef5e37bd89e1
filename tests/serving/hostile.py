"""A caller that writes HTTP/2 frames by hand, over TLS, and keeps to no rule."""

from __future__ import annotations

import socket
import ssl
import struct

from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

PREDICT = b"/tensorflow.serving.PredictionService/Predict"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Stranger:
    """One connection."""

    def __init__(self, port: int, *, settings: dict[int, int] | None = None) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        self.socket = context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=10))
        self._encoder, self._decoder, self._input = Encoder(), Decoder(), b""
        self._last = -1
        self.socket.sendall(PREFACE + SettingsFrame(0, settings=settings or {}).serialize())

    def __enter__(self) -> Stranger:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *frames: Frame) -> bool:
        """Whether the server has not closed the connection."""
        try:
            self.socket.sendall(b"".join(frame.serialize() for frame in frames))
        except OSError:
            return False
        return True

    def header_block(self, path: bytes = PREDICT, *extra: tuple[bytes, bytes]) -> bytes:
        headers = [
            (b":method", b"POST"),
            (b":scheme", b"https"),
            (b":path", path),
            (b":authority", b"x"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            *extra,
        ]
        return self._encoder.encode(headers)

    def headers(self, path: bytes = PREDICT, *extra: tuple[bytes, bytes], flags: tuple[str, ...] = ()) -> HeadersFrame:
        """Headers of a request on a new stream."""
        self._last += 2
        frame = HeadersFrame(self._last, data=self.header_block(path, *extra))
        for flag in ("END_HEADERS", *flags):
            frame.flags.add(flag)
        return frame

    def message(
        self, stream: int, data: bytes, *, compressed: bool = False, declared: int | None = None
    ) -> list[Frame]:
        """A gRPC message in DATA frames, with the end of the stream."""
        body = struct.pack(">?I", compressed, len(data) if declared is None else declared) + data
        frames = [DataFrame(stream, data=body[at : at + 16384]) for at in range(0, len(body), 16384)]
        if declared is None:
            frames[-1].flags.add("END_STREAM")
        return frames

    def frames(self, seconds: float = 10):
        """What the server sends, until it closes the connection."""
        self.socket.settimeout(seconds)
        while True:
            while len(self._input) >= 9:
                frame, length = Frame.parse_frame_header(memoryview(self._input)[:9])
                if len(self._input) < 9 + length:
                    break
                frame.parse_body(memoryview(self._input)[9 : 9 + length])
                self._input = self._input[9 + length :]
                yield frame
            try:
                data = self.socket.recv(65536)
            except (TimeoutError, OSError):
                return
            if not data:
                return
            self._input += data

    def upload(self, stream: int, size: int) -> str:
        """Send that much of a message as fast as flow control lets it, wait, and tell how the request ended."""
        windows = {0: 65535, stream: 65535 - 5}
        initial = 65535
        windows[0] -= 5
        for frame in self.frames(30):
            if isinstance(frame, WindowUpdateFrame) and frame.stream_id in windows:
                windows[frame.stream_id] += frame.window_increment
            elif isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
                windows[stream] += frame.settings.get(4, initial) - initial
                initial = frame.settings.get(4, initial)
                acknowledged = SettingsFrame(0)
                acknowledged.flags.add("ACK")
                self.send(acknowledged)
            elif isinstance(frame, HeadersFrame):
                return dict(self._decoder.decode(frame.data, raw=True))[b"grpc-status"].decode()
            elif isinstance(frame, RstStreamFrame | GoAwayFrame):
                return f"ended {frame.error_code}"
            while size and min(windows.values()) > 0:
                part = min(size, 16384, *windows.values())
                self.send(DataFrame(stream, data=bytes(part)))
                size -= part
                windows = {key: window - part for key, window in windows.items()}
        return "closed"

    def status(self, stream: int, seconds: float = 10) -> str:
        """How a request ended: its gRPC status, ``reset N``, ``goaway N`` or ``closed``."""
        for frame in self.frames(seconds):
            if isinstance(frame, HeadersFrame):
                headers = dict(self._decoder.decode(frame.data, raw=True))
                if frame.stream_id == stream and b"grpc-status" in headers:
                    return headers[b"grpc-status"].decode()
            elif isinstance(frame, RstStreamFrame) and frame.stream_id == stream:
                return f"reset {frame.error_code}"
            elif isinstance(frame, GoAwayFrame):
                return f"goaway {frame.error_code}"
        return "closed"


__all__ = [
    "PREDICT",
    "ContinuationFrame",
    "DataFrame",
    "Frame",
    "GoAwayFrame",
    "HeadersFrame",
    "PingFrame",
    "RstStreamFrame",
    "SettingsFrame",
    "Stranger",
    "WindowUpdateFrame",
]
