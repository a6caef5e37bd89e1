"""From when to when a part of the evidence is valid."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509


@dataclass(frozen=True)
class Validity:
    """A period of validity, both ends included.

    :param part: the name of what is valid, for people.
    """

    part: str
    not_before: datetime
    not_after: datetime

    @classmethod
    def of(cls, certificate: x509.Certificate, part: str) -> Validity:
        """The validity of a certificate."""
        return cls(part, certificate.not_valid_before_utc, certificate.not_valid_after_utc)
