"""Bearer tokens of administrators. The store knows the digest of a token, not the token.

A token is ``sealserve_ID_SECRET``: ID (12 hex digits) names it and is no secret, SECRET is 256 random bits, base64url.
With so much randomness a plain SHA-256 is as good a digest as a slow one. The prefix lets scanners of source code
find a token that somebody committed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

from sealserve.broker.store.documents import check_name, now
from sealserve.secret import Secret

Role = Literal["viewer", "operator"]
ROLES: tuple[Role, ...] = get_args(Role)
"""What somebody may do, the least first: read, and also change."""

TokenState = Literal["active", "expired", "revoked"]
_FORM = re.compile(rb"sealserve_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True)
class StoredToken:
    """What is known of a token.

    :param id: names it. :param name: whose it is. :param digest: SHA-256 of the secret part, in hex.
    """

    id: str
    name: str
    role: Role
    digest: str = field(repr=False)
    created: datetime
    expires: datetime
    revoked: datetime | None = None

    @classmethod
    def make(cls, name: str, role: Role, lifetime: timedelta) -> tuple[StoredToken, Secret]:
        """A new token: what is stored of it, and itself, which nobody can find out later.

        :raises ConfigurationError: the name is not one.
        """
        identifier, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        made = now()
        token = cls(identifier, check_name(name), role, _digest(secret.encode()), made, made + lifetime)
        return token, Secret(f"sealserve_{identifier}_{secret}".encode())

    def state(self, moment: datetime | None = None) -> TokenState:
        """Whether it is accepted now."""
        if self.revoked is not None:
            return "revoked"
        return "active" if (moment or now()) < self.expires else "expired"

    def is_secret(self, secret: bytes) -> bool:
        """Whether ``secret`` is this token's secret part; takes the same time whatever it is."""
        return hmac.compare_digest(_digest(secret), self.digest)

    def as_dict(self) -> dict[str, Any]:
        """For people and scripts: everything but the digest."""
        return {
            "id": self.id,
            "name": self.name,
            "role": self.role,
            "state": self.state(),
            "created": self.created.isoformat(),
            "expires": self.expires.isoformat(),
            "revoked": self.revoked and self.revoked.isoformat(),
        }


def split_token(text: bytes) -> tuple[str, bytes] | None:
    """The ID and the secret part of a token; none if ``text`` is no token."""
    match = _FORM.fullmatch(text)
    return None if match is None else (match[1].decode(), match[2])


def _digest(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()
