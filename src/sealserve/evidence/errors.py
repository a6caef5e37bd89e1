"""The leaves of the error tree about evidence, by cause.

Four families: evidence that does not hold (:class:`~sealserve.errors.EvidenceError`), genuine evidence that a policy
does not accept (:class:`~sealserve.errors.PolicyRefusedError`), collateral that cannot be had
(:class:`CollateralServiceError`), and a machine that cannot produce evidence (:class:`AttestationError`).
"""

from __future__ import annotations

from collections.abc import Sequence

from sealserve.errors import EvidenceError, MachineError, PolicyRefusedError, UnavailableError

__all__ = [
    "AttestationError",
    "AttestationUnavailableError",
    "CollateralError",
    "CollateralExpiredError",
    "CollateralMalformedError",
    "CollateralMismatchError",
    "CollateralNotYetValidError",
    "CollateralRollbackError",
    "CollateralServiceError",
    "DebugEnclaveError",
    "EvidenceBindingError",
    "EvidenceRefusedError",
    "QuoteMalformedError",
    "QuoteUnsupportedError",
    "QuotingEnclaveRefusedError",
    "RevokedError",
    "SignatureInvalidError",
    "SimulatedEvidenceRefusedError",
    "TcbRevokedError",
    "UnsafeAttributesError",
    "UntrustedRootError",
    "UnverifiableEvidenceError",
]


# --- evidence that does not hold ----------------------------------------------------------------------------------


class QuoteMalformedError(EvidenceError):
    """The bytes are no quote: truncated, oversized, or a field has an impossible value."""


class QuoteUnsupportedError(QuoteMalformedError):
    """The quote is of a version, TEE type, key type or certification type that is not judged here."""


class UntrustedRootError(EvidenceError):
    """A certificate chain does not lead to the root that is trusted here."""


class SignatureInvalidError(EvidenceError):
    """A signature, or the hash that binds two parts of the evidence, does not verify."""


class QuotingEnclaveRefusedError(EvidenceError):
    """The enclave that signed the quote is not the one that the QE identity describes."""


class UnsafeAttributesError(EvidenceError):
    """The enclave or trust domain runs with attributes that void its protection."""


class DebugEnclaveError(UnsafeAttributesError):
    """The enclave or trust domain runs in debug mode: the host can read its memory. Never accepted."""


class RevokedError(EvidenceError):
    """A certificate of the chain, or the platform's TCB, was revoked."""


class TcbRevokedError(RevokedError):
    """The platform's TCB level was revoked: the hardware's keys are known to have leaked."""


class UnverifiableEvidenceError(EvidenceError):
    """The verifier refused for a cause that is not known here. Treated like any other refusal."""


class CollateralError(EvidenceError):
    """Base of errors of the collateral: the endorsements that a quote is judged with."""


class CollateralMalformedError(CollateralError):
    """A part of the collateral cannot be read."""


class CollateralExpiredError(CollateralError):
    """A part of the collateral, or a certificate, is past its validity."""


class CollateralNotYetValidError(CollateralError):
    """A part of the collateral, or a certificate, is not valid yet."""


class CollateralMismatchError(CollateralError):
    """The collateral is for another kind of platform or TEE than the quote's."""


class CollateralRollbackError(CollateralError):
    """A service gives collateral that is older than what it gave before."""


class EvidenceBindingError(EvidenceError):
    """The report data is not what was asked for: the evidence is stale, or was made for another key or session."""


# --- genuine, but not accepted ------------------------------------------------------------------------------------


class EvidenceRefusedError(PolicyRefusedError):
    """The appraisal policy does not accept genuine evidence.

    :param reasons: every reason, not only the first.
    """

    def __init__(self, reasons: Sequence[str], *, hint: str | None = None) -> None:
        self.reasons = tuple(reasons)
        super().__init__("the evidence is genuine but not accepted: " + "; ".join(self.reasons), hint=hint)


class SimulatedEvidenceRefusedError(EvidenceRefusedError):
    """The evidence comes from a simulated platform, which protects nothing, and the policy does not accept those."""


# --- nothing to judge with ---------------------------------------------------------------------------------------


class CollateralServiceError(UnavailableError):
    """The collateral service cannot be reached, is not trusted, or does not give what is needed."""


# --- no evidence --------------------------------------------------------------------------------------------------


class AttestationError(MachineError):
    """This machine cannot produce evidence."""


class AttestationUnavailableError(AttestationError):
    """There is no TEE, or it offers no remote attestation."""
