"""The API's operations: what each route does, who may call it, and what it takes. Served by ``app.py``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from sealserve import __version__
from sealserve.broker.admin.bodies import (
    AuditQuery,
    DestroyBody,
    ImportBody,
    KeyBody,
    NoQuery,
    PolicyBody,
    RetireBody,
    SwitchBody,
    VerifyQuery,
)
from sealserve.broker.admin.fleet import Fleet
from sealserve.broker.administration import BrokerAdministration, UnknownNameError
from sealserve.broker.audit_export import public_key_pem
from sealserve.broker.audit_reading import AuditFilter, AuditReader
from sealserve.broker.grants import LiveGrants
from sealserve.broker.store import GrantDocument, Store, StoredPolicy
from sealserve.broker.store.tokens import Role
from sealserve.errors import InputError


@dataclass(frozen=True)
class Call:
    """One request, checked.

    :param path: the path's parameters. :param body: of the operation's model; none if it has none.
    :param query: of the operation's model. :param expected_revision: what the caller wants to change.
    """

    store: Store
    grants: LiveGrants
    fleet: Fleet
    actor: str
    path: Mapping[str, str]
    body: Any
    query: Any
    expected_revision: int | None

    @property
    def administration(self) -> BrokerAdministration:
        """Changes in the caller's name."""
        return BrokerAdministration(self.store, actor=self.actor)

    @property
    def audit(self) -> AuditReader:
        """The audit log."""
        return AuditReader(self.store)


@dataclass(frozen=True)
class Operation:
    """A route.

    :param run: does it, in a thread that may wait; gives JSON-ready data.
    :param revised: its answer has a ``revision``, told as ETag, and ``If-Match`` is heeded.
    :param long: it takes as long as the audit log is long, so one runs at a time.
    """

    method: str
    path: str
    role: Role
    summary: str
    run: Callable[[Call], Any]
    body: type[BaseModel] | None = None
    query: type[BaseModel] = NoQuery
    status: int = 200
    revised: bool = False
    long: bool = False


def _items(found: Any) -> dict[str, Any]:
    return {"items": [item.as_dict() for item in found]}


def _status(call: Call) -> dict[str, Any]:
    sequence, head = call.audit.head()
    state = call.store.load()
    return {
        "version": __version__,
        "actor": call.actor,
        "revision": state.revision,
        "broker_revision": call.grants.revision,
        "audit": {"records": sequence, "head": head},
        "counts": {
            "keys": len({name for name, _ in state.keys}),
            "key_versions": len(state.keys),
            "policies": len(state.policies),
            "grants": len(state.grants),
        },
    }


def _fleet(call: Call) -> dict[str, Any]:
    after = call.fleet.update()
    state = call.store.load()
    collateral = [
        {"policy": name, "platform": platform, "expires": expires and expires.isoformat()}
        for name, policy in sorted({g.policy.name: g.policy for g in call.grants.current().values()}.items())
        for platform, expires in policy.collateral_expiry().items()
    ]
    return {
        "items": call.fleet.enclaves(state.grants),
        "minutes": call.fleet.per_minute(),
        "collateral": collateral,
        "audit_sequence": after,
    }


def _show_key(call: Call) -> dict[str, Any]:
    name = call.path["name"]
    found = [key for key in call.administration.key_versions() if key.name == name]
    if not found:
        raise UnknownNameError(f"there is no key named {name}")
    return {"name": name, "versions": [key.as_dict() for key in found]}


def _import(call: Call) -> dict[str, Any]:
    body: ImportBody = call.body
    with body.secret() as value:
        key = call.administration.import_key(call.path["name"], value, version=body.version, kind=body.kind)
    return key.as_dict()


def _retire(call: Call) -> dict[str, Any]:
    grace = timedelta(hours=call.body.grace_hours)
    name, version = call.path["name"], int(call.path["version"])
    return call.administration.retire_key(name, version, grace=grace, force=call.body.force).as_dict()


def _destroy(call: Call) -> dict[str, Any]:
    name, version = call.path["name"], int(call.path["version"])
    key = call.administration.destroy_key(name, version, confirmation=call.body.confirm, force=call.body.force)
    return key.as_dict()


def _put_policy(call: Call) -> dict[str, Any]:
    root = call.body.trust_root
    policy = StoredPolicy.from_text(call.path["name"], call.body.text, trust_root=root and root.encode())
    return call.administration.put_policy(policy, expected_revision=call.expected_revision).as_dict()


def _delete_policy(call: Call) -> dict[str, Any]:
    call.administration.delete_policy(call.path["name"])
    return {"deleted": call.path["name"]}


def _put_grant(call: Call) -> dict[str, Any]:
    document: GrantDocument = call.body
    if document.deployment != call.path["name"]:
        raise InputError(f"the grant is for {document.deployment}, and the path for {call.path['name']}")
    return call.administration.put_grant(document, expected_revision=call.expected_revision).as_dict()


