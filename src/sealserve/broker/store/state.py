"""Everything that decides who gets which key, as one value, and the seal over it.

The seal is an HMAC over the revision and every row. So a row that was changed, swapped, added or removed in the
database is found out when the state is read, and so is a mixture of two moments.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, select

from sealserve.broker.store import schema
from sealserve.broker.store.documents import GrantDocument, KeyVersion, StoredGrant, StoredPolicy
from sealserve.broker.store.errors import StoreTamperedError
from sealserve.broker.store.master_key import StoreCipher
from sealserve.broker.store.tokens import StoredToken
from sealserve.configuration import parse_yaml


@dataclass(frozen=True)
class StoreState:
    """What the store held at one revision."""

    revision: int
    keys: Mapping[tuple[str, int], KeyVersion]
    policies: Mapping[str, StoredPolicy]
    grants: Mapping[str, StoredGrant]
    tokens: Mapping[str, StoredToken]

    def versions(self, name: str) -> list[KeyVersion]:
        """The versions of a key, the oldest first; none if there is no such key."""
        return [key for (known, _), key in sorted(self.keys.items()) if known == name]

    def grants_with(self, name: str, version: int) -> list[str]:
        """The deployments that are granted this version of a key now."""
        return [d for d, grant in self.grants.items() if (name, version) in grant.document.key_versions]

    def grants_before(self, name: str, version: int) -> list[str]:
        """The deployments whose replicas may still open what they served before with this version of a key."""
        before = {d: grant.document.previous for d, grant in self.grants.items()}
        return [d for d, one in before.items() if one and (one.model.key, one.key_version) == (name, version)]


def read_rows(connection: Connection) -> list[list[Any]]:
    """All rows that decide, in a fixed order, as JSON-ready values; sealed keys by their digests."""
    rows: list[list[Any]] = []
    for table in (schema.keys, schema.policies, schema.grants, schema.tokens):
        found = connection.execute(select(table).order_by(*table.primary_key.columns)).all()
        # Sorted here too: databases do not agree on the order of text.
        rows += sorted(([table.name, *(_plain(value) for value in row)] for row in found), key=json.dumps)
    return rows


def _plain(value: Any) -> Any:
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes | memoryview) else value


def seal(connection: Connection, cipher: StoreCipher, revision: int) -> str:
    """The seal over what the tables hold now."""
    return cipher.mac("state", json.dumps([revision, read_rows(connection)], separators=(",", ":")).encode())


def read_state(connection: Connection, cipher: StoreCipher, row: Row[Any]) -> StoreState:
    """The state at this moment.

    :param row: of the table ``store``.
    :raises StoreTamperedError: it is not what an administration wrote.
    """
    if not hmac.compare_digest(seal(connection, cipher, row.revision), row.state_mac):
        raise StoreTamperedError(
            "keys, policies or grants in the store were changed by somebody without the master key",
            hint="Restore the database from a backup, and find out who wrote to it.",
        )
    keys = [_key(found) for found in connection.execute(select(schema.keys))]
    policies = [StoredPolicy(*found) for found in connection.execute(select(schema.policies))]
    grants = [_grant(found) for found in connection.execute(select(schema.grants))]
    tokens = [_token(found) for found in connection.execute(select(schema.tokens))]
    return StoreState(
        revision=row.revision,
        keys={(key.name, key.version): key for key in keys},
        policies={policy.name: policy for policy in policies},
        grants={grant.deployment: grant for grant in grants},
        tokens={token.id: token for token in tokens},
    )


def _key(row: Row[Any]) -> KeyVersion:
    return KeyVersion(
        name=row.name,
        version=row.version,
        created=datetime.fromisoformat(row.created),
        retires=row.retires and datetime.fromisoformat(row.retires),
        destroyed=row.destroyed and datetime.fromisoformat(row.destroyed),
        sealed=row.sealed and bytes(row.sealed),
    )


def _grant(row: Row[Any]) -> StoredGrant:
    return StoredGrant(parse_yaml(row.text, GrantDocument, path=Path(f"{row.deployment}.yaml")), row.revision)


def _token(row: Row[Any]) -> StoredToken:
    return StoredToken(
        id=row.id,
        name=row.name,
        role=row.role,
        digest=row.digest,
        created=datetime.fromisoformat(row.created),
        expires=datetime.fromisoformat(row.expires),
        revoked=row.revoked and datetime.fromisoformat(row.revoked),
    )
