"""What a replica serves TLS with: what its owner made, where the grant has it, and otherwise a key of its own.

Evidence is bound to that key, so the first grant settles it for the replica's life. A renewed certificate of the same
key is followed while requests go on. Whatever else of it changes is taken at the next start: on connections that are
open already, clients would see evidence for another key than the one they talk to.
"""

from __future__ import annotations

import logging

from cryptography import x509

from sealserve.broker.grant import Grant, TlsMaterial
from sealserve.errors import ConfigurationError, InputError
from sealserve.logs import event, get_logger
from sealserve.ratls import TlsIdentity, spki_digest
from sealserve.secret import Secret
from sealserve.serving.tls import ServerTls

_log = get_logger(__name__)


class ServingTls:
    """TLS of a replica.

    :param first: the grant that it starts with, not wiped yet. :param own: the key and certificate that it made.
    :ivar server: for its servers. :ivar key: SHA-256 of the SubjectPublicKeyInfo of its key. :ivar shared: whether its
        owner has that key, and every enclave of the grant, or this enclave alone.
    :raises ConfigurationError: what the owner made cannot be served with.
    """

    def __init__(self, first: Grant, own: TlsIdentity) -> None:
        self.shared = first.tls is not None
        self.server = _own(own) if first.tls is None else _granted(first.tls)
        self.key = _key_of(self.server.certificate_pem)
        self._state: tuple[object, ...] = ()

    def expires(self) -> float | None:
        """When the owner's certificate ends, in seconds since 1970; None for the replica's own, which does not."""
        if not self.shared:
            return None
        return x509.load_pem_x509_certificates(self.server.certificate_pem)[0].not_valid_after_utc.timestamp()

    def follow(self, grant: Grant) -> None:
        """Take what can be taken of a later grant, which need not be wiped yet. Raises nothing; the rest is logged."""
        tls = grant.tls
        if tls is None or not self.shared:
            if (tls is not None) != self.shared:
                self._enter(logging.WARNING, "tls-changes-at-next-start", mode="owner" if tls else "attested")
            return
        try:
            certificate = tls.certificate.encode()
            same_key = _key_of(certificate) == self.key
            if not same_key or _authority(tls) != self.server.client_ca_pem:
                what = "client authority" if same_key else "key"
                self._enter(logging.WARNING, "tls-changes-at-next-start", grant.revision, changed=what)
            elif certificate != self.server.certificate_pem:
                self.server.renew(certificate)
                expires = x509.load_pem_x509_certificates(certificate)[0].not_valid_after_utc
                self._enter(logging.INFO, "certificate-renewed", grant.revision, expires=expires)
        except (InputError, ValueError) as error:
            self._enter(logging.WARNING, "granted-certificate-unusable", grant.revision, reason=error)

    def _enter(self, level: int, name: str, *detail: object, **fields: object) -> None:
        """Log what a grant brings once, and not at every refresh."""
        if self._state != (name, *detail):
            self._state = (name, *detail)
            event(_log, level, name, **fields)


def _own(identity: TlsIdentity) -> ServerTls:
    return ServerTls(identity.private_key_pem(), identity.certificate_pem())


def _granted(tls: TlsMaterial) -> ServerTls:
    try:
        # A copy of the key: the grant is wiped.
        key = Secret(bytes(tls.private_key.reveal()))
        return ServerTls(key, tls.certificate.encode(), _authority(tls), renewable=True)
    except InputError as error:
        raise ConfigurationError(
            f"the certificate that the key broker grants cannot be served with: {error.message}",
            hint="Put the grant anew, with certificates and a key that belong together.",
        ) from error


def _authority(tls: TlsMaterial) -> bytes | None:
    return None if tls.client_authority is None else tls.client_authority.encode()


def _key_of(certificate_pem: bytes) -> bytes:
    return spki_digest(x509.load_pem_x509_certificates(certificate_pem)[0])
