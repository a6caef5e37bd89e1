"""What is needed of X.509 certificates that strangers send."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

CERTIFICATE_ERRORS = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises on malformed certificates and lists: at once, or when a field is first looked at."""

SIMULATED_MARKER = "SIMULATED"
"""Stands in the subjects of a simulated platform's certificates, and makes them count as such."""

_NAME_LIMIT = 200


def display_name(name: x509.Name) -> str:
    """A distinguished name for people: bounded, and without characters that could play with a terminal or a log."""
    text = "".join(c if c.isprintable() else "?" for c in name.rfc4514_string())
    return text if len(text) <= _NAME_LIMIT else text[:_NAME_LIMIT] + "…"


def is_simulated(certificate: x509.Certificate) -> bool:
    """Whether a certificate's subject says that it belongs to a simulated platform."""
    return any(SIMULATED_MARKER in str(attribute.value).upper() for attribute in certificate.subject)
