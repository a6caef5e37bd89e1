"""The audit chain: what a record is, how it is bound to the one before, and how a chain is verified.

A record is one line of JSON. ``previous`` is the SHA-256 of the line before (64 zeros in the first), ``sequence``
counts from 1. So an edited, removed, inserted or moved line shows. Whoever rewrites the whole chain is found out by the
*checkpoints*: records that sign the hash of the line before them (Ed25519). Lines missing at the *end* show only
against something kept elsewhere: a later hash (``must_contain``), or the store's own head.

Where the lines are kept is not known here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sealserve.errors import MachineError, TrustError

FIRST = "0" * 64
"""What the first line's ``previous`` is."""
CHECKPOINT = "checkpoint"
_HINT = "Keep a copy as evidence, and find out who wrote to the broker's database or changed the file."
_LABEL = b"sealserve/audit-checkpoint/v1"


class AuditTamperedError(TrustError):
    """The audit log is not what was written: a record was edited, removed, inserted or moved, or the end is cut."""


class AuditUnavailableError(MachineError):
    """A record cannot be written; what it would record must not happen."""


@dataclass(frozen=True)
class AuditSummary:
    """What verification found.

    :param records: how many. :param head: SHA-256 of the last line, in hex (:data:`FIRST` if there is none).
    :param checkpoints: how many signatures were verified. :param signed: the number of the last record that one of
        them covers; what follows is protected by the hashes alone. Both are 0 without a public key.
    :param revision: the store's revision after the last change that is recorded; 0 if there is none.
    """

    records: int
    head: str
    checkpoints: int = 0
    signed: int = 0
    revision: int = 0


def make_line(sequence: int, previous: str, record: Mapping[str, Any]) -> bytes:
    """A record as it is chained.

    :param record: JSON-ready; ``sequence``, ``previous`` and ``time`` are put in front.
    :raises ValueError: it has a field of one of these names.
    """
    head = {
        "sequence": sequence,
        "previous": previous,
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    if taken := head.keys() & record.keys():
        raise ValueError(f"a record of the audit chain has fields named {', '.join(sorted(taken))}")
    return json.dumps({**head, **record}, separators=(",", ":")).encode()


def line_hash(line: bytes) -> str:
    """SHA-256 of a line, in hex."""
    return hashlib.sha256(line).hexdigest()


def sign_head(key: Ed25519PrivateKey, sequence: int, head: str) -> str:
    """Sign that record ``sequence`` has the hash ``head``; the signature in hex."""
    return key.sign(_signed_text(sequence, head)).hex()


def is_signed(key: Ed25519PublicKey, sequence: int, head: str, signature: object) -> bool:
    """Whether ``signature`` (hex) is one of :func:`sign_head`."""
    try:
        key.verify(bytes.fromhex(str(signature)), _signed_text(sequence, head))
    except (InvalidSignature, ValueError):
        return False
    return True


def _signed_text(sequence: int, head: str) -> bytes:
    return _LABEL + sequence.to_bytes(8, "big") + bytes.fromhex(head)


def verify_chain(
    lines: Iterable[bytes], *, public_key: Ed25519PublicKey | None, must_contain: str | None = None
) -> AuditSummary:
    """Check a whole chain.

    :param lines: without newlines, from the first. :param public_key: whose checkpoints they must be; without it
        signatures are not looked at.
    :param must_contain: a hash (hex) that some line must have: one that was the head once, kept elsewhere.
    :raises AuditTamperedError: it is broken; the message says at which record.
    """
    records, head, checkpoints, signed, revision = 0, FIRST, 0, 0, 0
    found = must_contain in {None, FIRST}
    for line in lines:
        record = _linked(line, records + 1, head)
        if public_key is not None and record.get("event") == CHECKPOINT:
            if not is_signed(public_key, records, head, record.get("signature")):
                raise tampered(f"the checkpoint in record {records + 1} is not signed by the store's key")
            checkpoints, signed = checkpoints + 1, records
        if record.get("event") == "change" and isinstance(record.get("revision"), int):
            revision = record["revision"]
        records += 1
        head = line_hash(line)
        found = found or head == must_contain
    if not found:
        raise tampered(
            f"no record has the hash {must_contain}, so records are missing or were replaced",
            hint="If the hash is from after this log was exported, export it again first. Otherwise keep a copy as "
            "evidence, and find out who wrote to the broker's database or changed the file.",
        )
    return AuditSummary(records, head, checkpoints, signed, revision)


def _linked(line: bytes, number: int, previous: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise tampered(f"record {number} is no record") from None
    if not isinstance(record, dict) or record.get("sequence") != number or record.get("previous") != previous:
        raise tampered(f"record {number} does not follow from the one before")
    return record


def tampered(what: str, *, hint: str = _HINT) -> AuditTamperedError:
    """The error for a chain that is not whole."""
    return AuditTamperedError(f"the audit log was changed: {what}", hint=hint)
