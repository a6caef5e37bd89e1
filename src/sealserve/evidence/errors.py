"""The leaves of the error tree about evidence, by cause.

Four families: evidence that does not hold (:class:`~sealserve.errors.EvidenceError`), genuine evidence that a policy
does not accept (:class:`~sealserve.errors.PolicyRefusedError`), collateral that cannot be had
(:class:`CollateralServiceError`), and a machine that cannot produce evidence (:class:`AttestationError`).
"""

from __future__ import annotations

from collections.abc import Sequence

from sealserve.errors import EvidenceError, MachineError, PolicyRefusedError, SealserveError, UnavailableError

__all__ = [
    "AttestationError",
    "AttestationUnavailableError",
    "CertificateExpiredError",
    "CertificateNotYetValidError",
    "CollateralError",
    "CollateralExpiredError",
    "CollateralMalformedError",
    "CollateralMismatchError",
    "CollateralNotYetValidError",
    "CollateralRevokedError",
    "CollateralRollbackError",
    "CollateralServiceError",
    "CollateralSignatureInvalidError",
    "CollateralUntrustedError",
    "CollateralUnusableError",
    "DebugEnclaveError",
    "EvidenceBindingError",
    "EvidenceRefusedError",
    "MachineRefusedError",
    "MeasurementRefusedError",
    "PlatformRefusedError",
    "QuoteMalformedError",
    "QuoteUnsupportedError",
    "QuotingEnclaveRefusedError",
    "RevokedError",
    "SecurityVersionRefusedError",
    "SignatureInvalidError",
    "SimulatedEvidenceRefusedError",
    "TcbRefusedError",
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


class CertificateExpiredError(EvidenceError):
    """A certificate that came with the quote is past its validity."""


class CertificateNotYetValidError(EvidenceError):
    """A certificate that came with the quote is not valid yet."""


class CollateralError(EvidenceError):
    """Base of errors of the collateral: the endorsements that a quote is judged with.

    Except for :class:`CollateralMismatchError` they say nothing about the evidence: whoever judges has trouble.
    """


class CollateralMalformedError(CollateralError):
    """A part of the collateral cannot be read."""


class CollateralExpiredError(CollateralError):
    """A part of the collateral is past its validity."""


class CollateralNotYetValidError(CollateralError):
    """A part of the collateral is not valid yet."""


class CollateralUntrustedError(CollateralError):
    """A certificate chain of the collateral does not lead to the root that is trusted here."""


class CollateralSignatureInvalidError(CollateralError):
    """A part of the collateral is not signed by the one that it must be signed by."""


class CollateralRevokedError(CollateralError):
    """A certificate that signed a part of the collateral was revoked."""


class CollateralUnusableError(CollateralError):
    """A service gives collateral that cannot be used."""


class CollateralMismatchError(CollateralError):
    """The quote is of a platform, or of a TEE, that the collateral is not for."""


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


class PlatformRefusedError(EvidenceRefusedError):
    """The evidence is of another kind of TEE than the policy is for."""


class MeasurementRefusedError(EvidenceRefusedError):
    """The enclave or trust domain is none of those that the policy names."""


class SecurityVersionRefusedError(MeasurementRefusedError):
    """The enclave is one that the policy names, in a version that is too old."""


class TcbRefusedError(EvidenceRefusedError):
    """The platform's TCB status, an advisory that affects it, or the age of its endorsements is not accepted."""


class MachineRefusedError(EvidenceRefusedError):
    """The machine is none of those that the policy names."""


_GRAVEST_FIRST = (
    SimulatedEvidenceRefusedError,
    PlatformRefusedError,
    MeasurementRefusedError,
    SecurityVersionRefusedError,
    TcbRefusedError,
    MachineRefusedError,
)


def named_in_policy(error: SealserveError, policy: str, setting: str) -> SealserveError:
    """The same error about a file, saying where its path stands.

    :param policy: the name of the policy. :param setting: of the policy, that has the path.
    """
    hint = f"It is `{setting}` in the policy {policy}, whose paths are relative to the policy's own directory."
    return type(error)(error.message, hint=" ".join(filter(None, (error.hint, hint))))


def join_refusals(refusals: Sequence[EvidenceRefusedError], *, hint: str | None = None) -> EvidenceRefusedError:
    """One refusal with the reasons of all, of the gravest one's type."""
    kinds = {type(refusal) for refusal in refusals}
    kind = next((kind for kind in _GRAVEST_FIRST if kind in kinds), EvidenceRefusedError)
    return kind([reason for refusal in refusals for reason in refusal.reasons], hint=hint)


# --- nothing to judge with ---------------------------------------------------------------------------------------


class CollateralServiceError(UnavailableError):
    """The collateral service cannot be reached, is not trusted, or does not give what is needed."""


# --- no evidence --------------------------------------------------------------------------------------------------


class AttestationError(MachineError):
    """This machine cannot produce evidence."""


class AttestationUnavailableError(AttestationError):
    """There is no TEE, or it offers no remote attestation."""
