"""Reading the audit chain: pages of records, chosen by what is in them, and its verification."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import AwareDatetime

from sealserve.broker.audit import AuditSummary, line_hash
from sealserve.broker.audit_export import export_audit
from sealserve.broker.store import Store
from sealserve.configuration import Settings

LARGEST_PAGE = 1000
_CHUNK = 500
_LONGEST_SCAN = 20_000
_SKEW = timedelta(hours=1)  # that the clocks of a store's brokers may differ


class AuditFilter(Settings):
    """Which records are wanted: those in which every field given has this value.

    :param since: RFC 3339; not before. :param until: before.
    """

    event: str | None = None
    outcome: str | None = None
    deployment: str | None = None
    decision: str | None = None
    reason: str | None = None
    actor: str | None = None
    action: str | None = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None

    def admits(self, record: dict[str, Any]) -> bool:
        """Whether a record is wanted."""
        wanted = self.model_dump(exclude_none=True, exclude={"since", "until"})
        if any(record.get(name) != value for name, value in wanted.items()):
            return False
        if self.since is None and self.until is None:
            return True
        time = datetime.fromisoformat(record["time"])
        return (self.since is None or time >= self.since) and (self.until is None or time < self.until)

    def begins_after(self, record: dict[str, Any]) -> bool:
        """Whether this record, and so every one before it, is too old to be wanted."""
        return self.since is not None and datetime.fromisoformat(record["time"]) < self.since - _SKEW


@dataclass(frozen=True)
class Page:
    """Some records, each with the ``hash`` of its line.

    :param next: where the next page begins: ``before`` (or ``after``) it; none if there is nothing more. A page can be
        short, or empty, and have one: a request looks through a limited number of records.
    """

    records: list[dict[str, Any]]
    next: int | None


class AuditReader:
    """Reads a store's audit chain. Safe for several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def latest(self, wanted: AuditFilter, *, before: int | None = None, limit: int = 100) -> Page:
        """Records, the newest first.

        :param before: only those with lower numbers. :param limit: at most so many.
        """
        if wanted.decision is not None:
            return self._decision(wanted)
        end = self._store.audit_head()[0] + 1 if before is None else before
        found: list[dict[str, Any]] = []
        lowest = max(1, end - _LONGEST_SCAN)
        while end > lowest:
            begin = max(lowest, end - _CHUNK)
            for record in reversed(list(self._records(after=begin - 1, limit=end - begin))):
                if wanted.admits(record):
                    found.append(record)
                    if len(found) == limit:
                        return Page(found, record["sequence"] if record["sequence"] > 1 else None)
                if wanted.begins_after(record):
                    return Page(found, None)
            end = begin
        return Page(found, end if end > 1 else None)

    def following(self, wanted: AuditFilter, *, after: int, limit: int = 100) -> Page:
        """Records with higher numbers than ``after``, the oldest first; the page always has a next one."""
        found: list[dict[str, Any]] = []
        for record in self._records(after=after, limit=_LONGEST_SCAN):
            after = record["sequence"]
            if wanted.admits(record):
                found.append(record)
                if len(found) == limit:
                    break
        return Page(found, after)

    def head(self) -> tuple[int, str]:
        """Number and hash of the last record."""
        return self._store.audit_head()

    def verify(self, *, must_contain: str | None = None) -> AuditSummary:
        """Check the whole chain; see :meth:`Store.verify_audit`."""
        return self._store.verify_audit(must_contain=must_contain)

    def checkpoint(self) -> tuple[int, str]:
        """Sign the chain's end; number and hash of its last record then."""
        self._store.append_audit([], checkpoint=True)
        return self._store.audit_head()

    def export(self, path: Path) -> AuditSummary:
        """Write the whole chain, signed and verified, to a file."""
        return export_audit(self._store, path)

    @property
    def public_key(self) -> Ed25519PublicKey:
        """What verifies the checkpoints."""
        return self._store.public_key

    @property
    def name(self) -> str:
        """For people: where the chain is."""
        return self._store.name

    def _records(self, *, after: int, limit: int) -> Iterator[dict[str, Any]]:
        with self._store.audit_lines(after=after, limit=limit) as lines:
            for line in lines:
                yield {**json.loads(line), "hash": line_hash(line)}

    def _decision(self, wanted: AuditFilter) -> Page:
        line = self._store.decision_line(wanted.decision or "")
        if line is None:
            return Page([], None)
        record = {**json.loads(line), "hash": line_hash(line)}
        return Page([record] if wanted.admits(record) else [], None)
