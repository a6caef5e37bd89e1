"""Collateral: the signed endorsements (RFC 9334) that a quote is judged with, and where they come from.

A set of collateral is the certificates, revocation lists, TCB info and QE identity of Intel's provisioning
certification service, in the JSON form that ``dcap-qvl`` reads and writes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from cryptography import x509

from sealserve.evidence.certificates import CERTIFICATE_ERRORS, display_name
from sealserve.evidence.errors import CollateralMalformedError
from sealserve.evidence.validity import Validity

SIZE_LIMIT = 1 << 20
"""Bytes of a file with collateral; Intel's has 30 KB."""

_TEXTS = (
    "pck_crl_issuer_chain",
    "tcb_info_issuer_chain",
    "tcb_info",
    "qe_identity_issuer_chain",
    "qe_identity",
)
_BYTES = ("root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature")


@dataclass(frozen=True)
class Endorsement:
    """TCB info or QE identity, as far as it is looked at here. The verifier reads the document itself.

    :param tee_id: ``SGX``, ``TDX``, ``QE`` or ``TD_QE``. :param document: the parsed JSON, not verified.
    """

    tee_id: str
    validity: Validity
    evaluation_data_number: int
    document: dict[str, Any]


@dataclass(frozen=True)
class Collateral:
    """One set of collateral, parsed and not verified."""

    text: str
    tcb_info: Endorsement
    qe_identity: Endorsement
    root_crl: x509.CertificateRevocationList
    pck_crl: x509.CertificateRevocationList
    tcb_chain: tuple[x509.Certificate, ...]
    qe_chain: tuple[x509.Certificate, ...]
    pck_crl_chain: tuple[x509.Certificate, ...]

    @classmethod
    def from_json(cls, text: str | bytes) -> Collateral:
        """Read a set of collateral.

        :raises CollateralMalformedError: a part is missing or cannot be read.
        """
        if len(text) > SIZE_LIMIT:
            raise CollateralMalformedError(f"the collateral has more than {SIZE_LIMIT} bytes")
        fields = _json_object(text, "the collateral")
        for name in (*_TEXTS, *_BYTES):
            if not isinstance(fields.get(name), str):
                raise CollateralMalformedError(f"the collateral has no {name}")
        raw = {name: _from_hex(fields[name], name) for name in _BYTES}
        for name in ("tcb_info_signature", "qe_identity_signature"):
            if len(raw[name]) != 64:
                raise CollateralMalformedError(f"{name} in the collateral has {len(raw[name])} bytes, not 64")
        collateral = cls(
            text=text if isinstance(text, str) else text.decode(),
            tcb_info=_endorsement(fields["tcb_info"], "TCB info"),
            qe_identity=_endorsement(fields["qe_identity"], "QE identity"),
            root_crl=_revocation_list(raw["root_ca_crl"], "root_ca_crl"),
            pck_crl=_revocation_list(raw["pck_crl"], "pck_crl"),
            tcb_chain=_chain(fields, "tcb_info_issuer_chain"),
            qe_chain=_chain(fields, "qe_identity_issuer_chain"),
            pck_crl_chain=_chain(fields, "pck_crl_issuer_chain"),
        )
        try:
            # The library parses fields when they are first looked at: look at those that are used later.
            _ = collateral.root_crl_issuer, collateral.pck_crl_issuer, collateral.expires
            _ = len(collateral.root_crl), len(collateral.pck_crl)
        except CERTIFICATE_ERRORS as error:
            raise CollateralMalformedError("a certificate or list in the collateral has a malformed field") from error
        return collateral

    def validities(self) -> Iterator[Validity]:
        """The validity of every part, certificates of its chains included."""
        yield self.tcb_info.validity
        yield self.qe_identity.validity
        yield _crl_validity(self.root_crl, "revocation list of the root CA")
        yield _crl_validity(self.pck_crl, "revocation list of the PCK CA")
        seen: set[x509.Certificate] = set()
        for certificate in (*self.tcb_chain, *self.qe_chain, *self.pck_crl_chain):
            if certificate not in seen:
                seen.add(certificate)
                yield Validity.of(certificate, f"certificate {display_name(certificate.subject)}")

    @functools.cached_property
    def root_crl_issuer(self) -> x509.Name:
        """Who issued the revocation list of the root CA."""
        return self.root_crl.issuer

    @functools.cached_property
    def pck_crl_issuer(self) -> x509.Name:
        """Who issued the revocation list of the PCK CA."""
        return self.pck_crl.issuer

    @property
    def expires(self) -> datetime:
        """When the first part expires."""
        return min(validity.not_after for validity in self.validities())


class CollateralSource(Protocol):
    """Where collateral comes from: a file now, a provisioning certification service or a cache behind the same door."""

    def collateral(self, quote: bytes) -> Collateral:
        """The collateral for the platform that made ``quote``.

        :raises EvidenceError: there is none that can be read. :raises UnavailableError: the source cannot be reached.
        """
        ...


class FixedCollateral:
    """Collateral that is given as it is."""

    def __init__(self, collateral: Collateral) -> None:
        self._collateral = collateral

    def collateral(self, quote: bytes) -> Collateral:  # noqa: ARG002
        """The collateral, whatever the quote."""
        return self._collateral


def _json_object(text: str | bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CollateralMalformedError(f"{what} is not JSON") from error
    if not isinstance(value, dict):
        raise CollateralMalformedError(f"{what} is not a JSON object")
    return value


def _endorsement(text: str, what: str) -> Endorsement:
    document = _json_object(text, what)
    try:
        issued, next_update = (_moment(document[key]) for key in ("issueDate", "nextUpdate"))
        tee_id, number = document["id"], document["tcbEvaluationDataNumber"]
    except (KeyError, TypeError, ValueError, OverflowError) as error:  # the last: a time beyond all calendars
        raise CollateralMalformedError(f"{what} in the collateral lacks a field, or has a malformed one") from error
    if not isinstance(tee_id, str) or type(number) is not int:
        raise CollateralMalformedError(f"{what} in the collateral has a malformed field")
    return Endorsement(tee_id, Validity(what, issued, next_update), number, document)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return moment.astimezone(UTC)


def _from_hex(text: str, name: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except CERTIFICATE_ERRORS as error:
        raise CollateralMalformedError(f"{name} in the collateral is not in hexadecimal") from error


def _revocation_list(der: bytes, name: str) -> x509.CertificateRevocationList:
    try:
        crl = x509.load_der_x509_crl(der)
        if crl.next_update_utc is None:
            raise CollateralMalformedError(f"{name} in the collateral has no date of the next update")
    except CERTIFICATE_ERRORS as error:
        raise CollateralMalformedError(f"{name} in the collateral is no revocation list in DER") from error
    return crl


def _crl_validity(crl: x509.CertificateRevocationList, part: str) -> Validity:
    next_update = crl.next_update_utc
    if next_update is None:  # checked when it was read
        raise CollateralMalformedError(f"the {part} has no date of the next update")
    return Validity(part, crl.last_update_utc, next_update)


def _chain(fields: dict[str, Any], name: str) -> tuple[x509.Certificate, ...]:
    try:
        chain = tuple(x509.load_pem_x509_certificates(fields[name].encode()))
    except CERTIFICATE_ERRORS as error:
        raise CollateralMalformedError(f"{name} in the collateral holds no certificates in PEM") from error
    if len(chain) < 2:
        raise CollateralMalformedError(f"{name} in the collateral is too short")
    return chain
