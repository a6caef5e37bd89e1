"""Checks of a set of collateral by itself, made before it replaces one that is good: whole, signed, and not older.

Each quote is verified against the collateral again; these checks keep a faulty service, or a damaged file, from putting
something unusable in the place of something usable.
"""

from __future__ import annotations

import json
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from sealserve.evidence.certificates import CERTIFICATE_ERRORS, display_name
from sealserve.evidence.collateral import Collateral
from sealserve.evidence.errors import CollateralSignatureInvalidError


def check_signatures(collateral: Collateral) -> None:
    """Every chain, revocation list and document must be signed by the one that it must be signed by.

    That the chains end in a trusted root is checked elsewhere.

    :raises CollateralSignatureInvalidError: one is not.
    """
    for chain in (collateral.tcb_chain, collateral.qe_chain, collateral.pck_crl_chain):
        for certificate, issuer in pairwise(chain):
            try:
                certificate.verify_directly_issued_by(issuer)
            except (*CERTIFICATE_ERRORS, InvalidSignature) as error:
                raise CollateralSignatureInvalidError(
                    f"{display_name(issuer.subject)} did not sign the certificate {display_name(certificate.subject)}"
                ) from error
    _check_list(collateral.root_crl, collateral.tcb_chain[-1], "root CA")
    _check_list(collateral.pck_crl, collateral.pck_crl_chain[0], "PCK CA")
    fields = json.loads(collateral.text)
    for name, what, chain in (
        ("tcb_info", "TCB info", collateral.tcb_chain),
        ("qe_identity", "QE identity", collateral.qe_chain),
    ):
        raw = bytes.fromhex(fields[f"{name}_signature"])
        signature = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
        try:
            _key(chain[0]).verify(signature, fields[name].encode(), ec.ECDSA(hashes.SHA256()))
        except (InvalidSignature, *CERTIFICATE_ERRORS) as error:
            raise CollateralSignatureInvalidError(f"the signature of the {what} is not valid") from error


def older_parts(new: Collateral, old: Collateral) -> list[str]:
    """What went backwards from ``old`` to ``new``, for people; empty if nothing did."""
    found = []
    for what, later, earlier in (
        ("TCB info", new.tcb_info, old.tcb_info),
        ("QE identity", new.qe_identity, old.qe_identity),
    ):
        if later.evaluation_data_number < earlier.evaluation_data_number:
            found.append(
                f"the {what} has evaluation data number {later.evaluation_data_number} "
                f"after {earlier.evaluation_data_number}"
            )
        elif later.validity.not_before < earlier.validity.not_before:
            found.append(f"the {what} is of {later.validity.not_before:%Y-%m-%d %H:%M} UTC, and was newer")
    for what, list_now, list_before in (
        ("root CA", new.root_crl, old.root_crl),
        ("PCK CA", new.pck_crl, old.pck_crl),
    ):
        if list_now.last_update_utc < list_before.last_update_utc:
            found.append(
                f"the revocation list of the {what} is of {list_now.last_update_utc:%Y-%m-%d %H:%M} UTC, and was newer"
            )
    return found


def _check_list(crl: x509.CertificateRevocationList, issuer: x509.Certificate, what: str) -> None:
    try:
        valid = crl.is_signature_valid(_key(issuer))
    except CERTIFICATE_ERRORS:
        valid = False
    if not valid:
        raise CollateralSignatureInvalidError(f"the signature of the revocation list of the {what} is not valid")


def _key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise TypeError("not a key for ECDSA")
    return key
