"""TLS over TCP to something that is not trusted yet.

The certificate is taken, not checked: a replica's certificate is self-signed, and what counts is whether its key is
bound into evidence (:mod:`sealserve.client.attestation`). Until that is settled nothing but a nonce is sent. The
handshake does prove that the peer *has* the certificate's private key, and TLS 1.3 is required, so there is no
renegotiation, no anonymous cipher and no resumption behind which another key could hide.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import ssl
from dataclasses import dataclass

from cryptography import x509

from sealserve.addresses import Address
from sealserve.client.deadline import Deadline
from sealserve.client.errors import ConnectionLostError, EvidenceMissingError, TargetUnreachableError
from sealserve.ratls import spki_digest

_ALPN = "h2"
_RECEIVE = 64 * 1024
# A peer that vanished without a word (power, network) is noticed after about this many seconds.
_DEAD_PEER = 20


@functools.cache
def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # judged by evidence; see the module's text
    context.set_alpn_protocols([_ALPN])
    return context


@dataclass(frozen=True)
class TlsFacts:
    """What was negotiated, for reports."""

    version: str
    cipher: str


class TlsTransport:
    """A TLS connection for one thread at a time.

    ``peer_certificate`` is the certificate whose key the peer proved to have in this connection's handshake,
    ``peer_key`` the SHA-256 of that key (SubjectPublicKeyInfo, 32 bytes).
    """

    def __init__(self, tls: ssl.SSLSocket, target: Address) -> None:
        self._tls = tls
        self._target = target
        self._process = os.getpid()
        if tls.selected_alpn_protocol() != _ALPN:
            raise EvidenceMissingError(
                f"{target} does not speak HTTP/2 over TLS", hint="Check that this is the gRPC address of a replica."
            )
        cipher = tls.cipher()
        self.facts = TlsFacts(version=tls.version() or "?", cipher=cipher[0] if cipher else "?")
        self.peer_certificate = _certificate(tls, target)
        self.peer_key = spki_digest(self.peer_certificate)

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
                raise self._lost(error) from error

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
                raise self._lost(error) from error
            if not data:
                raise self._lost(None)
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
            raise self._lost(error) from error
        if not data:
            raise self._lost(None)
        return data

    def close(self, last_words: bytes = b"") -> None:
        """Close without waiting for the peer; ``last_words`` are sent if the socket takes them."""
        with contextlib.suppress(OSError, ValueError):
            if last_words and self.usable_here:
                self._tls.settimeout(0)
                self._tls.send(last_words)
        with contextlib.suppress(OSError):
            self._tls.close()

    def _lost(self, error: OSError | None) -> ConnectionLostError:
        why = f": {_reason(error)}" if error else ""
        return ConnectionLostError(
            f"{self._target} closed the connection{why}", hint="The replica may have stopped; try again."
        )


def connect(target: Address, *, server_name: str, deadline: Deadline) -> TlsTransport:
    """Connect and shake hands.

    :param server_name: sent as SNI.
    :raises TargetUnreachableError: nothing listens, or what listens makes no TLS 1.3 session.
    :raises EvidenceMissingError: the server has no certificate that can be read, or speaks no HTTP/2: it is no replica.
    :raises DeadlinePassedError: the peer is silent.
    """
    try:
        plain = socket.create_connection((target.host, target.port), timeout=deadline.remaining("connecting"))
    except TimeoutError:
        deadline.remaining(f"connecting to {target}")
        raise TargetUnreachableError(
            f"{target} does not answer", hint="Check the address and the firewall between here and there."
        ) from None
    except (OSError, UnicodeError) as error:
        raise TargetUnreachableError(
            f"cannot connect to {target}: {_reason(error)}", hint="Check the address, and that the cluster is up."
        ) from error
    try:
        _tune(plain)
        plain.settimeout(deadline.remaining("shaking hands"))
        tls = _context().wrap_socket(plain, server_hostname=server_name, suppress_ragged_eofs=True)
    except BaseException as error:
        plain.close()
        if isinstance(error, TimeoutError):
            deadline.remaining(f"shaking hands with {target}")
        if isinstance(error, OSError | ValueError):
            raise TargetUnreachableError(
                f"no TLS session with {target}: {_reason(error)}",
                hint="Check that this is the address of a replica or of the gateway in front of it, and that it is up.",
            ) from error
        raise
    try:
        return TlsTransport(tls, target)
    except BaseException:
        tls.close()
        raise


def _tune(plain: socket.socket) -> None:
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_USER_TIMEOUT", _DEAD_PEER * 1000)):
        if hasattr(socket, name):  # Linux; elsewhere the system's own values hold
            plain.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _certificate(tls: ssl.SSLSocket, target: Address) -> x509.Certificate:
    der = tls.getpeercert(binary_form=True)
    try:
        # An empty certificate is refused like one that cannot be read.
        return x509.load_der_x509_certificate(der or b"")
    except ValueError as error:
        raise EvidenceMissingError(
            f"{target} presents no certificate that can be read", hint="Check that this is the address of a replica."
        ) from error


def _reason(error: BaseException) -> str:
    """The plain words of an operating-system or OpenSSL error."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
