"""Certificates that the owner of a local cluster makes, and their authorities: X.509 (RFC 5280), EC P-256."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sealserve.deploy.certificates import Identity, Role, general_name
from sealserve.errors import KeyFileError
from sealserve.files import PRIVATE, read_file, read_secret_file, write_atomically

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
    made = Identity.authority(f"sealserve {of} CA of {name}", validity=_AUTHORITY_VALIDITY)
    _write(key_file, certificate_file, made)
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
    leaf = _Leaf(key_file, certificate_file, authority_key, authority, subject, validity)
    return leaf.ensure(hosts, "server", keep_key=keep_key)


def ensure_client_certificate(
    key_file: Path, certificate_file: Path, *, authority_key: Path, authority: Path, name: str
) -> bool:
    """Make a certificate for the client ``name``, unless a fitting one is there.

    :returns: whether a new one was made.
    """
    leaf = _Leaf(key_file, certificate_file, authority_key, authority, name, OWNER_VALIDITY)
    # The name of a client means nothing to replicas, but strict verifiers want an alternative name.
    return leaf.ensure([name], "client", keep_key=False)


@dataclass(frozen=True)
class _Leaf:
    """A certificate that an authority signs: its files, and what does not depend on what it is for."""

    key_file: Path
    certificate_file: Path
    authority_key: Path
    authority: Path
    subject: str
    validity: timedelta

    def ensure(self, hosts: Sequence[str], role: Role, *, keep_key: bool) -> bool:
        issuer = _read_certificate(self.authority)
        if self.certificate_file.exists() and self.key_file.exists() and self._fits(issuer, hosts):
            _read_key(self.key_file)
            return False
        key = _read_key(self.key_file) if keep_key and self.key_file.exists() else None
        signer = Identity(_read_key(self.authority_key), issuer)
        made = Identity.leaf(self.subject, hosts, role, validity=self.validity, issuer=signer, key=key)
        _write(self.key_file, self.certificate_file, made)
        return True

    def _fits(self, issuer: x509.Certificate, hosts: Sequence[str]) -> bool:
        """Whether the certificate is by this issuer, for these names, and valid for a while."""
        certificate = _read_certificate(self.certificate_file)
        try:
            certificate.verify_directly_issued_by(issuer)
            present = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return False
        enough_left = certificate.not_valid_after_utc - datetime.now(UTC) > self.validity / 3
        return enough_left and {general_name(host) for host in hosts} <= set(present)


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


def _write(key_file: Path, certificate_file: Path, made: Identity) -> None:
    # The key first: a certificate without its key is made anew, a key without its certificate as well.
    certificate_file.unlink(missing_ok=True)
    write_atomically(key_file, made.key_pem, mode=PRIVATE)
    write_atomically(certificate_file, made.certificate_pem)
