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

    def as_dict(self) -> dict[str, str]:
        """A JSON-ready form, times in RFC 3339."""
        return {
            "part": self.part,
            "not_before": self.not_before.isoformat(),
            "not_after": self.not_after.isoformat(),
        }

    @classmethod
    def of(cls, certificate: x509.Certificate, part: str) -> Validity:
        """The validity of a certificate."""
        return cls(part, certificate.not_valid_before_utc, certificate.not_valid_after_utc)
