"""What is recorded of one decision, gathered as it is made."""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import Any

from sealserve.broker.messages import Granted, Model
from sealserve.errors import SealserveError
from sealserve.evidence import VerifiedEvidence

_LONGEST_DETAIL = 2000


class DecisionRecord:
    """What is recorded of one decision, gathered as it is made. Nothing secret ever enters it."""

    def __init__(self, protocol: int, peer: str) -> None:
        self.decision = secrets.token_hex(8)
        self.started = time.monotonic()
        self.attested = False
        """Whether the peer proved to be some enclave: with genuine evidence that was made for this session."""
        self.fields: dict[str, Any] = {
            "event": "decision",
            "decision": self.decision,
            "protocol": protocol,
            "peer": peer,
            "outcome": "refused",
        }

    def quote(self, quote: bytes) -> None:
        self.fields["quote_sha256"] = hashlib.sha256(quote).hexdigest()

    def evidence(self, evidence: VerifiedEvidence, *, bound: bool) -> None:
        self.attested = self.attested or bound
        self.fields["evidence"] = evidence.as_dict()
        self.fields["simulated"] = evidence.simulated

    def grants(self, answer: Granted, tls_key: tuple[str, int] | None = None) -> None:
        """:param tls_key: name and version of the private key in ``answer.tls``."""
        self.fields |= {
            "outcome": "granted",
            "grant_revision": answer.revision,
            "keys": [{"name": name, "version": key.version} for name, key in answer.keys.items()],
            "model": _recorded(answer.model),
        }
        if answer.previous is not None:
            self.fields["previous_model"] = {
                "key": {"name": answer.previous.model.key, "version": answer.previous.key.version},
                "model": _recorded(answer.previous.model),
            }
        if answer.tls is not None and tls_key is not None:
            self.fields["tls"] = {
                "key": {"name": tls_key[0], "version": tls_key[1]},
                "certificate_sha256": _sha256(answer.tls.certificate),
            } | ({"client_authority_sha256": _sha256(authority)} if (authority := answer.tls.client_authority) else {})

    def refuses(self, error: Exception) -> None:
        known = isinstance(error, SealserveError)
        self.fields |= {
            "outcome": "refused",
            "reason": error.reason if isinstance(error, SealserveError) else type(error).__name__,
            # The text of a foreign exception may hold anything.
            "detail": str(error)[:_LONGEST_DETAIL] if known else "a defect; the broker's log has it",
        }


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _recorded(model: Model) -> dict[str, Any]:
    return {"name": model.name, "version": model.version, "digest": model.digest.hex()}
