"""TLS over TCP for one thread at a time; what of the peer is accepted says :mod:`sealserve.client.tls`."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl

from sealserve.client.deadline import Deadline
from sealserve.client.endpoint import Endpoint
from sealserve.client.errors import TargetUnreachableError
from sealserve.client.tls import lost, no_connection, no_session, read_peer

_RECEIVE = 64 * 1024
# A peer that vanished without a word (power, network) is noticed after about this many seconds.
_DEAD_PEER = 20


class TlsTransport:
    """A TLS connection for one thread at a time.

    :ivar peer: who is at its other end. :ivar heard: whether the peer said something after the handshake.
    """

    def __init__(self, tls: ssl.SSLSocket, endpoint: Endpoint) -> None:
        self._tls = tls
        self._target = endpoint.address
        self._process = os.getpid()
        self.heard = False
        self.peer = read_peer(tls, endpoint.address, endpoint.protocol)

    @property
    def usable_here(self) -> bool:
        """False in a forked child: two processes that write to one TLS session would reuse its nonces."""
        return self._process == os.getpid()

    def send(self, data: bytes, deadline: Deadline) -> None:
        """Send all of ``data``.

        :raises ConnectionLostError: the connection broke. :raises DeadlinePassedError: the peer does not read.
        """
        view = memoryview(data)
        while view:
            self._tls.settimeout(deadline.remaining("sending"))
            try:
                view = view[self._tls.send(view) :]
            except TimeoutError:
                continue
            except OSError as error:
                raise lost(self._target, error, heard=self.heard) from error

    def receive(self, deadline: Deadline) -> bytes:
        """The next bytes, at least one.

        :raises ConnectionLostError: the connection broke or ended. :raises DeadlinePassedError: nothing came.
        """
        while True:
            self._tls.settimeout(deadline.remaining("waiting for an answer"))
            try:
                data = self._tls.recv(_RECEIVE)
            except TimeoutError:
                continue
            except OSError as error:
                raise lost(self._target, error, heard=self.heard) from error
            if not data:
                raise lost(self._target, None, heard=self.heard)
            self.heard = True
            return data

    def poll(self) -> bytes:
        """Bytes that are there already; empty if there are none.

        :raises ConnectionLostError: as :meth:`receive`.
        """
        self._tls.settimeout(0)
        try:
            data = self._tls.recv(_RECEIVE)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            return b""
        except OSError as error:
            raise lost(self._target, error, heard=self.heard) from error
        if not data:
            raise lost(self._target, None, heard=self.heard)
        self.heard = True
        return data

    def close(self, last_words: bytes = b"") -> None:
        """Close without waiting for the peer; ``last_words`` are sent if the socket takes them."""
        with contextlib.suppress(OSError, ValueError):
            if last_words and self.usable_here:
                self._tls.settimeout(0)
                self._tls.send(last_words)
        with contextlib.suppress(OSError):
            self._tls.close()


def connect(endpoint: Endpoint, deadline: Deadline) -> TlsTransport:
    """Connect and shake hands. The server's name is sent as SNI, and looked for in its certificate where TLS checks it.

    :raises TargetUnreachableError: nothing listens, or what listens makes no TLS session.
    :raises EvidenceMissingError: the server has no certificate that can be read, or speaks another protocol.
    :raises ServerNotAcceptedError: its certificate is not accepted.
    :raises DeadlinePassedError: the peer is silent.
    """
    target = endpoint.address
    try:
        plain = socket.create_connection((target.host, target.port), timeout=deadline.remaining("connecting"))
    except TimeoutError:
        deadline.remaining(f"connecting to {target}")
        raise TargetUnreachableError(
            f"{target} does not answer", hint="Check the address and the firewall between here and there."
        ) from None
    except (OSError, UnicodeError) as error:
        raise no_connection(target, error) from error
    try:
        tune(plain)
        plain.settimeout(deadline.remaining("shaking hands"))
        tls = endpoint.context.wrap_socket(plain, server_hostname=endpoint.server_name, suppress_ragged_eofs=True)
    except BaseException as error:
        plain.close()
        if isinstance(error, TimeoutError):
            deadline.remaining(f"shaking hands with {target}")
        if isinstance(error, OSError | ValueError):
            raise no_session(target, error) from error
        raise
    try:
        return TlsTransport(tls, endpoint)
    except BaseException:
        tls.close()
        raise


def tune(plain: socket.socket) -> None:
    """No waiting to fill packets, and a peer that is gone is noticed."""
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_USER_TIMEOUT", _DEAD_PEER * 1000)):
        if hasattr(socket, name):  # Linux; elsewhere the system's own values hold
            plain.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
