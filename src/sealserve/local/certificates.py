"""Certificates that the owner of a local cluster makes, and their authorities: X.509 (RFC 5280), EC P-256."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from sealserve.errors import KeyFileError
from sealserve.files import PRIVATE, read_file, read_secret_file, write_atomically

_BACKDATED = timedelta(minutes=5)
_AUTHORITY_VALIDITY = timedelta(days=3650)
_BROKER_VALIDITY = timedelta(days=90)
OWNER_VALIDITY = timedelta(days=397)
"""Of certificates that ordinary TLS clients meet: some refuse longer ones."""
_RENEW_BEFORE = timedelta(days=30)


def ensure_authority(
    key_file: Path, certificate_file: Path, *, name: str, of: str = "broker", renew_before: timedelta = _RENEW_BEFORE
) -> bool:
    """Make a certificate authority, unless a valid one is there.

    :param name: whom it is for, shown in its subject. :param of: whose certificates it signs.
    :param renew_before: so long before its end there is a new one.
    :returns: whether a new one was made.
    """
    if certificate_file.exists() and key_file.exists():
        certificate = _read_certificate(certificate_file)
        if certificate.not_valid_after_utc - datetime.now(UTC) > renew_before:
            _read_key(key_file)
            return False
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"sealserve {of} CA of {name}"[:64])])
    certificate = (
        _builder(subject, subject, key.public_key(), _AUTHORITY_VALIDITY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(key_file, key, certificate_file, certificate)
    return True


def ensure_server_certificate(
    key_file: Path,
    certificate_file: Path,
    *,
    authority_key: Path,
    authority: Path,
    hosts: Sequence[str],
    subject: str = "sealserve key broker",
    validity: timedelta = _BROKER_VALIDITY,
    keep_key: bool = False,
) -> bool:
    """Make a server certificate for ``hosts`` (IP addresses and DNS names), unless a fitting one is there.

    It is renewed when a third of its validity is left.

    :param keep_key: a renewed certificate is of the same key.
    :returns: whether a new one was made.
    """
    names = [_general_name(host) for host in dict.fromkeys(hosts)]
    leaf = _Leaf(key_file, certificate_file, authority_key, authority, subject, validity)
    return leaf.ensure(names, ExtendedKeyUsageOID.SERVER_AUTH, keep_key=keep_key)


def ensure_client_certificate(
    key_file: Path, certificate_file: Path, *, authority_key: Path, authority: Path, name: str
) -> bool:
    """Make a certificate for the client ``name``, unless a fitting one is there.

    :returns: whether a new one was made.
    """
    leaf = _Leaf(key_file, certificate_file, authority_key, authority, name, OWNER_VALIDITY)
    # The name of a client means nothing to replicas, but strict verifiers want an alternative name.
    return leaf.ensure([x509.DNSName(name)], ExtendedKeyUsageOID.CLIENT_AUTH, keep_key=False)


@dataclass(frozen=True)
class _Leaf:
    """A certificate that an authority signs: its files, and what does not depend on what it is for."""

    key_file: Path
    certificate_file: Path
    authority_key: Path
    authority: Path
    subject: str
    validity: timedelta

    def ensure(self, names: Sequence[x509.GeneralName], usage: x509.ObjectIdentifier, *, keep_key: bool) -> bool:
        issuer = _read_certificate(self.authority)
        if self.certificate_file.exists() and self.key_file.exists() and self._fits(issuer, names):
            _read_key(self.key_file)
            return False
        kept = keep_key and self.key_file.exists()
        key = _read_key(self.key_file) if kept else ec.generate_private_key(ec.SECP256R1())
        signer = _read_key(self.authority_key)
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, self.subject[:64])])
        builder = (
            _builder(subject, issuer.subject, key.public_key(), self.validity)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
        )
        _write(self.key_file, key, self.certificate_file, builder.sign(signer, hashes.SHA256()))
        return True

    def _fits(self, issuer: x509.Certificate, names: Sequence[x509.GeneralName]) -> bool:
        """Whether the certificate is by this issuer, for these names, and valid for a while."""
        certificate = _read_certificate(self.certificate_file)
        try:
            certificate.verify_directly_issued_by(issuer)
            present = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return False
        enough_left = certificate.not_valid_after_utc - datetime.now(UTC) > self.validity / 3
        return enough_left and set(names) <= set(present)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, validity: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + validity)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(host))
    return x509.DNSName(host)


def _read_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(read_file(path))
    except ValueError as error:
        raise KeyFileError(f"{path} is not a certificate in PEM", hint="Remove it: a new one is then made.") from error


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    with read_secret_file(path) as secret:
        try:
            key = serialization.load_pem_private_key(secret.reveal(), password=None)
        except (ValueError, TypeError) as error:
            raise KeyFileError(f"{path} is not a private key in PEM", hint="Remove it: a new one is made.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise KeyFileError(f"{path} is not an EC private key", hint="Remove it: a new one is then made.")
    return key


def _write(
    key_file: Path, key: ec.EllipticCurvePrivateKey, certificate_file: Path, certificate: x509.Certificate
) -> None:
    # The key first: a certificate without its key is made anew, a key without its certificate as well.
    certificate_file.unlink(missing_ok=True)
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_atomically(key_file, text, mode=PRIVATE)
    write_atomically(certificate_file, certificate.public_bytes(serialization.Encoding.PEM))
