"""The two kinds of keys that a store holds: wrap keys, which open models, and private keys for TLS."""

from __future__ import annotations

from typing import Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from sealserve.broker.store.change import Change
from sealserve.broker.store.documents import KEY_SIZE, GrantDocument, KeyVersion
from sealserve.errors import ConfigurationError, KeyFileError
from sealserve.secret import Secret

KeyKind = Literal["wrap", "tls"]

_LONGEST_PEM = 8 * 1024


def check_value(value: Secret, kind: KeyKind) -> None:
    """Whether a value can be a key of this kind: 16 bytes, or a private key in PEM without a password.

    :raises KeyFileError: it cannot.
    """
    if kind == "tls":
        _load(value)
    elif len(value) != KEY_SIZE:
        raise KeyFileError(f"a wrap key has exactly {KEY_SIZE} bytes; this one has {len(value)}")


def check_kinds(change: Change, document: GrantDocument) -> None:
    """A grant's keys must be wrap keys, and the key beside its certificate the certificate's.

    :raises ConfigurationError: one is another.
    """
    for name, version in document.keys.items():
        with change.open(change.state.keys[name, version]) as value:
            if len(value) != KEY_SIZE:
                raise ConfigurationError(
                    f"version {version} of {name} is no wrap key", hint="Private keys for TLS go into the section tls."
                )
    if document.tls is not None:
        _check_pair(change, document.tls.certificate, change.state.keys[document.tls.key, document.tls.key_version])


def _check_pair(change: Change, certificate: str, key: KeyVersion) -> None:
    own = x509.load_pem_x509_certificates(certificate.encode())[0]
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    try:
        with change.open(key) as pem:
            fits = _load(pem).public_key().public_bytes(*form) == own.public_key().public_bytes(*form)
    except (KeyFileError, ValueError, UnsupportedAlgorithm):
        fits = False
    if not fits:
        raise ConfigurationError(
            f"version {key.version} of {key.name} is not the private key of the grant's TLS certificate",
            hint="Put the enclaves' own certificate first, and import its key: `sealserve broker key import-tls`.",
        )


def _load(pem: Secret) -> PrivateKeyTypes:
    if len(pem) <= _LONGEST_PEM:
        try:
            return load_pem_private_key(bytes(pem.reveal()), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            pass  # not chained: the text of the error could quote the key
    raise KeyFileError("this is no private key in PEM without a password", hint="Give the certificate's private key.")
