"""An enclave's own TLS key, and the RA-TLS certificate that carries evidence for it."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from sealserve.errors import InputError
from sealserve.evidence import Attester
from sealserve.ratls.certificate import (
    DICE_EVIDENCE,
    LEGACY_QUOTE,
    dice_claims,
    dice_report_data,
    encode_dice,
    legacy_report_data,
    spki_digest,
)
from sealserve.secret import Secret

# Fixed, because a clock inside an enclave is the host's word: dates made from it would look like a promise and be none.
# What limits the age of a key is that it dies with its process; what limits the age of evidence is the nonce and the
# validity of the collateral. The start is Gramine's; the end is RFC 5280's "no well-defined expiration date" (4.1.2.5),
# because Gramine's own end, 2030, would stop running clusters on that day.
NOT_BEFORE = datetime(2001, 1, 1, tzinfo=UTC)
NOT_AFTER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)

_NAME = x509.Name(
    [
        x509.NameAttribute(NameOID.COMMON_NAME, "RATLS"),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "GramineDevelopers"),
        x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
    ]
)


@dataclass(frozen=True)
class TlsIdentity:
    """A private key (EC P-256) and the RA-TLS certificate of it. The key never leaves the process that made it."""

    private_key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate

    def private_key_pem(self) -> Secret:
        """The private key as PKCS #8 PEM, for libraries that take it in no other form."""
        return Secret(self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def certificate_pem(self) -> bytes:
        """The certificate as PEM."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def spki_digest(self) -> bytes:
        """SHA-256 of the SubjectPublicKeyInfo (DER), 32 bytes."""
        return spki_digest(self.certificate)


def create_identity(attester: Attester, *, server_names: Sequence[str] = ()) -> TlsIdentity:
    """Make a key and its RA-TLS certificate, as Gramine 1.8 and later make theirs, with a SAN if names are given.

    Two quotes are gathered, because the certificate's two extensions bind the key in two different ways.

    :param server_names: DNS names and IP addresses under which clients reach this enclave.
    :raises AttestationError: this machine gives no quote. :raises InputError: a server name is neither.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key()
    claims = dice_claims(public)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_NAME)
        .issuer_name(_NAME)
        .public_key(public)
        .serial_number(1)
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .add_extension(
            x509.UnrecognizedExtension(LEGACY_QUOTE, attester.quote(legacy_report_data(public))), critical=False
        )
        .add_extension(
            x509.UnrecognizedExtension(DICE_EVIDENCE, encode_dice(attester.quote(dice_report_data(claims)), claims)),
            critical=False,
        )
    )
    if server_names:
        names = [_general_name(name) for name in server_names]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return TlsIdentity(key, builder.sign(key, hashes.SHA256()))


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as error:
        raise InputError(
            f"{name!r} is neither a DNS name nor an IP address", hint="Give server names in ASCII."
        ) from error
