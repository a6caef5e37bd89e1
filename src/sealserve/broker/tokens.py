"""Administrators' bearer tokens: made, listed and revoked by whoever has the store and its master key.

Not by way of the HTTPS interface: otherwise a token that was stolen could make others that outlive it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from sealserve.broker.administration import UnknownNameError
from sealserve.broker.store import Store
from sealserve.broker.store.documents import now
from sealserve.broker.store.tokens import Role, StoredToken
from sealserve.errors import ConfigurationError
from sealserve.secret import Secret

LONGEST_LIFETIME = timedelta(days=3660)


class TokenAdministration:
    """The tokens of a store.

    :param actor: who acts, for the audit chain.
    """

    def __init__(self, store: Store, *, actor: str) -> None:
        self._store = store
        self._actor = actor

    def create(self, name: str, role: Role, *, lifetime: timedelta) -> tuple[StoredToken, Secret]:
        """A new token, and what is stored of it. The token cannot be found out later.

        :param name: whose it is; several tokens may have the same. :raises ConfigurationError: name or lifetime is not
            usable.
        """
        if not timedelta(0) < lifetime <= LONGEST_LIFETIME:
            raise ConfigurationError("a token lasts more than no time, and ten years at most")
        token, secret = StoredToken.make(name, role, lifetime)
        with self._store.changing(self._actor) as change:
            change.record(
                "token-create", token=token.id, name=token.name, role=token.role, expires=token.expires.isoformat()
            )
            change.put_token(token)
        return token, secret

    def tokens(self) -> list[StoredToken]:
        """All tokens, the oldest first."""
        return sorted(self._store.load().tokens.values(), key=lambda token: token.created)

    def revoke(self, identifier: str) -> StoredToken:
        """End a token now. :raises UnknownNameError: there is none."""
        with self._store.changing(self._actor) as change:
            token = change.state.tokens.get(identifier)
            if token is None:
                raise UnknownNameError(
                    f"there is no token {identifier}", hint="`broker admin token list` shows the tokens' IDs."
                )
            if token.revoked is not None:
                return token
            change.record("token-revoke", token=token.id, name=token.name)
            return change.put_token(replace(token, revoked=now()))
