"""The audit chain in the database: appended to under a lock, so that several brokers write one chain."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection, Row, select, update

from sealserve.broker.audit import CHECKPOINT, FIRST, is_signed, line_hash, make_line, sign_head, tampered
from sealserve.broker.store import schema

CHECKPOINT_EVERY = 1000
"""Records, at most, that no checkpoint covers."""
_BATCH = 2000


def start(connection: Connection, key: Ed25519PrivateKey) -> None:
    """Begin an empty chain."""
    connection.execute(
        schema.audit_head.insert().values(
            id=1, sequence=0, hash=FIRST, signature=sign_head(key, 0, FIRST), checkpoint=0
        )
    )


def read_head(connection: Connection, key: Ed25519PrivateKey, *, lock: bool = False) -> Row[Any]:
    """The head's row: ``sequence``, ``hash``, ``signature``, ``checkpoint``.

    :param lock: until the transaction ends nobody else appends. (SQLite's writers are alone anyway.)
    :raises AuditTamperedError: somebody without the signing key wrote it.
    """
    query = select(schema.audit_head)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None or not is_signed(key.public_key(), row.sequence, row.hash, row.signature):
        raise tampered("its head was not written by a broker of this store")
    return row


def append(
    connection: Connection, key: Ed25519PrivateKey, records: Iterable[Mapping[str, Any]], *, checkpoint: bool = False
) -> list[tuple[int, str]]:
    """Add records, and a checkpoint if one is due.

    :param records: JSON-ready. :param checkpoint: sign the chain's new end in any case.
    :returns: number and hash of each record, in order.
    """
    head = read_head(connection, key, lock=True)
    sequence, previous, signed = head.sequence, head.hash, head.checkpoint
    rows: list[dict[str, Any]] = []
    ends: list[tuple[int, str]] = []

    def add(record: Mapping[str, Any]) -> None:
        nonlocal sequence, previous
        sequence += 1
        line = make_line(sequence, previous, record)
        previous = line_hash(line)
        rows.append({"sequence": sequence, "decision": record.get("decision"), "line": line.decode()})

    for record in records:
        add(record)
        ends.append((sequence, previous))
    if sequence > signed and (checkpoint or sequence - signed >= CHECKPOINT_EVERY):
        add({"event": CHECKPOINT, "signature": sign_head(key, sequence, previous)})
        signed = sequence
    if rows:
        connection.execute(schema.audit.insert(), rows)
        connection.execute(
            update(schema.audit_head).values(
                sequence=sequence, hash=previous, signature=sign_head(key, sequence, previous), checkpoint=signed
            )
        )
    return ends


def lines(connection: Connection, *, after: int = 0, limit: int | None = None) -> Iterator[bytes]:
    """The chain's lines in order.

    :param after: the number of the record before the first one wanted.
    :raises AuditTamperedError: a row's number or decision is not its record's.
    """
    left = limit
    while left is None or left > 0:
        size = _BATCH if left is None else min(_BATCH, left)
        query = (
            select(schema.audit).where(schema.audit.c.sequence > after).order_by(schema.audit.c.sequence).limit(size)
        )
        rows = connection.execute(query).all()
        for row in rows:
            yield _line(row)
        if len(rows) < size:
            return
        after = rows[-1].sequence
        left = None if left is None else left - len(rows)


def last_lines(connection: Connection, count: int) -> Sequence[bytes]:
    """The last lines, the oldest first."""
    query = select(schema.audit).order_by(schema.audit.c.sequence.desc()).limit(count)
    return [_line(row) for row in reversed(connection.execute(query).all())]


def decision_line(connection: Connection, decision: str) -> bytes | None:
    """The record of a decision."""
    query = select(schema.audit).where(schema.audit.c.decision == decision).limit(1)
    row = connection.execute(query).one_or_none()
    return None if row is None else _line(row)


def _line(row: Row[Any]) -> bytes:
    line = str(row.line).encode()
    try:
        record = json.loads(line)
        fits = (record["sequence"], record.get("decision")) == (row.sequence, row.decision)
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        fits = False
    if not fits:
        raise tampered(f"record {row.sequence} is not the one that was written")
    return line
