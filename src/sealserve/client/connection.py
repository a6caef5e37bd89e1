"""Exchanges, one at a time, on one TLS connection: what was attested on it is what answers on it.

Libraries choose and replace their connections behind the caller's back. Here the caller holds the connection.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from sealserve.client.deadline import Deadline
from sealserve.client.errors import ConnectionLostError, DeadlinePassedError, MalformedReplyError, NotProcessedError
from sealserve.client.protocols import Exchange, Grpc, Rest, StateMachine
from sealserve.client.tls import Peer
from sealserve.client.transport import TlsTransport

_IDLE_READS = 16


def no_more_requests() -> NotProcessedError:
    """The error for a connection whose server said, with its last answer, that it takes no further request."""
    return NotProcessedError("the server ends this connection", hint="Try again.")


class Connection:
    """A client connection that carries one exchange at a time, from one thread at a time.

    After an exception from :meth:`run` the connection is closed.

    :param protocol: what is spoken on it.
    :param authority: what requests name as their server.
    :ivar judged: see :class:`sealserve.client.judgements.Session`.
    """

    judged: object | None = None

    def __init__(self, transport: TlsTransport, protocol: Grpc | Rest, *, authority: str) -> None:
        self.protocol = protocol
        self._transport = transport
        self._authority = authority
        self._http: StateMachine = protocol.start()
        self._open = True

    @property
    def peer(self) -> Peer:
        """Who is at the other end."""
        return self._transport.peer

    @property
    def heard(self) -> bool:
        """Whether the other end ever said something, beyond the handshake."""
        return self._transport.heard

    @property
    def reusable(self) -> bool:
        """Whether another exchange can be tried, by what was seen so far."""
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

    def run(self, exchange: Exchange, deadline: Deadline, *, while_waiting: Callable[[], object] | None = None) -> Any:
        """Send a request and wait for its answer.

        :param while_waiting: called once, when everything is sent, before the answer is waited for.
        :returns: what the protocol's ``finish`` gives: a ``Reply``, or a ``RestReply``.
        :raises ConnectionLostError: the connection broke, or the server did not take the request.
        :raises MalformedReplyError: the server broke a protocol's rule, or its answer is too large.
        :raises DeadlinePassedError: no answer in time.
        """
        http, transport = self._http, self._transport
        if not http.reusable:
            self.close()
            raise no_more_requests()
        exchange.begin(http, self._authority, deadline)
        done = False
        try:
            while not http.over:
                if (data := http.outgoing()) and not self._send(data, deadline):
                    break
                if while_waiting is not None and not http.has_more_to_send:
                    while_waiting()
                    while_waiting = None
                # While there is more to send, only a look whether the server answered early.
                if data := transport.poll() if http.has_more_to_send else transport.receive(deadline):
                    http.feed(data)
            reply = http.finish()
            done = self._open and self._acknowledge(deadline)
            return reply
        finally:
            if not done:
                self.close()

    def _send(self, data: bytes, deadline: Deadline) -> bool:
        """Send, unless the server answered and went while this was on its way: then its answer is what counts.

        :returns: whether it was sent.
        :raises ConnectionLostError: the connection broke before there was an answer.
        """
        try:
            self._transport.send(data, deadline)
        except ConnectionLostError:
            with contextlib.suppress(ConnectionLostError):
                while not self._http.over and (arrived := self._transport.poll()):
                    self._http.feed(arrived)
            if not self._http.over:
                raise
            self.close()
            return False
        return True

    def _acknowledge(self, deadline: Deadline) -> bool:
        """Send what an answer leaves to be sent. A server that is gone by now has answered all the same.

        :returns: whether it was sent.
        """
        try:
            if data := self._http.outgoing():
                self._transport.send(data, deadline)
        except (ConnectionLostError, DeadlinePassedError):
            return False
        return True

    def close(self) -> None:
        """Close the connection; further exchanges fail."""
        if self._open:
            self._open = False
            self._transport.close()
