"""TLS settings of both sides, over pyOpenSSL.

The standard library's ``ssl`` can neither accept a client certificate that no authority signed nor export keying
material; pyOpenSSL can. Certificates of clients are accepted in the handshake whatever they say, so that an enclave
can present its self-signed one. The handshake proves possession of the key; whoever serves the connection judges the
evidence afterwards. A client judges the server right after the handshake and before it sends a byte
(:class:`ServerTrust`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import verification
from OpenSSL import SSL

from sealserve.errors import ConfigurationError, TrustError
from sealserve.ratls.identity import TlsIdentity

TlsVersion = Literal["1.2", "1.3"]

_MINIMUM = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
# For TLS 1.2, beside OpenSSL's own choice of what is safe: forward secrecy and authenticated encryption only.
_CIPHERS_1_2 = b"ECDHE+AESGCM:ECDHE+CHACHA20"


class ServerNotTrustedError(TrustError):
    """A server's certificate is not signed by the authority that is trusted, or is for another name."""


class ServerTrust(Protocol):
    """Decides whether a server's certificate is good."""

    def judge(self, chain: Sequence[x509.Certificate], server_name: str) -> None:
        """Return, or raise :class:`ServerNotTrustedError`. ``chain`` starts with the server's own certificate."""


class SignedByAuthority:
    """The server's certificate must lead to one of these authorities, be valid now, and name the host in its SAN.

    :param pem: certificates of authorities, PEM. :raises ConfigurationError: there is none in it.
    """

    def __init__(self, pem: bytes) -> None:
        try:
            self._store = verification.Store(x509.load_pem_x509_certificates(pem))
        except ValueError as error:
            raise ConfigurationError(
                "the certificate authority is no PEM certificate", hint="Give the CA's certificate, not its key."
            ) from error

    def judge(self, chain: Sequence[x509.Certificate], server_name: str) -> None:
        """See :class:`ServerTrust`."""
        try:
            builder = verification.PolicyBuilder().store(self._store)
            builder = builder.extension_policies(ca_policy=_AUTHORITY_EXTENSIONS, ee_policy=_SERVER_EXTENSIONS)
            builder.build_server_verifier(_subject(server_name)).verify(chain[0], list(chain[1:]))
        except (verification.VerificationError, ValueError, IndexError) as error:
            raise ServerNotTrustedError(
                f"the certificate of {server_name} is not to be trusted: {error}",
                hint="Check that the certificate authority given is the one that signed the server's certificate, that "
                "the certificate has not expired, and that it names the host in its subjectAltName.",
            ) from error


class PinnedCertificate:
    """The server must present exactly this certificate; names and dates do not matter."""

    def __init__(self, certificate: x509.Certificate) -> None:
        self._expected = certificate

    def judge(self, chain: Sequence[x509.Certificate], server_name: str) -> None:
        """See :class:`ServerTrust`."""
        if not chain or chain[0].public_bytes(Encoding.DER) != self._expected.public_bytes(Encoding.DER):
            raise ServerNotTrustedError(f"{server_name} presents another certificate than the one that was checked")


def _is_authority(_policy: object, _certificate: x509.Certificate, extension: x509.BasicConstraints) -> None:
    if not extension.ca:
        raise ValueError("the issuer is no certificate authority")


# The library's defaults are those of the public Web. An authority made with `openssl req -x509` has no keyUsage, and
# that is how most key brokers get theirs; what decides, the signature, the dates, basicConstraints and the name,
# stays.
_AUTHORITY_EXTENSIONS = verification.ExtensionPolicy.permit_all().require_present(
    x509.BasicConstraints, verification.Criticality.AGNOSTIC, _is_authority
)
_SERVER_EXTENSIONS = verification.ExtensionPolicy.permit_all().require_present(
    x509.SubjectAlternativeName, verification.Criticality.AGNOSTIC, None
)


def _subject(server_name: str) -> x509.verification.Subject:
    try:
        return x509.IPAddress(ipaddress.ip_address(server_name))
    except ValueError:
        return x509.DNSName(server_name)


@dataclass(frozen=True)
class ClientContext:
    """Settings of connections that we make."""

    settings: SSL.Context
    trust: ServerTrust


def server_context(
    certificate_chain: Sequence[x509.Certificate],
    key: PrivateKeyTypes,
    *,
    request_client_certificate: bool = False,
    alpn: Sequence[str] = (),
    minimum_version: TlsVersion = "1.2",
) -> SSL.Context:
    """Settings of a server. No session is kept or resumed, and there is no renegotiation.

    :param certificate_chain: the server's certificate first.
    :param request_client_certificate: ask for one. Any is accepted, and none too: judge it after the handshake.
    :param alpn: protocols in order of preference. A client that offers none of them goes on without.
    :raises ConfigurationError: certificate and key do not fit together.
    """
    context = _context(SSL.TLS_SERVER_METHOD, minimum_version)
    _use_certificate(context, certificate_chain, key)
    if request_client_certificate:
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_CLIENT_ONCE, _accept_for_now)
    if alpn:
        _select_from(context, alpn)
    return context


def client_context(
    trust: ServerTrust,
    *,
    identity: TlsIdentity | None = None,
    alpn: Sequence[str] = (),
    minimum_version: TlsVersion = "1.3",
) -> ClientContext:
    """Settings of a client.

    :param trust: judges the server after the handshake; nothing is sent before.
    :param identity: presented if the server asks.
    """
    context = _context(SSL.TLS_CLIENT_METHOD, minimum_version)
    context.set_verify(SSL.VERIFY_PEER, _accept_for_now)
    if identity is not None:
        _use_certificate(context, [identity.certificate], identity.private_key)
    if alpn:
        context.set_alpn_protos([name.encode("ascii") for name in alpn])
    return ClientContext(context, trust)


def _context(method: int, minimum_version: TlsVersion) -> SSL.Context:
    context = SSL.Context(method)
    context.set_min_proto_version(_MINIMUM[minimum_version])
    context.set_cipher_list(_CIPHERS_1_2)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
    return context


def _use_certificate(context: SSL.Context, chain: Sequence[x509.Certificate], key: PrivateKeyTypes) -> None:
    try:
        context.use_certificate(chain[0])
        for certificate in chain[1:]:
            context.add_extra_chain_cert(certificate)
        context.use_privatekey(key)  # type: ignore[arg-type]  # pyOpenSSL names the kinds of keys; others raise
        context.check_privatekey()
    except (SSL.Error, TypeError, ValueError, IndexError) as error:
        raise ConfigurationError(
            "the TLS certificate and its private key do not fit together",
            hint="Give the certificate that was made for this key; the server's own comes first in the file.",
        ) from error


def _accept_for_now(*_: object) -> bool:
    return True


def _select_from(context: SSL.Context, alpn: Sequence[str]) -> None:
    names = [name.encode("ascii") for name in alpn]
    context.set_alpn_select_callback(
        lambda _connection, offered: next((name for name in names if name in offered), SSL.NO_OVERLAPPING_PROTOCOLS)
    )
