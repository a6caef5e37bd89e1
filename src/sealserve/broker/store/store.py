"""The store: opened with the master key, read as a whole, changed in transactions that are recorded."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import Connection, Row, select, update

from sealserve.broker.audit import AuditSummary, AuditUnavailableError, tampered, verify_chain
from sealserve.broker.store import audit_table, schema
from sealserve.broker.store.change import Change
from sealserve.broker.store.database import Database
from sealserve.broker.store.documents import KeyVersion
from sealserve.broker.store.errors import StoreError, StoreTamperedError, StoreUnavailableError
from sealserve.broker.store.master_key import MasterKeyPlace, StoreCipher
from sealserve.broker.store.state import StoreState, read_state, seal
from sealserve.secret import Secret

_SIGNING_KEY = ("audit signing key", "audit", 1)


@dataclass(frozen=True)
class StoreReport:
    """What a check of the whole store found. :param opened: how many key values were decrypted."""

    revision: int
    keys: int
    opened: int
    policies: int
    grants: int
    audit: AuditSummary


class Store:
    """An open store. Safe for several threads; several processes may have it open.

    :raises StoreMissingError: there is none. :raises StoreError: it is of another version.
    :raises WrongMasterKeyError: the master key is another's. :raises StoreTamperedError: it was changed.
    :raises StoreUnavailableError: the database cannot be reached.
    """

    def __init__(self, location: str, master_key: MasterKeyPlace) -> None:
        self._database = Database(location)
        self._master_key = master_key
        self._lock = threading.Lock()
        self._revision = self._sequence = 0
        with self._closing_on_error(), self._database.reading() as connection:
            schema.require_current(connection)
            row = _row(connection)
            self._cipher = self._fitting_cipher(row)
            self._signer = _signer(self._cipher, row)

    @classmethod
    def create(cls, location: str, master_key: MasterKeyPlace, *, actor: str) -> Store:
        """Open the store; make it, and its master key, if there is none; bring its tables up to date.

        :raises SealserveError: like :class:`Store`, and if something cannot be written.
        """
        database = Database(location, create=True)
        try:
            with database.writing() as connection:
                schema.migrate(connection)
                if connection.execute(select(schema.store)).one_or_none() is None:
                    _initialise(connection, master_key, actor)
        finally:
            database.close()
        return cls(location, master_key)

    @property
    def name(self) -> str:
        """For people: the path or URL of the database."""
        return self._database.name

    @property
    def public_key(self) -> Ed25519PublicKey:
        """What verifies the checkpoints of the audit chain."""
        return self._signer.public_key()

    # --- what decides ---

    def mark(self) -> tuple[int, str]:
        """What changes with every change: cheap to ask for.

        :raises StoreTamperedError: the store is at an earlier revision than it was.
        """
        seen = self._seen()
        with self._database.reading() as connection:
            row = _row(connection)
        self._never_backwards(seen, revision=row.revision)
        return row.revision, row.state_mac

    def load(self) -> StoreState:
        """Everything that decides, at this moment.

        :raises StoreTamperedError: somebody without the master key changed it, or put an earlier state back.
        """
        seen = self._seen()
        with self._database.reading() as connection:
            row = _row(connection)
            state = read_state(connection, self._fitting_cipher(row), row)
        self._never_backwards(seen, revision=state.revision)
        return state

    def value(self, key: KeyVersion) -> Secret:
        """A key's value.

        :raises StoreTamperedError: it was changed. :raises ValueError: it is destroyed.
        """
        if key.sealed is None:
            raise ValueError("the key is destroyed")
        return self._cipher.open("key", key.name, key.version, key.sealed)

    @contextlib.contextmanager
    def changing(self, actor: str) -> Iterator[Change]:
        """A change: what the block does and records is on disk, all of it, when the block has ended.

        :param actor: who changes, for the audit chain.
        """
        seen = self._seen()
        with self._database.writing() as connection:
            row = _row(connection, lock=True)
            cipher = self._fitting_cipher(row)
            change = Change(connection, cipher, read_state(connection, cipher, row), actor)
            yield change
            if change.records:
                mac = seal(connection, cipher, change.revision)
                connection.execute(update(schema.store).values(revision=change.revision, state_mac=mac))
                ends = audit_table.append(connection, self._signer, change.records, checkpoint=True)
            else:
                connection.rollback()
        if change.records:
            self._never_backwards(seen, revision=change.revision, sequence=ends[-1][0])
        if change.deletes:
            self._database.forget_deleted()

    def rewrap(self, actor: str) -> None:
        """Move the store to the master key in ``….next``, which is made if it is missing.

        Both keys must stay until every broker has seen the change; then the new one takes the old one's place.
        """
        with self._master_key.make_next() as master, self._database.writing() as connection:
            row = _row(connection, lock=True)
            old, new = self._fitting_cipher(row), StoreCipher(master, row.store_id)
            state = read_state(connection, old, row)
            for key in state.keys.values():
                if key.sealed is not None:
                    with old.open("key", key.name, key.version, key.sealed) as value:
                        _reseal(connection, key, new.seal("key", key.name, key.version, value))
            with old.open(*_SIGNING_KEY, row.signing_key) as value:
                signing_key = new.seal(*_SIGNING_KEY, value)
            revision = state.revision + 1
            connection.execute(
                update(schema.store).values(
                    check_value=new.check(),
                    signing_key=signing_key,
                    revision=revision,
                    state_mac=seal(connection, new, revision),
                )
            )
            record = {"event": "change", "action": "store-rewrap", "actor": actor, "revision": revision}
            audit_table.append(connection, self._signer, [record], checkpoint=True)
        self._database.forget_deleted()

    def finish_rewrap(self) -> None:
        """Put the new master key in the old one's place, here on this machine.

        :raises StoreError: the store is not encrypted under the key in ``….next``.
        """
        with self._database.reading() as connection:
            row = _row(connection)
        place = self._master_key
        if not place.next.exists():
            hint = "After rewrap and --finish all is done; else run it without --finish first."
            raise StoreError(f"there is no {place.next}: the key in use is {place.path}", hint=hint)
        if not place.next_fits(row.store_id, row.check_value):
            hint = "Run `sealserve broker store rewrap` without --finish first, with the same file on every machine."
            raise StoreError(f"{place.next} is not the key that the store is encrypted under", hint=hint)
        place.use_next()

    # --- the audit chain ---

    def append_audit(self, records: Sequence[Mapping[str, Any]], *, checkpoint: bool = False) -> list[tuple[int, str]]:
        """Add records to the chain; they are on disk when this returns.

        :returns: number and hash of each.
        :raises AuditUnavailableError: they are not. :raises AuditTamperedError: the chain was changed.
        """
        seen = self._seen()
        try:
            with self._database.writing() as connection:
                ends = audit_table.append(connection, self._signer, records, checkpoint=checkpoint)
        except StoreUnavailableError as error:
            raise AuditUnavailableError(f"the audit log cannot be written: {error.message}", hint=error.hint) from error
        if ends:
            self._never_backwards(seen, sequence=ends[-1][0])
        return ends

    @contextlib.contextmanager
    def audit_lines(self, *, after: int = 0, limit: int | None = None) -> Iterator[Iterator[bytes]]:
        """The chain's lines as they are at this moment, without newlines."""
        with self._database.reading() as connection:
            yield audit_table.lines(connection, after=after, limit=limit)

    def last_audit_lines(self, count: int) -> Sequence[bytes]:
        """The last lines of the chain, the oldest first."""
        with self._database.reading() as connection:
            return audit_table.last_lines(connection, count)

    def decision_line(self, decision: str) -> bytes | None:
        """The line of a decision."""
        with self._database.reading() as connection:
            return audit_table.decision_line(connection, decision)

    def audit_head(self) -> tuple[int, str]:
        """Number and hash of the last record; ``(0, FIRST)`` if there is none."""
        with self._database.reading() as connection:
            head = audit_table.read_head(connection, self._signer)
        return head.sequence, head.hash

    def probe_audit(self, *, durable: bool = False) -> None:
        """Find out whether the chain could be appended to, without doing so; a file's disk must have room for it.

        :param durable: write to the disk, too, without changing anything.
        :raises AuditTamperedError: its head was changed. :raises StoreUnavailableError: it cannot be written.
        """
        self._database.require_room()
        with self._database.writing() as connection:
            head = audit_table.read_head(connection, self._signer, lock=True)
            if durable:
                connection.execute(update(schema.audit_head).values(sequence=head.sequence))
            else:
                connection.rollback()

    def verify_audit(self, *, must_contain: str | None = None) -> AuditSummary:
        """Check the whole chain: hashes, checkpoints, and that it ends where a broker of this store ended it.

        :raises AuditTamperedError: it is broken.
        """
        with self._database.reading() as connection:
            return self._verify_audit(connection, must_contain)

    def check(self) -> StoreReport:
        """Read and verify everything: the state, every key's value, the audit chain, and that they go together."""
        with self._database.reading() as connection:
            row = _row(connection)
            cipher = self._fitting_cipher(row)
            state = read_state(connection, cipher, row)
            for policy in state.policies.values():
                policy.appraisal()
            opened = 0
            for key in state.keys.values():
                if key.sealed is not None:
                    cipher.open("key", key.name, key.version, key.sealed).wipe()
                    opened += 1
            audit = self._verify_audit(connection, None)
        if audit.revision != state.revision:
            raise StoreTamperedError(
                f"the store is at revision {state.revision}, and its audit log records changes up to {audit.revision}",
                hint="Somebody put an earlier copy of a part of the database back. Restore all of it from a backup.",
            )
        return StoreReport(state.revision, len(state.keys), opened, len(state.policies), len(state.grants), audit)

    def close(self) -> None:
        """Close the database; what was acknowledged is on disk already."""
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _verify_audit(self, connection: Connection, must_contain: str | None) -> AuditSummary:
        head = audit_table.read_head(connection, self._signer)
        summary = verify_chain(audit_table.lines(connection), public_key=self.public_key, must_contain=must_contain)
        if (summary.records, summary.head) != (head.sequence, head.hash):
            raise tampered(f"it must end with record {head.sequence}, hash {head.hash}, and does not")
        return summary

    def _fitting_cipher(self, row: Row[Any]) -> StoreCipher:
        """The cipher for the master key that the store is under now: a rewrap changes it."""
        with self._lock:
            known: StoreCipher | None = getattr(self, "_cipher", None)
            if known is None or known.check() != row.check_value:
                known = self._cipher = self._master_key.cipher(row.store_id, row.check_value)
            return known

    def _seen(self) -> tuple[int, int]:
        """How far on this process has seen the store: revision, and number of the audit chain's last record."""
        with self._lock:
            return self._revision, self._sequence

    def _never_backwards(self, seen: tuple[int, int], *, revision: int = 0, sequence: int = 0) -> None:
        """A store that this process had seen further on was put back.

        :param seen: from before the transaction that found the others: meanwhile other threads may have gone on.
        """
        with self._lock:
            back = 0 < revision < seen[0] or 0 < sequence < seen[1]
            self._revision = max(self._revision, revision)
            self._sequence = max(self._sequence, sequence)
        if back:
            raise StoreTamperedError(
                "an earlier copy of the store was put back while it was in use",
                hint="Restart the broker if you restored a backup; find out who did it if you did not.",
            )

    @contextlib.contextmanager
    def _closing_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._database.close()
            raise


