"""What a server shows and asks for in TLS; keys stay in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from sealserve.errors import InputError
from sealserve.secret import Secret


@dataclass
class ServerTls:
    """Key and certificates of a server.

    :ivar private_key_pem: of the certificate, not encrypted.
    :ivar certificate_pem: the server's certificate, and after it those that lead to its root, if there are any.
    :ivar client_ca_pem: certificates of which one must have signed every client's; None to ask clients for nothing.
        Servers take no resumed sessions then: a client's certificate is looked at in every handshake.
    :ivar renewable: whether servers made with it follow :meth:`renew`. The key must not be wiped then, nor where
        clients are asked for certificates.
    :raises InputError: something is not PEM, or key and certificate do not belong together.
    """

    private_key_pem: Secret = field(repr=False)
    certificate_pem: bytes
    client_ca_pem: bytes | None = None
    renewable: bool = False
    _followers: list[Callable[[], None]] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._require_pair(self.certificate_pem)
        if self.client_ca_pem is not None:
            try:
                x509.load_pem_x509_certificates(self.client_ca_pem)
            except ValueError as error:
                raise InputError("the certificates for clients are not PEM") from error

    def renew(self, certificate_pem: bytes) -> None:
        """Show another certificate of the same key in handshakes from now on; connections go on as they are.

        :raises InputError: it is not PEM, or of another key; nothing is changed then.
        """
        self._require_pair(certificate_pem)
        self.certificate_pem = certificate_pem
        for follow in self._followers:
            follow()

    def on_renewal(self, follow: Callable[[], None]) -> None:
        """Call ``follow`` when the certificate was renewed, in the thread that renews it."""
        self._followers.append(follow)

    def _require_pair(self, certificate_pem: bytes) -> None:
        # gRPC reports a bad key or certificate as a port that cannot be had.
        try:
            key = load_pem_private_key(bytes(self.private_key_pem.reveal()), password=None)
            certificate = x509.load_pem_x509_certificates(certificate_pem)[0]
            form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
            same = key.public_key().public_bytes(*form) == certificate.public_key().public_bytes(*form)
        except (ValueError, TypeError) as error:
            raise InputError("the server's private key or its certificate is not PEM, or is encrypted") from error
        if not same:
            raise InputError(
                "the server's private key is not that of its certificate",
                hint="The server's own certificate comes first, and after it those that lead to its root.",
            )