def _switch(call: Call) -> dict[str, Any]:
    body: SwitchBody = call.body
    grant = call.administration.switch_grant(
        call.path["name"],
        digest=bytes.fromhex(body.digest),
        key_version=body.key_version,
        model_version=body.model_version,
        keep_previous=body.keep_previous,
        expected_revision=call.expected_revision,
    )
    return grant.as_dict()


def _delete_grant(call: Call) -> dict[str, Any]:
    call.administration.delete_grant(call.path["name"])
    return {"deleted": call.path["name"]}


def _audit(call: Call) -> dict[str, Any]:
    query: AuditQuery = call.query
    wanted = AuditFilter(**query.model_dump(include=set(AuditFilter.model_fields)))
    if query.after is not None:
        if query.before is not None:
            raise InputError("give before or after, not both")
        page = call.audit.following(wanted, after=query.after, limit=query.limit)
    else:
        page = call.audit.latest(wanted, before=query.before, limit=query.limit)
    return {"items": page.records, "next": page.next}


def _verify(call: Call) -> dict[str, Any]:
    return vars(call.audit.verify(must_contain=call.query.head))


def _head(call: Call) -> dict[str, Any]:
    records, head = call.audit.head()
    return {"records": records, "head": head}


def _checkpoint(call: Call) -> dict[str, Any]:
    records, head = call.audit.checkpoint()
    return {"records": records, "head": head}


_NAME = "{name:[A-Za-z0-9_.-]{1,64}}"
_VERSION = "{version:[1-9][0-9]{0,9}}"
_KEY = f"/v1/keys/{_NAME}"
_KEY_VERSION = f"{_KEY}/versions/{_VERSION}"
_POLICY = f"/v1/policies/{_NAME}"
_GRANT = f"/v1/grants/{_NAME}"

OPERATIONS: tuple[Operation, ...] = (
    Operation("GET", "/v1/status", "viewer", "The store's revision, the audit log's end, and who asks", _status),
    Operation("GET", "/v1/fleet", "viewer", "Enclaves that got keys lately, decisions a minute, collateral", _fleet),
    Operation(
        "GET", "/v1/keys", "viewer", "All versions of all keys", lambda c: _items(c.administration.key_versions())
    ),
    Operation(
        "POST",
        "/v1/keys",
        "operator",
        "Make a key with a random value",
        lambda c: c.administration.create_key(c.body.name).as_dict(),
        body=KeyBody,
        status=201,
    ),
    Operation("GET", _KEY, "viewer", "The versions of a key", _show_key),
    Operation(
        "POST",
        f"{_KEY}/rotate",
        "operator",
        "Make the next version of a key with a random value",
        lambda c: c.administration.rotate_key(c.path["name"]).as_dict(),
        status=201,
    ),
    Operation(
        "POST",
        f"{_KEY}/import",
        "operator",
        "Take a value over as a key's next version",
        _import,
        body=ImportBody,
        status=201,
    ),
    Operation("POST", f"{_KEY_VERSION}/retire", "operator", "End the use of a version", _retire, body=RetireBody),
    Operation(
        "POST", f"{_KEY_VERSION}/destroy", "operator", "Delete the value of a version", _destroy, body=DestroyBody
    ),
    Operation("GET", "/v1/policies", "viewer", "All policies", lambda c: _items(c.administration.policies())),
    Operation(
        "GET",
        _POLICY,
        "viewer",
        "A policy",
        lambda c: c.administration.policy(c.path["name"]).as_dict(),
        revised=True,
    ),
    Operation("PUT", _POLICY, "operator", "Write a policy", _put_policy, body=PolicyBody, revised=True),
    Operation("DELETE", _POLICY, "operator", "Remove a policy that no grant names", _delete_policy),
    Operation("GET", "/v1/grants", "viewer", "All grants", lambda c: _items(c.administration.grants())),
    Operation(
        "GET", _GRANT, "viewer", "A grant", lambda c: c.administration.grant(c.path["name"]).as_dict(), revised=True
    ),
    Operation("PUT", _GRANT, "operator", "Write a grant", _put_grant, body=GrantDocument, revised=True),
    Operation("DELETE", _GRANT, "operator", "Remove a grant", _delete_grant),
    Operation(
        "POST",
        f"{_GRANT}/switch",
        "operator",
        "Move a grant to another sealed model or key version",
        _switch,
        body=SwitchBody,
        revised=True,
    ),
    Operation("GET", "/v1/audit", "viewer", "Records of the audit log", _audit, query=AuditQuery),
    Operation("GET", "/v1/audit/head", "viewer", "The number and hash of the last record", _head),
    Operation("GET", "/v1/audit/verify", "viewer", "Check the whole audit log", _verify, query=VerifyQuery, long=True),
    Operation("POST", "/v1/audit/checkpoint", "operator", "Sign the audit log's end", _checkpoint),
    Operation(
        "GET",
        "/v1/audit/public-key",
        "viewer",
        "The key that verifies the audit log's checkpoints",
        lambda c: {"public_key": public_key_pem(c.audit.public_key).decode()},
    ),
)
