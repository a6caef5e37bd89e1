"""Why the broker refuses beyond what the evidence itself says, and what a stranger learns of any reason."""

from __future__ import annotations

from sealserve.broker.messages import ProtocolError, RefusalReason
from sealserve.errors import EvidenceError, PolicyRefusedError
from sealserve.evidence.errors import CollateralError, CollateralMismatchError


class NoClientCertificateError(EvidenceError):
    """The enclave presented no TLS certificate, so evidence has no key to be bound to."""

    def __init__(self) -> None:
        super().__init__("the enclave presented no TLS certificate")


class UnknownGrantError(PolicyRefusedError):
    """There is no grant for the deployment, or no key of that name in it."""


class NoGrantAcceptsError(PolicyRefusedError):
    """No grant's policy accepts the evidence (version 1)."""


class AmbiguousGrantError(PolicyRefusedError):
    """More than one grant's policy accepts the evidence, and version 1 cannot say which is meant."""


def is_verdict(error: Exception) -> bool:
    """Whether an error says something about the evidence or the request, so that asking again is of no use.

    Everything else is trouble of the broker's own: collateral that is expired, missing or malformed, a service that is
    down, a store that cannot be read or was changed, a defect.
    """
    if isinstance(error, CollateralMismatchError):
        return True  # the operator chose for which platforms there is collateral
    return isinstance(error, EvidenceError | PolicyRefusedError) and not isinstance(error, CollateralError)


def general_reason(error: Exception) -> RefusalReason:
    """What the enclave is told."""
    if isinstance(error, ProtocolError):
        return "bad-request"
    return "not-granted" if is_verdict(error) else "unavailable"
