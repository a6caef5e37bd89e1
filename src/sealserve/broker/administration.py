"""Administration of a broker's store: keys, policies, grants. The command line and the HTTPS interface use this class.

Every method that changes something is one transaction, which holds the change and its record in the audit chain: both
are on disk when it returns, or neither is. A method that would change nothing writes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sealserve.broker.key_kinds import KeyKind, check_kinds, check_value
from sealserve.broker.store import GrantDocument, KeyVersion, Store, StoredPolicy, StoreState
from sealserve.broker.store.change import Change
from sealserve.broker.store.documents import KEY_SIZE, ModelDocument, PreviousDocument, StoredGrant, check_name, now
from sealserve.errors import InputError
from sealserve.secret import Secret

DEFAULT_GRACE = timedelta(days=7)


class UnknownNameError(InputError):
    """There is no key, version, policy or grant of that name."""


class NameTakenError(InputError):
    """There is one of that name already."""


class InUseError(InputError):
    """Something else in the store refers to it."""


class NotConfirmedError(InputError):
    """What cannot be undone was not confirmed by typing the name again."""


class ChangedMeanwhileError(InputError):
    """It was changed by somebody else since the caller looked."""


class BrokerAdministration:
    """Keys, policies and grants. Safe for several threads.

    :param actor: who acts, for the audit chain, such as ``cli:root`` or ``admin:alice``.
    """

    def __init__(self, store: Store, *, actor: str) -> None:
        self._store = store
        self._actor = actor

    def state(self) -> StoreState:
        """Everything at one moment: keys, policies, grants, revision."""
        return self._store.load()

    # --- keys ---

    def create_key(self, name: str) -> KeyVersion:
        """A new key with a random value, version 1.

        :raises NameTakenError: there is a key of that name; :meth:`rotate_key` makes its next version.
        """
        with self._store.changing(self._actor) as change:
            if change.state.versions(name):
                raise NameTakenError(
                    f"there is a key named {name}", hint="`broker key rotate` makes a new version of it."
                )
            return _add_version(change, "key-create", name, 1, Secret(os.urandom(KEY_SIZE)))

    def rotate_key(self, name: str) -> KeyVersion:
        """A new random version of a key. Nothing changes for enclaves until a grant names it.

        :raises UnknownNameError: there is no such key.
        """
        with self._store.changing(self._actor) as change:
            latest = _versions(change.state, name)[-1].version
            return _add_version(change, "key-rotate", name, latest + 1, Secret(os.urandom(KEY_SIZE)))

    def import_key(self, name: str, value: Secret, *, version: int | None = None, kind: KeyKind = "wrap") -> KeyVersion:
        """A key, or its next version, with a value that was made elsewhere.

        :param value: 16 bytes; a private key in PEM for the kind ``tls``. :param version: the next one if not given.
        :raises KeyFileError: the value is none. :raises NameTakenError: the version is not a later one.
        """
        check_value(value, kind)
        with self._store.changing(self._actor) as change:
            latest = max((key.version for key in change.state.versions(name)), default=0)
            if version is not None and version <= latest:
                raise NameTakenError(f"the key {name} has version {latest} already", hint="Numbers only grow.")
            return _add_version(change, "key-import", name, version or latest + 1, Secret(value.reveal()))

    def ensure_key(self, name: str, value: Secret, *, kind: KeyKind = "wrap") -> KeyVersion:
        """The version of a key that has this value; imported as the next one if the latest has another."""
        state = self._store.load()
        versions = state.versions(name)
        if versions and versions[-1].releasable():
            with self._store.value(versions[-1]) as present:
                if present == value:
                    return versions[-1]
        return self.import_key(name, value, kind=kind)

    def retire_key(
        self, name: str, version: int, *, grace: timedelta = DEFAULT_GRACE, force: bool = False
    ) -> KeyVersion:
        """End the use of a version: after the grace period it is not released any more.

        It can be called again, for an earlier or a later end.

        :param force: even if a grant names the version now, whose enclaves will be refused then.
        :raises UnknownNameError: there is no such version. :raises InUseError: a grant names it now.
        """
        with self._store.changing(self._actor) as change:
            key = _key(change.state, name, version)
            _require_unused(change.state, key, force=force)
            if key.destroyed is not None:
                raise UnknownNameError(f"version {version} of the key {name} is destroyed")
            retired = replace(key, retires=now() + grace)
            _record_key(change, "key-retire", retired, retires=retired.retires and retired.retires.isoformat())
            return change.put_key(retired)

    def destroy_key(self, name: str, version: int, *, confirmation: str, force: bool = False) -> KeyVersion:
        """Delete the value of a version for ever. What was sealed under it alone can never be opened again.

        :param confirmation: ``name``, typed again. :param force: even if a grant names the version.
        :raises NotConfirmedError: the confirmation is another. :raises InUseError: a grant needs it.
        """
        if confirmation != name:
            raise NotConfirmedError(
                f"destroying a version of the key {name} cannot be undone, and was not confirmed",
                hint=f"Give the key's name again: --yes {name}.",
            )
        with self._store.changing(self._actor) as change:
            key = _key(change.state, name, version)
            if key.destroyed is not None:
                return key
            _require_unused(change.state, key, force=force)
            if not force and key.releasable() and (users := change.state.grants_before(name, version)):
                what = f"version {version} of the key {name} still opens what grants named before: {', '.join(users)}"
                raise InUseError(what, hint="Retire it and wait until its grace period is over, or force it.")
            _record_key(change, "key-destroy", key)
            return change.put_key(replace(key, destroyed=now(), sealed=None))

    def key_versions(self) -> list[KeyVersion]:
        """All versions of all keys, by name and version."""
        state = self._store.load()
        return [state.keys[key] for key in sorted(state.keys)]

    def key_value(self, name: str, version: int | None = None, *, purpose: str) -> tuple[KeyVersion, Secret]:
        """A version and its value, for its owner. That it was given out is recorded first.

        :param version: the latest one that is active if not given. :param purpose: for the audit chain.
        :raises UnknownNameError: there is none. :raises InUseError: it is destroyed.
        """
        state = self._store.load()
        versions = _versions(state, name)
        if version is None:
            active = [key for key in versions if key.state() == "active"]
            if not active:
                raise UnknownNameError(f"no version of the key {name} is active", hint="`broker key rotate` makes one.")
            key = active[-1]
        else:
            key = _key(state, name, version)
        if key.sealed is None:
            raise UnknownNameError(f"version {key.version} of the key {name} is destroyed")
        record = {"event": "key-used", "purpose": purpose, "actor": self._actor, "key": name, "version": key.version}
        value = self._store.value(key)
        self._store.append_audit([record])
        return key, value

    # --- policies ---

    def put_policy(self, policy: StoredPolicy, *, expected_revision: int | None = None) -> StoredPolicy:
        """Write a policy (:meth:`StoredPolicy.from_file`, :meth:`StoredPolicy.from_text`).

        :param expected_revision: its revision when the caller looked; 0 if there was none.
        :raises ChangedMeanwhileError: it has another.
        """
        with self._store.changing(self._actor) as change:
            present = change.state.policies.get(policy.name)
            _require_revision(present.revision if present else 0, expected_revision)
            if present is not None and (present.text, present.trust_root) == (policy.text, policy.trust_root):
                return present
            change.record("policy-put", policy=policy.name, text=policy.text, trust_root=policy.trust_root)
            return change.put_policy(policy)

    def policy(self, name: str) -> StoredPolicy:
        """A policy. :raises UnknownNameError: there is none of that name."""
        return _policy(self._store.load(), name)

    def policies(self) -> list[StoredPolicy]:
        """All policies, by name."""
        return [policy for _, policy in sorted(self._store.load().policies.items())]

    def delete_policy(self, name: str) -> None:
        """Remove a policy.

        :raises UnknownNameError: there is none. :raises InUseError: a grant names it.
        """
        with self._store.changing(self._actor) as change:
            _policy(change.state, name)
            if users := [g.deployment for g in change.state.grants.values() if g.document.policy == name]:
                problem = f"the policy {name} is named by grants: {', '.join(sorted(users))}"
                raise InUseError(problem, hint="Put these grants with another policy, or delete them first.")
            change.record("policy-delete", policy=name)
            change.delete_policy(name)

    # --- grants ---

    def put_grant(self, document: GrantDocument, *, expected_revision: int | None = None) -> StoredGrant:
        """Write a grant as it is given.

        :raises UnknownNameError: it names a policy or a key version that does not exist.
        :raises InUseError: it names a key version that is retired or destroyed.
        :raises ChangedMeanwhileError: it has another revision than expected.
        """
        with self._store.changing(self._actor) as change:
            return _put_grant(change, document, expected_revision)

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
        """Move a grant to another sealed model, another key version, or both, at one moment.

        What it named before is kept as ``previous``: replicas that do not find the new one in their storage yet may
        open it until its key version is retired.

        :param digest: of the sealed model, 32 bytes. :param key_version: as before if not given.
        :param keep_previous: false if what was served before must not be served any more.
        """
        with self._store.changing(self._actor) as change:
            old = _grant(change.state, deployment).document
            model = old.model.model_copy(update={"digest": digest.hex(), "version": model_version or old.model.version})
            version = key_version or old.keys[old.model.key]
            if (model, version) == (old.model, old.keys[old.model.key]):
                previous = old.previous if keep_previous else None
            else:
                previous = _previous(old.model, old.keys[old.model.key]) if keep_previous else None
            values = old.model_dump() | {
                "model": model.model_dump(),
                "keys": {**old.keys, old.model.key: version},
                "previous": previous and previous.model_dump(),
            }
            return _put_grant(change, GrantDocument.model_validate(values), expected_revision)

    def grant(self, deployment: str) -> StoredGrant:
        """A grant. :raises UnknownNameError: there is none for the deployment."""
        return _grant(self._store.load(), deployment)

    def grants(self) -> list[StoredGrant]:
        """All grants, by deployment."""
        return [grant for _, grant in sorted(self._store.load().grants.items())]

    def delete_grant(self, deployment: str) -> None:
        """Remove a grant: its enclaves are refused from now on. :raises UnknownNameError: there is none."""
        with self._store.changing(self._actor) as change:
            _grant(change.state, deployment)
            change.record("grant-delete", deployment=deployment)
            change.delete_grant(deployment)


def _add_version(change: Change, action: str, name: str, version: int, value: Secret) -> KeyVersion:
    with value:
        key = KeyVersion(check_name(name), version, created=now(), sealed=change.seal(name, version, value))
    _record_key(change, action, key)
    return change.put_key(key)


def _record_key(change: Change, action: str, key: KeyVersion, **fields: Any) -> None:
    change.record(action, key=key.name, version=key.version, **fields)


def _put_grant(change: Change, document: GrantDocument, expected_revision: int | None) -> StoredGrant:
    present = change.state.grants.get(document.deployment)
    _require_revision(present.revision if present else 0, expected_revision)
    if present is not None and present.document == document:
        return present
    _policy(change.state, document.policy)
    for name, version in sorted(document.key_versions):
        _require_releasable(_key(change.state, name, version))
    check_kinds(change, document)
    if document.previous is not None:
        _key(change.state, document.previous.model.key, document.previous.key_version)
    change.record("grant-put", deployment=document.deployment, grant=document.as_dict())
    return change.put_grant(document)


def _previous(model: ModelDocument, key_version: int) -> PreviousDocument:
    return PreviousDocument(model=model, key_version=key_version)


def _versions(state: StoreState, name: str) -> Sequence[KeyVersion]:
    versions = state.versions(name)
    if not versions:
        raise UnknownNameError(
            f"there is no key named {name}", hint=_known({key.name: key for key in state.keys.values()})
        )
    return versions


def _key(state: StoreState, name: str, version: int) -> KeyVersion:
    for key in _versions(state, name):
        if key.version == version:
            return key
    raise UnknownNameError(f"the key {name} has no version {version}", hint="`broker key list` shows them.")


def _policy(state: StoreState, name: str) -> StoredPolicy:
    if name not in state.policies:
        raise UnknownNameError(f"there is no policy named {name}", hint=_known(state.policies))
    return state.policies[name]


def _grant(state: StoreState, deployment: str) -> StoredGrant:
    if deployment not in state.grants:
        raise UnknownNameError(f"there is no grant for a deployment named {deployment}", hint=_known(state.grants))
    return state.grants[deployment]


def _known(names: Mapping[str, object]) -> str:
    return f"The store has: {', '.join(sorted(names)) or 'none'}."


def _require_unused(state: StoreState, key: KeyVersion, *, force: bool) -> None:
    if not force and (users := state.grants_with(key.name, key.version)):
        raise InUseError(
            f"version {key.version} of the key {key.name} is what grants name now: {', '.join(sorted(users))}",
            hint="Switch them to another version first (`broker grant switch`), or force it if enclaves must lose it.",
        )


def _require_releasable(key: KeyVersion) -> None:
    if not key.releasable():
        raise InUseError(f"version {key.version} of the key {key.name} is {key.state()} and cannot be granted")


def _require_revision(present: int, expected: int | None) -> None:
    if expected is not None and expected != present:
        raise ChangedMeanwhileError(
            f"it was changed meanwhile: it has revision {present}, not {expected}", hint="Look again, then change it."
        )
