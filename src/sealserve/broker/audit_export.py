"""The audit chain as a file: one record a line (JSONL)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from sealserve.broker.audit import AuditSummary, tampered, verify_chain
from sealserve.broker.store import Store
from sealserve.errors import InputError
from sealserve.files import PRIVATE, atomic_writer, explain_os_error, read_file

_LONGEST_LINE = 1 << 21


def export_audit(store: Store, path: Path) -> AuditSummary:
    """Sign the chain's end, verify the chain, and write it.

    :raises AuditTamperedError: it is broken; nothing is written.
    """
    store.append_audit([], checkpoint=True)
    with store.audit_lines() as lines, atomic_writer(path, mode=PRIVATE) as file:

        def written() -> Iterator[bytes]:
            for line in lines:
                file.write(line + b"\n")
                yield line

        return verify_chain(written(), public_key=store.public_key)


def verify_export(path: Path, *, public_key: Ed25519PublicKey | None, must_contain: str | None = None) -> AuditSummary:
    """Check an exported chain; see :func:`verify_chain`.

    :raises AuditTamperedError: it is broken. :raises InputError: the file cannot be read.
    """
    return verify_chain(_lines(path), public_key=public_key, must_contain=must_contain)


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while line := file.readline(_LONGEST_LINE):
                if not line.endswith(b"\n"):
                    raise tampered("its last line is cut, or a line is longer than any record")
                yield line[:-1]
    except OSError as error:
        raise explain_os_error(error, path, "read") from error


def public_key_pem(key: Ed25519PublicKey) -> bytes:
    """SubjectPublicKeyInfo in PEM."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def read_public_key(path: Path) -> Ed25519PublicKey:
    """What :func:`public_key_pem` made.

    :raises InputError: it is no such key.
    """
    try:
        key = load_pem_public_key(read_file(path, limit=1 << 16))
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{path} holds no Ed25519 public key in PEM", hint="`broker audit public-key` prints it.")
    return key
