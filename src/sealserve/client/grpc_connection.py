"""Unary gRPC calls, one at a time, on one TLS connection.

``grpcio`` chooses and replaces its connections behind the caller's back and offers no word in judging a certificate.
Here the caller holds the connection: what was attested on it is what answers on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sealserve.client.deadline import Deadline
from sealserve.client.errors import ConnectionLostError, MalformedReplyError
from sealserve.client.headers import Metadata, header_block
from sealserve.client.http2 import UnaryProtocol
from sealserve.client.reply import Reply
from sealserve.client.tls import Peer
from sealserve.client.transport import TlsTransport

_IDLE_READS = 16


class GrpcConnection:
    """A client connection that carries one call at a time, from one thread at a time.

    After an exception from :meth:`call` the connection is closed.
    """

    def __init__(self, transport: TlsTransport, *, authority: str) -> None:
        self._transport = transport
        self._authority = authority
        self._http = UnaryProtocol()
        self._open = True

    @property
    def peer(self) -> Peer:
        """Who is at the other end."""
        return self._transport.peer

    @property
    def reusable(self) -> bool:
        """Whether another call can be tried, by what was seen so far."""
        return self._open and self._http.reusable and self._transport.usable_here

    def alive(self) -> bool:
        """As :attr:`reusable`, after a look at what arrived meanwhile; does not wait."""
        if not self.reusable:
            return False
        try:
            reads = 0
            while (data := self._transport.poll()) and reads < _IDLE_READS:
                self._http.feed(data)
                reads += 1
        except (ConnectionLostError, MalformedReplyError):
            self.close()
            return False
        # A server that keeps talking while nothing was asked is not waited for.
        return self._http.reusable and reads < _IDLE_READS

    def call(
        self,
        method: str,
        message: Sequence[bytes | memoryview],
        *,
        deadline: Deadline,
        max_reply: int,
        metadata: Metadata = (),
        while_waiting: Callable[[], object] | None = None,
    ) -> Reply:
        """Call a unary method.

        :param method: ``/package.Service/Method``. :param message: the serialized message, in parts.
        :param deadline: also told to the server, which need not work for a caller who is gone.
        :param max_reply: bytes that the reply's message may have.
        :param while_waiting: called once, when everything is sent, before the reply is waited for.
        :raises ConnectionLostError: the connection broke, or the server did not take the call.
        :raises MalformedReplyError: the server broke a protocol's rule, or its reply is larger than ``max_reply``.
        :raises DeadlinePassedError: no reply in time.
        """
        block = header_block(method, self._authority, deadline.remaining("sending"), metadata)
        http, transport = self._http, self._transport
        done = False
        try:
            http.begin(block, message, max_reply=max_reply)
            while not http.over:
                if data := http.outgoing():
                    transport.send(data, deadline)
                if while_waiting is not None and not http.has_more_to_send:
                    while_waiting()
                    while_waiting = None
                # While there is more to send, only a look whether the server answered early.
                if data := transport.poll() if http.has_more_to_send else transport.receive(deadline):
                    http.feed(data)
            reply = http.finish()
            if data := http.outgoing():
                transport.send(data, deadline)
            done = True
            return reply
        finally:
            if not done:
                self.close()

    def close(self) -> None:
        """Close the connection; further calls fail."""
        if self._open:
            self._open = False
            self._transport.close()
