"""Grants as a running broker holds them: policies read, keys in memory, and kept up with the store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sealserve.broker.grant import ModelGrant, ReleasedKey
from sealserve.broker.store import KeyVersion, Store, StoredPolicy, StoreState, StoreUnavailableError
from sealserve.broker.store.documents import ModelDocument, StoredGrant, TlsDocument, Version1Document
from sealserve.errors import MachineError, PolicyRefusedError, SealserveError
from sealserve.evidence import AppraisalPolicy
from sealserve.logs import event, get_logger
from sealserve.secret import Secret

_log = get_logger(__name__)
POLL_SECONDS = 0.5


class GrantsUnavailableError(MachineError):
    """The store cannot be trusted or understood now, so nothing can be granted."""


class KeyNotReleasedError(PolicyRefusedError):
    """The grant names a key version that is retired or destroyed."""


@dataclass(frozen=True)
class HeldKey:
    """A version of a key; without its value if it may not be released any more."""

    key: KeyVersion
    value: Secret | None = field(repr=False)

    def release(self, moment: datetime | None = None) -> ReleasedKey:
        """The key, for an enclave.

        :raises KeyNotReleasedError: it is retired or destroyed.
        """
        if self.value is None or not self.key.releasable(moment):
            raise KeyNotReleasedError(
                f"version {self.key.version} of the key {self.key.name} is {self.key.state(moment)}",
                hint="Switch the grant to another version: `sealserve broker grant switch`.",
            )
        return ReleasedKey(self.key.name, self.key.version, self.value)


@dataclass(frozen=True)
class HeldTls:
    """A certificate chain in PEM, its private key in PEM, and who signs the clients' certificates, if they need one."""

    certificate: str
    key: HeldKey = field(repr=False)
    client_authority: str | None = None


@dataclass(frozen=True)
class HeldGrant:
    """Which enclaves (``policy``) get what.

    :param revision: grows when the grant is changed. :param refresh_seconds: how often replicas are to ask again.
    :param previous: what the grant named before, and the key that opens it.
    :param tls: what the enclaves serve TLS with, if the owner made it.
    """

    deployment: str
    revision: int
    policy: AppraisalPolicy
    keys: Mapping[str, HeldKey] = field(repr=False)
    model: ModelGrant
    previous: tuple[ModelGrant, HeldKey] | None
    arguments: Mapping[str, str]
    refresh_seconds: int
    version_1: Version1Document | None
    tls: HeldTls | None = field(default=None, repr=False)

    @property
    def tls_key(self) -> tuple[str, int] | None:
        """Name and version of the TLS certificate's private key."""
        return None if self.tls is None else (self.tls.key.key.name, self.tls.key.key.version)

    def version_1_secret(self) -> Secret:
        """The bytes that protocol version 1 sends.

        :raises KeyNotReleasedError: the key is retired or destroyed.
        """
        if self.version_1 is None:
            raise ValueError("this grant is not for protocol version 1")
        value = self.keys[self.version_1.key].release().value.reveal()
        return Secret(value) if self.version_1.encoding == "raw" else Secret(value.hex().encode() + b"\0")


class LiveGrants:
    """The grants of a store, brought up to date by :meth:`watch`.

    When the store was changed by somebody without its master key, nothing is granted until it is right again.

    :raises SealserveError: the store cannot be read, or was changed.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._policies: dict[tuple[str, str | None], AppraisalPolicy] = {}
        self._failure: SealserveError | None = None
        self._mark: tuple[int, str] | None = None
        self._grants: dict[str, HeldGrant] = {}
        self._state: StoreState
        self.revision = 0
        self._load(store.mark())

    def current(self) -> Mapping[str, HeldGrant]:
        """By deployment.

        :raises GrantsUnavailableError: the store was changed and cannot be trusted.
        """
        if self._failure is not None:
            raise GrantsUnavailableError(
                f"nothing can be granted: {self._failure.message}", hint=self._failure.hint
            ) from self._failure
        return self._grants

    @property
    def state(self) -> StoreState:
        """What the store held when it was read last.

        :raises GrantsUnavailableError: the store was changed and cannot be trusted.
        """
        self.current()
        return self._state

    async def watch(self) -> None:
        """Follow the store's changes until cancelled."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await asyncio.to_thread(self.refresh)

    def refresh(self) -> None:
        """Take over what was changed since. Raises nothing: what is wrong is logged, and raised by :meth:`current`."""
        try:
            mark = self._store.mark()
            if mark != self._mark or self._failure is not None:
                self._load(mark)
                self._failure = None
                event(_log, logging.INFO, "store-reloaded", revision=mark[0], deployments=list(self._grants))
        except StoreUnavailableError as error:
            # Nothing is released meanwhile: no decision can be recorded. What was loaded stays.
            _log.debug("the store cannot be asked for changes: %s", error)
        except SealserveError as error:
            if self._failure is None or self._failure.message != error.message:
                event(_log, logging.ERROR, "store-refused", reason=error.message, hint=error.hint)
            self._failure = error
        except Exception as error:  # noqa: BLE001 - a store that cannot be understood is not to be acted upon
            _log.exception("store-refused")
            self._failure = SealserveError(f"the store cannot be read: {type(error).__name__}")

    def _load(self, mark: tuple[int, str]) -> None:
        state = self._store.load()
        texts = {(policy.text, policy.trust_root): policy for policy in state.policies.values()}
        # A policy that did not change is kept, with what it has cached.
        self._policies = {text: self._policies.get(text) or policy.appraisal() for text, policy in texts.items()}
        self._grants = {deployment: self._hold(state, grant) for deployment, grant in state.grants.items()}
        self.revision, self._mark, self._state = state.revision, mark, state

    def _hold(self, state: StoreState, grant: StoredGrant) -> HeldGrant:
        document = grant.document
        policy: StoredPolicy = state.policies[document.policy]
        previous = document.previous
        return HeldGrant(
            deployment=document.deployment,
            revision=grant.revision,
            policy=self._policies[policy.text, policy.trust_root],
            keys={name: self._key(state, name, version) for name, version in document.keys.items()},
            model=_model(document.model),
            previous=None
            if previous is None
            else (_model(previous.model), self._key(state, previous.model.key, previous.key_version)),
            arguments=document.arguments,
            refresh_seconds=document.refresh_seconds,
            version_1=document.version_1,
            tls=None if document.tls is None else self._tls(state, document.tls),
        )

    def _tls(self, state: StoreState, document: TlsDocument) -> HeldTls:
        key = self._key(state, document.key, document.key_version)
        return HeldTls(document.certificate, key, document.client_authority)

    def _key(self, state: StoreState, name: str, version: int) -> HeldKey:
        key = state.keys[name, version]
        return HeldKey(key, self._store.value(key) if key.releasable() else None)


def _model(document: ModelDocument) -> ModelGrant:
    return ModelGrant(document.name, document.version, bytes.fromhex(document.digest), document.mount, document.key)
