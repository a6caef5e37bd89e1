"""Verifying evidence: is this quote genuine, and what does it say?

Trust goes root → PCK CA → PCK certificate → quoting enclave's report → attestation key → quote, and root → signer →
TCB info and QE identity, with a revocation list for each CA. ``dcap-qvl`` follows it; this module checks what the
library leaves open (:mod:`sealserve.evidence.chain_checks`), gives every refusal a type, and never turns a doubt into
a yes.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from sealserve.errors import EvidenceError
from sealserve.evidence import chain_checks
from sealserve.evidence.appraisal import Record
from sealserve.evidence.collateral import Collateral, CollateralSource
from sealserve.evidence.engine_failures import explain_failure
from sealserve.evidence.errors import CollateralMalformedError, DebugEnclaveError, UnverifiableEvidenceError
from sealserve.evidence.quote import EnclaveReport, Quote, parse_quote
from sealserve.evidence.roots import TrustRoot
from sealserve.evidence.validity import Validity
from sealserve.evidence.verified import TrustDomain, VerifiedEvidence

if TYPE_CHECKING:
    import dcap_qvl

# Intel gives a quoting enclave no other status than these and Revoked; the library would take others for UpToDate.
_QE_STATUSES = frozenset({"UpToDate", "OutOfDate"})

_PREPARED_LIMIT = 32  # kinds of platforms whose collateral is kept ready


@dataclass(frozen=True)
class _Prepared:
    """Collateral whose chains lead to the root, in the forms that are needed for each quote."""

    collateral: Collateral
    engine: dcap_qvl.QuoteCollateralV3
    validities: tuple[Validity, ...]


class Verifier:
    """Verifies quotes under one root. Safe for several threads.

    :param root: whose platforms are believed. :param collateral: what quotes are judged with.
    :param clock: seconds since 1970, for the validity of collateral.
    """

    def __init__(
        self, root: TrustRoot, collateral: CollateralSource, *, clock: Callable[[], float] = time.time
    ) -> None:
        import dcap_qvl

        self.root = root
        self.collateral = collateral
        self._clock = clock
        self._engine = dcap_qvl.QuoteVerifier(root.der)
        self._prepared: OrderedDict[str, _Prepared] = OrderedDict()
        self._lock = threading.Lock()

    def verify(self, quote: bytes, *, now: float | None = None, record: Record | None = None) -> VerifiedEvidence:
        """Verify a quote. Whether its claims are acceptable is for a policy.

        :param now: judge at this time (seconds since 1970) instead of the clock's.
        :param record: where each check is noted.
        :raises EvidenceError: the leaf that says why the quote is not genuine, or cannot be judged.
        :raises UnavailableError: the collateral cannot be fetched. :raises InputError: its file cannot be read.
        """
        moment = _moment(self._clock() if now is None else now)
        record = record if record is not None else Record()
        with record.step("quote") as found:
            parsed = parse_quote(quote)
            found.detail = f"{parsed.tee.upper()} quote, version {parsed.header.version}, {parsed.size} bytes"
        with record.step("root") as found:
            chain_checks.check_quote_root(parsed.chain, self.root)
            found.detail = self.root.description
        with record.step("collateral") as found:
            prepared = self._prepare(quote)
            record.collateral = prepared.collateral
            record.validities = (*prepared.validities, *parsed.chain.validities)
            first = self._check_dates(parsed, prepared, moment)
            chain_checks.check_kind(parsed, prepared.collateral)
            found.detail = f"until {first.not_after:%Y-%m-%d %H:%M} UTC, when the {first.part} expires"
        with record.step("revocation") as found:
            chain_checks.check_revocation(parsed.chain, prepared.collateral)
            found.detail = "neither the machine's certificate nor one above it"
        with record.step("debug") as found:
            if parsed.report.debug:
                raise _in_debug_mode(parsed)
            found.detail = "the debug attribute is off"
        with record.step("signature") as found:
            claims = self._judge(quote, parsed, prepared, moment)
            found.detail = f"machine {claims['platform']['pck']['ppid'].hex()}"
            return self._evidence(parsed, claims, first, moment)

    def _prepare(self, quote: bytes) -> _Prepared:
        """The collateral, with everything done that does not depend on the quote."""
        import dcap_qvl

        collateral = self.collateral.collateral(quote)
        with self._lock:
            prepared = self._prepared.get(collateral.text)
            if prepared is None or prepared.collateral is not collateral:
                chain_checks.check_collateral_root(collateral, self.root)
                try:
                    engine = dcap_qvl.QuoteCollateralV3.from_json(collateral.text)
                except ValueError as error:
                    raise CollateralMalformedError("the collateral cannot be read") from error
                prepared = _Prepared(collateral, engine, tuple(collateral.validities()))
                self._prepared[collateral.text] = prepared
                while len(self._prepared) > _PREPARED_LIMIT:
                    self._prepared.popitem(last=False)
            return prepared

    @staticmethod
    def _check_dates(parsed: Quote, prepared: _Prepared, now: datetime) -> Validity:
        """Check all dates; the validity that ends first."""
        validities = (*prepared.validities, *parsed.chain.validities)
        chain_checks.check_chain_dates(parsed.chain, now)
        chain_checks.check_dates(prepared.validities, now)
        return min(validities, key=lambda validity: validity.not_after)

    def _judge(self, quote: bytes, parsed: Quote, prepared: _Prepared, now: datetime) -> dict[str, Any]:
        """The library's verdict: its claims about a quote that it found genuine."""
        import dcap_qvl

        seconds = int(now.timestamp())
        try:
            # The library would judge by a policy too, but stops at the first reason; ours gives all of them.
            verdict = self._engine.verify_with_policy(
                quote, prepared.engine, seconds, dcap_qvl.QuotePolicy.claims_only(seconds)
            )
            claims: dict[str, Any] = from_json(verdict.to_json())
        except ValueError as error:
            if "certificate chain" in str(error) or "CRL" in str(error):
                cause = chain_checks.diagnose(parsed.chain, prepared.collateral)
                if cause is not None:
                    raise cause from error
            raise explain_failure(str(error)) from error
        except BaseException as error:
            # A panic of the Rust code arrives as an exception that is no Exception. It is a refusal, not a crash.
            if type(error).__name__ == "PanicException":
                raise UnverifiableEvidenceError("the verifier library failed on this evidence") from error
            raise
        pck = claims["platform"]["pck"]
        pck["ppid"], pck["fmspc"] = bytes(pck["ppid"]), bytes(pck["fmspc"])
        return claims

    def _evidence(self, parsed: Quote, claims: dict[str, Any], first: Validity, now: datetime) -> VerifiedEvidence:
        report = parsed.report
        _check_agreement(parsed, claims)
        qe_status = claims["qe"]["tcb_level"]["tcbStatus"]
        if qe_status not in _QE_STATUSES:
            raise UnverifiableEvidenceError(f"the QE identity gives the quoting enclave the unknown status {qe_status}")
        enclave = report if isinstance(report, EnclaveReport) else None
        domain = None
        if not isinstance(report, EnclaveReport):
            domain = TrustDomain(
                mrtd=report.mrtd,
                rtmrs=report.rtmrs,
                mr_config_id=report.mr_config_id,
                mr_owner=report.mr_owner,
                mr_owner_config=report.mr_owner_config,
                attributes=report.attributes,
                xfam=report.xfam,
            )
        return VerifiedEvidence(
            tee=parsed.tee,
            simulated=self.root.simulated or parsed.chain.simulated,
            root=self.root.name,
            root_fingerprint=self.root.fingerprint,
            own_root=not self.root.is_intel,
            mrenclave=enclave.mrenclave if enclave else b"",
            mrsigner=enclave.mrsigner if enclave else b"",
            isv_prod_id=enclave.isv_prod_id if enclave else 0,
            isv_svn=enclave.isv_svn if enclave else 0,
            debug=report.debug,
            attributes=report.attributes,
            report_data=report.report_data,
            tcb_status=claims["tcb"]["status"],
            qe_tcb_status=qe_status,
            advisory_ids=tuple(claims["tcb"]["advisory_ids"]),
            tcb_evaluation_data_number=min(claims["tcb"]["eval_data_number"], claims["qe"]["tcb_eval_data_number"]),
            tcb_date=datetime.fromtimestamp(claims["platform"]["tcb_date_tag"], UTC),
            ppid=claims["platform"]["pck"]["ppid"],
            fmspc=claims["platform"]["pck"]["fmspc"],
            collateral_expires=first.not_after,
            verified_at=now,
            trust_domain=domain,
        )


