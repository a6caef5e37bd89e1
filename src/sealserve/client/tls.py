"""What the TLS of a client accepts and shows, for synchronous and for asyncio connections.

With evidence, the server's certificate is taken, not checked: a replica's certificate is self-signed, and what counts
is whether its key is bound into evidence (:mod:`sealserve.client.attestation`). Until that is settled nothing but a
nonce is sent. The handshake does prove that the peer *has* the certificate's private key, and TLS 1.3 is required, so
there is no renegotiation, no anonymous cipher and no resumption behind which another key could hide.

Certificates that the model's owner made (:class:`OwnerCertificates`) can be asked for in addition. Without evidence
they are all there is.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from sealserve.addresses import Address
from sealserve.client.errors import (
    ConnectionLostError,
    EvidenceMissingError,
    ServerNotAcceptedError,
    TargetUnreachableError,
)
from sealserve.client.protocols import Grpc, Rest
from sealserve.errors import InputError
from sealserve.files import read_file, read_secret_file
from sealserve.ratls import spki_digest


@dataclass(frozen=True)
class OwnerCertificates:
    """TLS by certificates that an owner made, as PEM files.

    :param roots: what the server's certificate must be, or lead to; what the system trusts, if None.
    :param certificate: of this client, for servers that ask for one; with its intermediates.
    :param key: of ``certificate``; mode 0600.
    """

    roots: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True)
class TlsFacts:
    """What was negotiated, for reports."""

    version: str
    cipher: str


@dataclass(frozen=True)
class Peer:
    """The other end of a TLS session.

    :param certificate: whose key the peer proved to have in this session's handshake.
    :param key: SHA-256 of that key (SubjectPublicKeyInfo, 32 bytes).
    """

    certificate: x509.Certificate
    key: bytes
    facts: TlsFacts


def client_context(certificates: OwnerCertificates | None, alpn: str, *, evidence: bool) -> ssl.SSLContext:
    """A context for connections of a client.

    :param alpn: the protocol that is to be spoken.
    :param certificates: to check the server by and to show; None takes any server.
    :param evidence: whether the server will be asked for evidence before anything is sent.
    :raises InputError: a file is missing or not usable, or there is neither evidence nor a certificate to check.
    """
    if not evidence and certificates is None:
        raise InputError("without evidence, a server is known by its certificate alone, and none was given")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if evidence else ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([alpn])
    # A ticket would be good for a session whose key nobody asked about.
    context.options |= ssl.OP_NO_TICKET
    if certificates is None or (evidence and certificates.roots is None):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # judged by evidence; see the module's text
    else:
        _trust(context, certificates.roots)
    if certificates is not None:
        _show(context, certificates)
    return context


def _trust(context: ssl.SSLContext, roots: Path | None) -> None:
    # The seed's certificates have a common name and no alternative name, and its client is given the server's own
    # certificate as the root. Both are as safe: whoever made the roots made the names.
    context.hostname_checks_common_name = True
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if roots is None:
        context.load_default_certs()
        return
    try:
        context.load_verify_locations(cadata=read_file(roots, limit=1 << 20).decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise InputError(f"{roots} holds no certificate in PEM", hint="Check the path.") from error
    if not context.get_ca_certs() and not context.cert_store_stats()["x509"]:
        raise InputError(f"{roots} holds no certificate in PEM", hint="Check the path.")


def _show(context: ssl.SSLContext, certificates: OwnerCertificates) -> None:
    if (certificates.certificate is None) != (certificates.key is None):
        raise InputError("a client's certificate and its key belong together: give both, or neither")
    if certificates.certificate is None or certificates.key is None:
        return
    read_file(certificates.certificate, limit=1 << 20)
    read_secret_file(certificates.key).wipe()
    try:
        context.load_cert_chain(certificates.certificate, certificates.key, password=_no_password)
    except (ssl.SSLError, ValueError, OSError) as error:
        raise InputError(
            f"{certificates.certificate} and {certificates.key} cannot be used as a client's certificate and its key",
            hint="Both must be PEM and belong together; the key must have no password.",
        ) from error


def _no_password() -> str:
    raise ValueError("the key has a password")


def read_peer(tls: ssl.SSLSocket | ssl.SSLObject, target: Address, protocol: Grpc | Rest) -> Peer:
    """Who is at the other end of a session.

    :raises EvidenceMissingError: it speaks another protocol, or has no certificate that can be read: it is no replica.
    """
    selected = tls.selected_alpn_protocol()
    if selected != protocol.alpn and (selected is not None or protocol.requires_alpn):
        raise EvidenceMissingError(
            f"{target} does not speak {protocol.title} over TLS",
            hint="Check the address: host:port is that of gRPC, https://host:port that of REST.",
        )
    cipher = tls.cipher()
    try:
        # An empty certificate is refused like one that cannot be read.
        certificate = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")
    except ValueError as error:
        raise EvidenceMissingError(
            f"{target} presents no certificate that can be read", hint="Check that this is the address of a replica."
        ) from error
    return Peer(certificate, spki_digest(certificate), TlsFacts(tls.version() or "?", cipher[0] if cipher else "?"))


def no_connection(target: Address, error: BaseException) -> TargetUnreachableError:
    """The error for a connection that cannot be made."""
    return TargetUnreachableError(
        f"cannot connect to {target}: {why(error)}", hint="Check the address, and that the cluster is up."
    )


def no_session(target: Address, error: BaseException) -> TargetUnreachableError | ServerNotAcceptedError:
    """The error for a TLS handshake that failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return ServerNotAcceptedError(
            f"the certificate of {target} is not accepted: {error.verify_message or why(error)}",
            hint="Check the roots that were given (--ca), and the server's name (--server-name).",
        )
    return TargetUnreachableError(
        f"no TLS session with {target}: {why(error)}",
        hint="Check that this is the address of a replica or of the gateway in front of it, that it is up, and that "
        "the server's name (--server-name) is the deployment's: a gateway routes by it.",
    )


def lost(target: Address, error: BaseException | None, *, heard: bool) -> ConnectionLostError:
    """The error for a connection that broke or ended.

    :param heard: whether the server ever said something on it. In TLS 1.3 a client believes to have a session before
        the server has looked at the client's certificate; some servers say why they refuse it, and some just close.
    """
    if heard:
        text, hint = f"{target} closed the connection", "The replica may have stopped; try again."
    else:
        text = f"{target} closed the connection before it said anything"
        hint = (
            "In two-way TLS it wants a certificate of this client that is valid now, by an authority of its owner's: "
            "give --crt and --key. Otherwise the port may be another one (REST has its own, and wants https://), or "
            "the replica stopped: try again."
        )
    return ConnectionLostError(text + (f": {why(error)}" if error else ""), hint=hint)


def why(error: BaseException) -> str:
    """The plain words of an operating-system or OpenSSL error."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    # The number of an OpenSSL error is none of the operating system's.
    if (
        isinstance(error, OSError)
        and not isinstance(error, ssl.SSLError)
        and error.errno is not None
        and error.errno > 0
    ):
        return os.strerror(error.errno)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