def _row(connection: Connection, *, lock: bool = False) -> Row[Any]:
    query = select(schema.store)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise StoreTamperedError("the store has lost its own description", hint="Restore the database from a backup.")
    return row


def _signer(cipher: StoreCipher, row: Row[Any]) -> Ed25519PrivateKey:
    with cipher.open(*_SIGNING_KEY, bytes(row.signing_key)) as raw:
        return Ed25519PrivateKey.from_private_bytes(bytes(raw.reveal()))


def _reseal(connection: Connection, key: KeyVersion, sealed: bytes) -> None:
    connection.execute(
        update(schema.keys)
        .where(schema.keys.c.name == key.name, schema.keys.c.version == key.version)
        .values(sealed=sealed)
    )


def _initialise(connection: Connection, master_key: MasterKeyPlace, actor: str) -> None:
    store_id = secrets.token_hex(16)
    with master_key.make() as master:
        cipher = StoreCipher(master, store_id)
    signer = Ed25519PrivateKey.generate()
    with Secret(signer.private_bytes_raw()) as raw:
        signing_key = cipher.seal(*_SIGNING_KEY, raw)
    connection.execute(
        schema.store.insert().values(
            id=1,
            store_id=store_id,
            check_value=cipher.check(),
            signing_key=signing_key,
            revision=1,
            state_mac=seal(connection, cipher, 1),
        )
    )
    audit_table.start(connection, signer)
    record = {"event": "change", "action": "store-init", "actor": actor, "revision": 1, "store": store_id}
    audit_table.append(connection, signer, [record], checkpoint=True)
