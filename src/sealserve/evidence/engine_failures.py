"""What ``dcap-qvl`` says when it refuses, as leaves of our error tree.

The library raises bare ``ValueError``; the cause is in the text alone. The texts are those of version 0.7. A text that
is not known here becomes :class:`UnverifiableEvidenceError`: an unknown cause is a refusal like any other.
"""

from __future__ import annotations

import re

from sealserve.errors import EvidenceError
from sealserve.evidence.errors import (
    CollateralExpiredError,
    CollateralMalformedError,
    CollateralMismatchError,
    CollateralNotYetValidError,
    CollateralSignatureInvalidError,
    DebugEnclaveError,
    QuoteMalformedError,
    QuoteUnsupportedError,
    QuotingEnclaveRefusedError,
    SignatureInvalidError,
    TcbRevokedError,
    UnsafeAttributesError,
    UntrustedRootError,
    UnverifiableEvidenceError,
)

_PREFIX = "Verification failed: "

# Type, message, and the texts that mean it. The first match counts.
_CAUSES: tuple[tuple[type[EvidenceError], str, str], ...] = (
    (QuoteMalformedError, "the quote cannot be read", "^Failed to decode quote"),
    (
        QuoteUnsupportedError,
        "the quote is not of a supported kind",
        "Unsupported (DCAP|TEE|quote)|must have version|Unknown QE vendor",
    ),
    (
        QuoteMalformedError,
        "the PCK certificate in the quote cannot be read",
        "Failed to (extract|parse) PCK cert|SGX extension|Intel extension",
    ),
    (
        SignatureInvalidError,
        "the quote's signature is not valid: its content was changed",
        "^ISV enclave report signature",
    ),
    (
        SignatureInvalidError,
        "the attestation key is not the one that the quoting enclave vouches for",
        "^QE report hash mismatch",
    ),
    (
        SignatureInvalidError,
        "the PCK key did not sign the quoting enclave's report",
        "^Signature is invalid for qe_report",
    ),
    (
        CollateralSignatureInvalidError,
        "the signature of the TCB info is not valid",
        "^Signature is invalid for tcb_info",
    ),
    (
        CollateralSignatureInvalidError,
        "the signature of the QE identity is not valid",
        "^Signature is invalid for qe_identity",
    ),
    (DebugEnclaveError, "the enclave runs in debug mode: the host can read its memory", "^Debug mode is enabled"),
    (
        UnsafeAttributesError,
        "the trust domain's attributes void its protection",
        "SEPT_VE_DISABLE|SERVTD_EXT|TD (profiling|migration) is enabled|Reserved bits in TD attributes|MR service TD",
    ),
    (
        TcbRevokedError,
        "the TCB of the platform was revoked: its keys are known to have leaked",
        "TCB status is invalid: Revoked",
    ),
    (
        QuotingEnclaveRefusedError,
        "the quoting enclave is not the one that the QE identity describes",
        r"^QE (MRSIGNER|ISVPRODID|MISCSELECT|ATTRIBUTES|ISVSVN)|^QE report validation|in QE Identity$",
    ),
    (
        CollateralMismatchError,
        "the TDX module is not one that the TCB info describes",
        "TDX module|tdxModule",
    ),
    (
        CollateralMismatchError,
        "the collateral is for another kind of platform",
        "Fmspc mismatch|non-(SGX|TDX) TCB info|Unsupported QE Identity id",
    ),
    (
        CollateralMismatchError,
        "the platform's TCB is older than every level of the TCB info",
        "No matching TCB level",
    ),
    (CollateralExpiredError, "a part of the collateral has expired", "expired$|^CrlExpired"),
    (CollateralNotYetValidError, "a part of the collateral is not valid yet", "issue date is in the future"),
    (UntrustedRootError, "a certificate chain does not lead to the trusted root", "verify certificate chain"),
    (
        CollateralMalformedError,
        "the collateral cannot be read",
        "^Failed to (parse|decode|load)|too short|Invalid key length|component count",
    ),
)


def explain_failure(text: str) -> EvidenceError:
    """The error for what the library said."""
    detail = text.removeprefix(_PREFIX)
    for kind, message, pattern in _CAUSES:
        if re.search(pattern, detail):
            return kind(f"{message} ({detail})")
    return UnverifiableEvidenceError(f"the evidence cannot be verified ({detail})")
