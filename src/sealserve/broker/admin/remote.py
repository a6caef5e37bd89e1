"""Administration of a broker over HTTPS: what :class:`BrokerAdministration` and :class:`AuditReader` do.

Nothing is tried twice: whether a change was made is for its caller to look at.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import ValidationError

from sealserve.broker.admin.connection import AdministrationUnavailableError, Connection
from sealserve.broker.administration import DEFAULT_GRACE
from sealserve.broker.audit import AuditSummary, verify_chain
from sealserve.broker.audit_reading import AuditFilter, Page
from sealserve.broker.key_kinds import KeyKind
from sealserve.broker.store import GrantDocument, KeyVersion, StoredPolicy
from sealserve.broker.store.documents import StoredGrant
from sealserve.files import PRIVATE, atomic_writer
from sealserve.secret import Secret

_LONG_SECONDS = 600.0


class RemoteAdministration:
    """Keys, policies and grants of the broker at a connection."""

    def __init__(self, connection: Connection) -> None:
        self._call = connection.call

    # --- keys ---

    def create_key(self, name: str) -> KeyVersion:
        """See :meth:`BrokerAdministration.create_key`."""
        return _key(self._call("POST", "/v1/keys", {"name": name}))

    def rotate_key(self, name: str) -> KeyVersion:
        """See :meth:`BrokerAdministration.rotate_key`."""
        return _key(self._call("POST", f"{_path('keys', name)}/rotate"))

    def import_key(self, name: str, value: Secret, *, version: int | None = None, kind: KeyKind = "wrap") -> KeyVersion:
        """See :meth:`BrokerAdministration.import_key`."""
        body = {"value": base64.b64encode(value.reveal()).decode(), "version": version, "kind": kind}
        return _key(self._call("POST", f"{_path('keys', name)}/import", body))

    def retire_key(
        self, name: str, version: int, *, grace: timedelta = DEFAULT_GRACE, force: bool = False
    ) -> KeyVersion:
        """See :meth:`BrokerAdministration.retire_key`."""
        body = {"grace_hours": grace / timedelta(hours=1), "force": force}
        return _key(self._call("POST", f"{_path('keys', name)}/versions/{version}/retire", body))

    def destroy_key(self, name: str, version: int, *, confirmation: str, force: bool = False) -> KeyVersion:
        """See :meth:`BrokerAdministration.destroy_key`."""
        body = {"confirm": confirmation, "force": force}
        return _key(self._call("POST", f"{_path('keys', name)}/versions/{version}/destroy", body))

    def key_versions(self) -> list[KeyVersion]:
        """All versions of all keys, by name and version."""
        return [_key(item) for item in self._call("GET", "/v1/keys")["items"]]

    # --- policies ---

    def put_policy(self, policy: StoredPolicy, *, expected_revision: int | None = None) -> StoredPolicy:
        """See :meth:`BrokerAdministration.put_policy`."""
        body = {"text": policy.text, "trust_root": policy.trust_root}
        return _policy(self._call("PUT", _path("policies", policy.name), body, expected_revision))

    def policy(self, name: str) -> StoredPolicy:
        """A policy."""
        return _policy(self._call("GET", _path("policies", name)))

    def policies(self) -> list[StoredPolicy]:
        """All policies, by name."""
        return [_policy(item) for item in self._call("GET", "/v1/policies")["items"]]

    def delete_policy(self, name: str) -> None:
        """See :meth:`BrokerAdministration.delete_policy`."""
        self._call("DELETE", _path("policies", name))

    # --- grants ---

    def put_grant(self, document: GrantDocument, *, expected_revision: int | None = None) -> StoredGrant:
        """See :meth:`BrokerAdministration.put_grant`."""
        return _grant(self._call("PUT", _path("grants", document.deployment), document.as_dict(), expected_revision))

    def switch_grant(
        self,
        deployment: str,
        *,
        digest: bytes,
        key_version: int | None = None,
        model_version: int | None = None,
        keep_previous: bool = True,
        expected_revision: int | None = None,
    ) -> StoredGrant:
        """See :meth:`BrokerAdministration.switch_grant`."""
        body = {
            "digest": digest.hex(),
            "key_version": key_version,
            "model_version": model_version,
            "keep_previous": keep_previous,
        }
        return _grant(self._call("POST", f"{_path('grants', deployment)}/switch", body, expected_revision))

    def grant(self, deployment: str) -> StoredGrant:
        """A grant."""
        return _grant(self._call("GET", _path("grants", deployment)))

    def grants(self) -> list[StoredGrant]:
        """All grants, by deployment."""
        return [_grant(item) for item in self._call("GET", "/v1/grants")["items"]]

    def delete_grant(self, deployment: str) -> None:
        """See :meth:`BrokerAdministration.delete_grant`."""
        self._call("DELETE", _path("grants", deployment))


class RemoteAudit:
    """The audit log of the broker at a connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._call = connection.call
        self.name = connection.name

    def latest(self, wanted: AuditFilter, *, before: int | None = None, limit: int = 100) -> Page:
        """See :meth:`AuditReader.latest`."""
        return self._page(wanted, before=before, limit=limit)

    def following(self, wanted: AuditFilter, *, after: int, limit: int = 100) -> Page:
        """See :meth:`AuditReader.following`."""
        return self._page(wanted, after=after, limit=limit)

    def head(self) -> tuple[int, str]:
        """Number and hash of the last record."""
        found = self._call("GET", "/v1/audit/head")
        return found["records"], found["head"]

    def verify(self, *, must_contain: str | None = None) -> AuditSummary:
        """Have the broker check the whole chain."""
        return AuditSummary(
            **self._call("GET", "/v1/audit/verify", query={"head": must_contain}, seconds=_LONG_SECONDS)
        )

    def checkpoint(self) -> tuple[int, str]:
        """See :meth:`AuditReader.checkpoint`."""
        found = self._call("POST", "/v1/audit/checkpoint")
        return found["records"], found["head"]

    def export(self, path: Path) -> AuditSummary:
        """Have the broker sign the chain's end, then fetch the chain, verify it here and write it to a file."""
        self.checkpoint()
        key = self.public_key
        with atomic_writer(path, mode=PRIVATE) as file:

            def written() -> Iterator[bytes]:
                for line in self._connection.lines("/v1/audit/export"):
                    file.write(line + b"\n")
                    yield line

            return verify_chain(written(), public_key=key)

    @property
    def public_key(self) -> Ed25519PublicKey:
        """What verifies the checkpoints, as the broker says."""
        text = str(self._call("GET", "/v1/audit/public-key")["public_key"])
        try:
            key = load_pem_public_key(text.encode())
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PublicKey):
            raise AdministrationUnavailableError(f"{self.name} gives no key that verifies its audit log")
        return key

    def _page(self, wanted: AuditFilter, **place: int | None) -> Page:
        query = wanted.model_dump(mode="json", exclude_none=True) | place
        found = self._call("GET", "/v1/audit", query=query)
        return Page(found["items"], found["next"])


def _path(kind: str, name: str) -> str:
    return f"/v1/{kind}/{quote(name, safe='')}"


def _key(value: dict[str, Any]) -> KeyVersion:
    return KeyVersion.from_dict(value)


def _policy(value: dict[str, Any]) -> StoredPolicy:
    return StoredPolicy(value["name"], value["text"], value["trust_root"], value["revision"])


def _grant(value: dict[str, Any]) -> StoredGrant:
    try:
        document = GrantDocument.model_validate({k: v for k, v in value.items() if k != "revision"})
    except ValidationError as error:
        raise AdministrationUnavailableError("the broker gives a grant that this program cannot read") from error
    return StoredGrant(document, value["revision"])
