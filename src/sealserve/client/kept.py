"""Evidence in a file, to be judged again later and elsewhere (``docs/client.md``, "Evidence kept for later").

The file is JSON and holds what the replica gave and what it was bound to, and no verdict: whoever reads it judges it
under a policy of its own. It proves that an enclave made this key and claims to serve these models. It does not prove
to others *when*: the nonce was known to whoever wrote the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from sealserve.client.attestation import NONCE_SIZE, PresentedEvidence
from sealserve.client.status import printable
from sealserve.client.tls import TlsFacts
from sealserve.errors import InputError
from sealserve.files import read_file, write_atomically
from sealserve.ratls import spki_digest

FORMAT = "sealserve-evidence/1"
_MOST = 2 << 20


@dataclass(frozen=True)
class KeptEvidence:
    """Evidence, where it came from, and when by the clock of whoever asked for it.

    :param told: what the file said in plain text beside the evidence, believed by nobody.
    """

    target: str
    server_name: str
    at: datetime
    presented: PresentedEvidence
    told: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """What the file holds."""
        return {
            "format": FORMAT,
            "target": self.target,
            "server_name": self.server_name,
            "at": self.at.isoformat(timespec="seconds"),
        } | presented_as_dict(self.presented)

    def save(self, path: Path) -> None:
        """Write the file. :raises SealserveError: it cannot be written."""
        write_atomically(path, json.dumps(self.as_dict(), indent=1) + "\n")


def presented_as_dict(presented: PresentedEvidence) -> dict[str, Any]:
    """Evidence and what it was bound to, JSON-ready."""
    return {
        "tls": {"version": presented.tls.version, "cipher": presented.tls.cipher},
        "certificate": presented.certificate.public_bytes(Encoding.PEM).decode("ascii"),
        "key_sha256": presented.spki_digest.hex(),
        "nonce": presented.nonce.hex(),
        "claims": presented.claims.hex(),
        "quote": presented.quote.hex(),
    }


def read_presented(document: Mapping[str, Any], path: Path) -> PresentedEvidence:
    """What :func:`presented_as_dict` gave.

    :param path: for errors.
    :raises InputError: it is damaged. :raises ValueError, KeyError: it is something else; see ``NOT_KEPT``.
    """
    found = {name: str(document[name]) for name in ("certificate", "nonce", "key_sha256", "quote", "claims")}
    tls = document.get("tls") or {}
    certificate = x509.load_pem_x509_certificate(found["certificate"].encode())
    nonce, key, quote, claims = (bytes.fromhex(found[n]) for n in ("nonce", "key_sha256", "quote", "claims"))
    facts = TlsFacts(*(printable(str(tls.get(name, "?"))) for name in ("version", "cipher")))
    if len(nonce) != NONCE_SIZE or spki_digest(certificate) != key:
        raise InputError(f"{path} is damaged: its key is not that of its certificate, or its nonce has another size")
    return PresentedEvidence(quote, claims, nonce, certificate, key, facts)


NOT_KEPT = (ValueError, KeyError, TypeError, RecursionError, AttributeError)
"""What reading a document raises that is something else."""


def read_kept(path: Path) -> KeptEvidence:
    """Read a file that :meth:`KeptEvidence.save` wrote, or a report of ``sealserve verify --json``.

    :raises InputError: it is none, or its key is not that of its certificate.
    """
    data = read_file(path, limit=_MOST)
    try:
        document = json.loads(data)
        presented = read_presented(document, path)
        at = datetime.fromisoformat(str(document["at"]))
        target, name = (" ".join(printable(str(document[field])).split()) for field in ("target", "server_name"))
    except NOT_KEPT as error:
        raise InputError(
            f"{path} is no evidence that was kept", hint="`sealserve verify HOST:PORT --save FILE` writes such files."
        ) from error
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return KeptEvidence(target, name, at, presented, document)
