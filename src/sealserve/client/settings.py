"""What clients of both kinds are set to, and the one thing that they cannot be without."""

from __future__ import annotations

from dataclasses import dataclass

from sealserve.client.http2 import MAX_REPLY
from sealserve.errors import InputError
from sealserve.evidence import AppraisalPolicy

DEFAULT_SIGNATURE = "serving_default"
DEFAULT_TIMEOUT = 30.0


@dataclass(frozen=True)
class Limits:
    """:raises InputError: one is not positive, or too large."""

    max_evidence_age: float
    max_connections: int
    max_reply_bytes: int

    def __post_init__(self) -> None:
        if self.max_connections < 1 or not self.max_evidence_age > 0 or self.max_reply_bytes < 1:
            raise InputError("max_connections, max_evidence_age and max_reply_bytes must be positive")
        if self.max_reply_bytes > MAX_REPLY:
            raise InputError(f"max_reply_bytes can be {MAX_REPLY} at most")


def require_policy(policy: object) -> AppraisalPolicy:
    """:raises InputError: it is no policy."""
    if not isinstance(policy, AppraisalPolicy):
        raise InputError("a client needs an appraisal policy", hint="Load one with AppraisalPolicy.load(path).")
    return policy
