"""A light client of gRPC and of HTTP/1.1 over TLS, so that what is measured is the server and not its caller.

grpcio's own client takes about as long for a call as its server. Here a call is written and read without threads, by
the project's own HTTP/2 (:mod:`sealserve.client.http2`).
"""

from __future__ import annotations

import selectors
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sealserve.client.headers import header_block
from sealserve.client.http2 import UnaryProtocol

_MOST_REPLY = 1 << 30


@dataclass(frozen=True)
class Target:
    """Where a server is, and how it is asked.

    :ivar certificate: PEM; None for a server without TLS.
    :ivar path: of the gRPC method, or of the URL.
    :ivar headers: of HTTP/1.1; None for gRPC.
    """

    port: int
    certificate: bytes | None
    path: str
    headers: dict[str, str] | None = None


class Call:
    """A connection that carries one call at a time. Raises :class:`RuntimeError` if an answer is none."""

    def __init__(self, target: Target, server_name: str) -> None:
        self._target = target
        self.socket: socket.socket = socket.create_connection(("127.0.0.1", target.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if target.certificate is not None:
            context = ssl.create_default_context(cadata=target.certificate.decode())
            context.set_alpn_protocols(["http/1.1" if target.headers is not None else "h2"])
            self.socket = context.wrap_socket(self.socket, server_hostname=server_name)
        self._protocol = _Http1(target) if target.headers is not None else _Grpc(target.path)

    def begin(self, message: bytes) -> None:
        """Send a request whole; the socket blocks."""
        self.socket.setblocking(True)
        self._protocol.begin(message)
        while data := self._protocol.outgoing():
            self.socket.sendall(data)
            if not self._protocol.blocked:
                break
            self._protocol.feed(self.socket.recv(1 << 18))

    def finish(self) -> bytes | None:
        """Read what is there; the answer, once it is whole."""
        try:
            data = self.socket.recv(1 << 18)
        except (ssl.SSLWantReadError, BlockingIOError):
            return None
        if not data:
            raise RuntimeError("the server closed the connection")
        self._protocol.feed(data)
        if out := self._protocol.outgoing():
            self.socket.sendall(out)
        return self._protocol.answer()

    def __call__(self, message: bytes) -> bytes:
        """A request and its answer."""
        self.begin(message)
        while (answer := self.finish()) is None:
            pass
        return answer

    def close(self) -> None:
        self.socket.close()


class _Grpc:
    def __init__(self, path: str) -> None:
        self._block = header_block(path, "localhost", 600)
        self._http = UnaryProtocol()

    def begin(self, message: bytes) -> None:
        self._http.begin(self._block, [message], max_reply=_MOST_REPLY)

    def outgoing(self) -> bytes:
        parts = []
        while data := self._http.outgoing():
            parts.append(data)
        return b"".join(parts)

    @property
    def blocked(self) -> bool:
        now = self._http._exchange
        return now is not None and now.unsent > 0

    def feed(self, data: bytes) -> None:
        self._http.feed(data)

    def answer(self) -> bytes | None:
        if not self._http.over:
            return None
        reply = self._http.finish()
        if reply.status:
            raise RuntimeError(f"the server answers {reply.status}: {reply.text}")
        return bytes(reply.message)


@dataclass
class _Http1:
    target: Target
    blocked: bool = False
    _in: bytearray = field(default_factory=bytearray)
    _out: bytes = b""

    def begin(self, message: bytes) -> None:
        headers = {"Host": "localhost", "Content-Length": str(len(message)), **(self.target.headers or {})}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._out = f"POST {self.target.path} HTTP/1.1\r\n{lines}\r\n".encode() + message

    def outgoing(self) -> bytes:
        out, self._out = self._out, b""
        return out

    def feed(self, data: bytes) -> None:
        self._in += data

    def answer(self) -> bytes | None:
        end = self._in.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(self._in[:end]).lower()
        if b"transfer-encoding: chunked" in head:
            return self._chunked(head, end + 4)
        size = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        if len(self._in) < end + 4 + size:
            return None
        return self._take(head, bytes(self._in[end + 4 : end + 4 + size]), end + 4 + size)

    def _chunked(self, head: bytes, at: int) -> bytes | None:
        body = b""
        while (line := self._in.find(b"\r\n", at)) >= 0:
            size = int(bytes(self._in[at:line]), 16)
            at = line + 2 + size + 2
            if len(self._in) < at:
                return None
            body += self._in[line + 2 : at - 2]
            if not size:
                return self._take(head, body, at)
        return None

    def _take(self, head: bytes, body: bytes, end: int) -> bytes:
        del self._in[:end]
        if b" 200" not in head.split(b"\r\n")[0]:
            raise RuntimeError(f"the server answers {head[:60]!r} {body[:300]!r}")
        return body


@dataclass(frozen=True)
class Load:
    """What came of a load: seconds of each call, and answers per second."""

    seconds: list[float]
    rate: float


def keep_busy(target: Target, server_name: str, message: bytes, connections: int, seconds: float) -> Load:
    """Ask on so many connections at once, each again as soon as it has its answer."""
    selector, calls, begun, taken = selectors.DefaultSelector(), [], {}, []
    for _ in range(connections):
        call = Call(target, server_name)
        call(message)
        calls.append(call)
        selector.register(call.socket, selectors.EVENT_READ, call)
    start = now = time.perf_counter()
    for call in calls:
        begun[call] = time.perf_counter()
        call.begin(message)
        call.socket.setblocking(False)
    while now - start < seconds:
        for key, _ in selector.select():
            call = key.data
            while True:
                answer = call.finish()
                if answer is not None or not _pending(call):
                    break
            if answer is None:
                continue
            now = time.perf_counter()
            taken.append(now - begun[call])
            begun[call] = now
            call.begin(message)
            call.socket.setblocking(False)
    for call in calls:
        call.close()
    return Load(taken, len(taken) / (now - start))


def _pending(call: Call) -> bool:
    return isinstance(call.socket, ssl.SSLSocket) and call.socket.pending() > 0


def one_by_one(call: Callable[[bytes], object], message: bytes, count: int) -> list[float]:
    """Seconds of each of ``count`` calls, one after the other."""
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        call(message)
        seconds.append(time.perf_counter() - start)
    return seconds


__all__: Sequence[str] = ("Call", "Load", "Target", "keep_busy", "one_by_one")
