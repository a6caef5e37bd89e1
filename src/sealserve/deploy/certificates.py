"""Making X.509 certificates (RFC 5280) for servers, clients and their authorities; keys are EC P-256, or RSA."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
Role = Literal["server", "client"]

_BACKDATED = timedelta(minutes=5)
_RSA_BITS = 3072
_ROLES = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}


@dataclass(frozen=True)
class Identity:
    """A private key and its certificate."""

    key: Key
    certificate: x509.Certificate

    @classmethod
    def authority(cls, name: str, *, validity: timedelta, key: Key | None = None) -> Self:
        """A certificate authority that signs leaves only. ``key``: a new EC key if not given."""
        key = key or new_key()
        builder = _builder(_subject(name), _subject(name), key, validity)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
        return cls(key, builder.sign(key, hashes.SHA256()))

    @classmethod
    def leaf(
        cls,
        name: str,
        hosts: Sequence[str],
        role: Role,
        *,
        validity: timedelta,
        issuer: Identity | None = None,
        key: Key | None = None,
    ) -> Self:
        """A certificate for ``hosts`` (DNS names and IP addresses).

        :param name: the subject's common name, of which 64 characters are kept.
        :param issuer: who signs it; it signs itself if not given. :param key: a new EC key if not given.
        """
        key = key or new_key()
        signer = issuer.key if issuer else key
        by = issuer.certificate.subject if issuer else _subject(name)
        names = [general_name(host) for host in dict.fromkeys(hosts)]
        encipherment = isinstance(key, rsa.RSAPrivateKey)  # TLS 1.2's RSA key exchange, where nothing better is left
        certificate = (
            _builder(_subject(name), by, key, validity)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False, encipherment=encipherment), critical=True)
            .add_extension(x509.ExtendedKeyUsage([_ROLES[role]]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
            .sign(signer, hashes.SHA256())
        )
        return cls(key, certificate)

    @property
    def key_pem(self) -> bytes:
        """The private key, PKCS #8 in PEM, without a password."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def certificate_pem(self) -> bytes:
        """The certificate in PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def new_key(kind: Literal["ec", "rsa"] = "ec") -> Key:
    """A new private key: EC P-256, or RSA with 3072 bits."""
    if kind == "rsa":
        return rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)
    return ec.generate_private_key(ec.SECP256R1())


def general_name(host: str) -> x509.GeneralName:
    """An IP address or a DNS name as a subject alternative name."""
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(host))
    return x509.DNSName(host)


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name[:64])])


def _builder(subject: x509.Name, issuer: x509.Name, key: Key, validity: timedelta) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + validity)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool, encipherment: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
