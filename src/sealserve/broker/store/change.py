"""One change of the store, while its transaction is open."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, delete

from sealserve.broker.store import schema
from sealserve.broker.store.documents import GrantDocument, KeyVersion, StoredGrant, StoredPolicy
from sealserve.broker.store.master_key import StoreCipher
from sealserve.broker.store.state import StoreState
from sealserve.broker.store.tokens import StoredToken
from sealserve.secret import Secret


class Change:
    """What may be written, and what is recorded of it. Made by :meth:`Store.changing`.

    :ivar state: the store before the change; locked, so that it still is when the change is made.
    :ivar revision: the store's revision after the change. :ivar records: for the audit chain.
    """

    def __init__(self, connection: Connection, cipher: StoreCipher, state: StoreState, actor: str) -> None:
        self._connection = connection
        self._cipher = cipher
        self._actor = actor
        self.state = state
        self.revision = state.revision + 1
        self.records: list[dict[str, Any]] = []
        self.deletes = False

    def record(self, action: str, **fields: Any) -> None:
        """Say what was done, in JSON-ready fields without secrets. A change without a record changes nothing."""
        self.records.append(
            {"event": "change", "action": action, "actor": self._actor, "revision": self.revision, **fields}
        )

    def seal(self, name: str, version: int, value: Secret) -> bytes:
        """A key's value, encrypted for the store."""
        return self._cipher.seal("key", name, version, value)

    def open(self, key: KeyVersion) -> Secret:
        """A key's value."""
        if key.sealed is None:
            raise ValueError("the key is destroyed")
        return self._cipher.open("key", key.name, key.version, key.sealed)

    def put_key(self, key: KeyVersion) -> KeyVersion:
        """Write a version of a key."""
        self._delete(schema.keys, name=key.name, version=key.version)
        self._connection.execute(
            schema.keys.insert().values(
                name=key.name,
                version=key.version,
                created=key.created.isoformat(),
                retires=key.retires and key.retires.isoformat(),
                destroyed=key.destroyed and key.destroyed.isoformat(),
                sealed=key.sealed,
            )
        )
        self.deletes = self.deletes or key.sealed is None
        return key

    def put_policy(self, policy: StoredPolicy) -> StoredPolicy:
        """Write a policy."""
        values = {"text": policy.text, "trust_root": policy.trust_root, "revision": self.revision}
        table = schema.policies
        if policy.name in self.state.policies:
            self._connection.execute(table.update().where(table.c.name == policy.name).values(**values))
        else:
            self._connection.execute(table.insert().values(name=policy.name, **values))
        return StoredPolicy(policy.name, policy.text, policy.trust_root, self.revision)

    def put_grant(self, document: GrantDocument) -> StoredGrant:
        """Write a grant."""
        self._delete(schema.grants, deployment=document.deployment)
        self._connection.execute(
            schema.grants.insert().values(
                deployment=document.deployment,
                policy=document.policy,
                text=document.to_yaml(),
                revision=self.revision,
            )
        )
        return StoredGrant(document, self.revision)

    def put_token(self, token: StoredToken) -> StoredToken:
        """Write a token's description."""
        self._delete(schema.tokens, id=token.id)
        self._connection.execute(
            schema.tokens.insert().values(
                id=token.id,
                name=token.name,
                role=token.role,
                digest=token.digest,
                created=token.created.isoformat(),
                expires=token.expires.isoformat(),
                revoked=token.revoked and token.revoked.isoformat(),
            )
        )
        return token

    def delete_policy(self, name: str) -> None:
        """Remove a policy."""
        self._delete(schema.policies, name=name)

    def delete_grant(self, deployment: str) -> None:
        """Remove a grant."""
        self._delete(schema.grants, deployment=deployment)

    def _delete(self, table: Any, **key: Any) -> None:
        self._connection.execute(delete(table).where(*(table.c[name] == value for name, value in key.items())))
