"""Checks of certificates, dates and kinds that are made before (and beyond) what ``dcap-qvl`` checks.

The library leaves open: whether a revocation list is dated in the future, who issued ``pck_crl_issuer_chain``, whether
the root that a quote carries is the trusted one (it stops one certificate earlier), and the PCE's id. And it says only
that a chain failed, not why: :func:`diagnose` finds out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from sealserve.errors import EvidenceError
from sealserve.evidence.certificate_chain import PckChain
from sealserve.evidence.certificates import CERTIFICATE_ERRORS, display_name
from sealserve.evidence.collateral import Collateral
from sealserve.evidence.errors import (
    CertificateExpiredError,
    CertificateNotYetValidError,
    CollateralExpiredError,
    CollateralMismatchError,
    CollateralNotYetValidError,
    CollateralRevokedError,
    CollateralSignatureInvalidError,
    CollateralUntrustedError,
    RevokedError,
    SignatureInvalidError,
    UntrustedRootError,
)
from sealserve.evidence.quote import Quote
from sealserve.evidence.roots import TrustRoot
from sealserve.evidence.validity import Validity

_FRESH = "Fetch fresh collateral. If it is fresh, check this machine's clock."
_FRESH_QUOTE = "Provision the platform again, and check this machine's clock."
_TOGETHER = "Evidence, collateral and the policy's trust root must belong together."


def check_collateral_root(collateral: Collateral, root: TrustRoot) -> None:
    """Every chain of the collateral must end in the trusted root.

    :raises CollateralUntrustedError: one does not.
    """
    chains = {
        "TCB info": collateral.tcb_chain,
        "QE identity": collateral.qe_chain,
        "PCK revocation list": collateral.pck_crl_chain,
    }
    for part, chain in chains.items():
        if not root.matches(chain[-1]):
            raise CollateralUntrustedError(
                _other_root(f"the certificate chain of the {part}", chain[-1], root), hint=_TOGETHER
            )


def check_quote_root(chain: PckChain, root: TrustRoot) -> None:
    """The quote's chain must end in the trusted root, bit by bit.

    :raises UntrustedRootError: it does not.
    """
    if chain.root_fingerprint != root.fingerprint:
        raise UntrustedRootError(_other_root("the certificate chain of the quote", chain.root, root), hint=_TOGETHER)


def _other_root(what: str, found: x509.Certificate, root: TrustRoot) -> str:
    # Roots of simulated platforms all have the same name.
    shown = display_name(found.subject), found.fingerprint(hashes.SHA256()).hex()[:16]
    return "{} ends in {} (SHA-256 {}…), which is not the trusted root {} (SHA-256 {}…)".format(
        what, *shown, root.name, root.fingerprint.hex()[:16]
    )


def check_dates(validities: Iterable[Validity], now: datetime) -> None:
    """Every part of the collateral must be valid now.

    :raises CollateralExpiredError: one has expired. :raises CollateralNotYetValidError: one is not valid yet.
    """
    _check_dates(validities, now, CollateralExpiredError, CollateralNotYetValidError, _FRESH)


def check_chain_dates(chain: PckChain, now: datetime) -> None:
    """Every certificate that came with the quote must be valid now.

    :raises CertificateExpiredError: one has expired. :raises CertificateNotYetValidError: one is not valid yet.
    """
    _check_dates(chain.validities, now, CertificateExpiredError, CertificateNotYetValidError, _FRESH_QUOTE)


def _check_dates(
    validities: Iterable[Validity],
    now: datetime,
    expired: type[EvidenceError],
    not_yet_valid: type[EvidenceError],
    hint: str,
) -> None:
    for validity in validities:
        if now > validity.not_after:
            raise expired(f"the {validity.part} expired at {validity.not_after:%Y-%m-%d %H:%M:%S} UTC", hint=hint)
        if now < validity.not_before:
            raise not_yet_valid(
                f"the {validity.part} is not valid before {validity.not_before:%Y-%m-%d %H:%M:%S} UTC", hint=hint
            )


def check_kind(quote: Quote, collateral: Collateral) -> None:
    """The collateral must be for the quote's TEE, platform and certification authority.

    :raises CollateralMismatchError: it is for another.
    """
    document, extension = collateral.tcb_info.document, quote.chain.extension
    wanted = ("SGX", "QE") if quote.tee == "sgx" else ("TDX", "TD_QE")
    found = (collateral.tcb_info.tee_id, collateral.qe_identity.tee_id)
    if found != wanted:
        raise _mismatch(f"it is for {' and '.join(found)}, and the quote needs {' and '.join(wanted)}")
    for field, value in (("fmspc", extension.fmspc.hex()), ("pceId", extension.pce_id.hex())):
        if str(document.get(field)).lower() != value:
            raise _mismatch(f"its {field} is {document.get(field)}, and the quote's is {value}")
    if collateral.root_crl_issuer != quote.chain.root_name:
        raise _mismatch(f"its root revocation list is from {display_name(collateral.root_crl.issuer)}")
    if collateral.pck_crl_issuer != quote.chain.authority_name:
        raise _mismatch(f"its PCK revocation list is from {display_name(collateral.pck_crl.issuer)}")


def _mismatch(why: str) -> CollateralMismatchError:
    return CollateralMismatchError(
        f"the collateral does not belong to this quote: {why}", hint="Fetch the collateral for this platform."
    )


def check_revocation(chain: PckChain, collateral: Collateral) -> None:
    """No certificate of any chain may be revoked.

    :raises RevokedError: one of the machine's is. :raises CollateralRevokedError: a signer of the collateral is.
    """
    for certificate, crl in ((chain.leaf, collateral.pck_crl), (chain.authority, collateral.root_crl)):
        if crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
            raise RevokedError(
                _revoked(certificate),
                hint="The platform must not be trusted any more. Ask its operator to replace or re-provision it.",
            )
    for certificate in (collateral.tcb_chain[0], collateral.qe_chain[0], collateral.pck_crl_chain[0]):
        if collateral.root_crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
            raise CollateralRevokedError(_revoked(certificate), hint=_FRESH)


def _revoked(certificate: x509.Certificate) -> str:
    name, number = display_name(certificate.subject), certificate.serial_number
    return f"the certificate {name} (serial number {number:x}) was revoked"


def diagnose(chain: PckChain, collateral: Collateral) -> EvidenceError | None:
    """Why the chains do not verify, if it can be found.

    Roots and dates were checked before; what remains are signatures and issuers.
    """
    root = chain.root
    # The machine's own chain first: what a stranger made up must not look like trouble with the collateral.
    if found := _issued(
        {
            "the PCK certificate": (chain.leaf, chain.authority),
            "the PCK CA's certificate": (chain.authority, root),
        },
        SignatureInvalidError,
        UntrustedRootError,
    ):
        return found
    for crl, issuer, part in (
        (collateral.root_crl, root, "root CA"),
        (collateral.pck_crl, chain.authority, "PCK CA"),
    ):
        key = issuer.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not crl.is_signature_valid(key):
            return CollateralSignatureInvalidError(f"the signature of the revocation list of the {part} is not valid")
    return _issued(
        {
            "the TCB info signer's certificate": (collateral.tcb_chain[0], root),
            "the QE identity signer's certificate": (collateral.qe_chain[0], root),
        },
        CollateralSignatureInvalidError,
        CollateralUntrustedError,
    )


def _issued(
    pairs: Mapping[str, tuple[x509.Certificate, x509.Certificate]],
    not_signed: type[EvidenceError],
    not_issued: type[EvidenceError],
) -> EvidenceError | None:
    for what, (certificate, issuer) in pairs.items():
        try:
            certificate.verify_directly_issued_by(issuer)
        except InvalidSignature:
            return not_signed(f"the signature of {what} is not valid")
        except CERTIFICATE_ERRORS:
            return not_issued(f"{what} was not issued by {display_name(issuer.subject)}")
    return None