def _in_debug_mode(parsed: Quote) -> DebugEnclaveError:
    if parsed.tee == "sgx":
        return DebugEnclaveError(
            "the enclave runs in debug mode: the host can read its memory",
            hint="Build the enclave without debug mode (Gramine: sgx.debug = false).",
        )
    return DebugEnclaveError(
        "the trust domain runs in debug mode: the host can read its memory",
        hint="Start the trust domain without the debug attribute.",
    )


def _check_agreement(parsed: Quote, claims: dict[str, Any]) -> None:
    """The library and our parser must have read the same out of the quote: what is judged is what was verified."""
    report = parsed.report
    if isinstance(report, EnclaveReport):
        theirs = claims["report"].get("SgxEnclave", {})
        ours = {
            "mr_enclave": report.mrenclave.hex(),
            "mr_signer": report.mrsigner.hex(),
            "isv_prod_id": report.isv_prod_id,
            "isv_svn": report.isv_svn,
            "attributes": report.attributes.hex(),
            "report_data": report.report_data.hex(),
        }
    else:
        theirs = claims["report"].get("TD10", {})
        ours = {
            "mr_td": report.mrtd.hex(),
            "mr_config_id": report.mr_config_id.hex(),
            "mr_owner": report.mr_owner.hex(),
            "mr_owner_config": report.mr_owner_config.hex(),
            "td_attributes": report.attributes.hex(),
            "xfam": report.xfam.hex(),
            "report_data": report.report_data.hex(),
            **{f"rt_mr{index}": value.hex() for index, value in enumerate(report.rtmrs)},
        }
    extension, pck = parsed.chain.extension, claims["platform"]["pck"]
    agreed = all(theirs.get(name) == value for name, value in ours.items())
    if not agreed or pck["ppid"] != extension.ppid or pck["fmspc"] != extension.fmspc:
        raise UnverifiableEvidenceError("the verifier library read something else in the quote than our own parser")


def _moment(seconds: float) -> datetime:
    """The time in UTC, whole seconds.

    :raises EvidenceError: it is no time at which evidence could be judged.
    """
    if not math.isfinite(seconds) or not 0 <= seconds < 1 << 40:
        raise EvidenceError("evidence cannot be judged at this time", hint="Check this machine's clock.")
    try:
        return datetime.fromtimestamp(int(seconds), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise EvidenceError("evidence cannot be judged at this time", hint="Check this machine's clock.") from error
