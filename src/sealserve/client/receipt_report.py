"""What ``sealserve verify receipt`` tells: every check of a receipt that was kept. Nobody is asked anything."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sealserve.client.attestation import Claims, parse_claims
from sealserve.client.receipt_files import KeptReceipt
from sealserve.client.receipts import check_model, require_same
from sealserve.client.report import Check
from sealserve.client.status import printable
from sealserve.errors import EvidenceError, SealserveError, TrustError
from sealserve.evidence import AppraisalPolicy, Collateral, VerifiedEvidence
from sealserve.evidence.appraisal import TITLES
from sealserve.ratls import receipts
from sealserve.ratls.receipts import SignedStatement, Statement

_TITLES = {
    "receipt": "Receipt is well-formed",
    "receipt-key": "Signed by the key that the evidence names",
    "tls-key": "Given over the TLS key of the evidence",
    "models": "Model that answered",
    "request": "Request",
    "answer": "Answer",
    "nonce": "Nonce",
}


@dataclass
class ReceiptReport:
    """The checks of one receipt.

    :param judged_at: seconds since 1970 at which the evidence was judged. :param error: the first refusal.
    :param statement: what it says; it counts only if ``accepted``.
    """

    checks: list[Check] = field(default_factory=list)
    statement: Statement | None = None
    evidence: VerifiedEvidence | None = None
    claims: Claims | None = None
    error: SealserveError | None = None
    judged_at: float | None = None
    policy_digest: str | None = None

    @property
    def accepted(self) -> bool:
        """Whether the policy's enclave says so, and what was compared is the same."""
        return self.error is None and self.evidence is not None and self.claims is not None

    @property
    def judged_on(self) -> str:
        """The time as of which the evidence was judged, for people."""
        return "no time" if self.judged_at is None else f"{_date(self.judged_at):%Y-%m-%d %H:%M:%S} UTC"

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        out: dict[str, Any] = {
            "accepted": self.accepted,
            "policy_sha256": self.policy_digest,
            "judged_at": None if self.judged_at is None else _date(self.judged_at).isoformat(timespec="seconds"),
            "checks": [{"name": c.name, "outcome": c.outcome, "detail": c.detail} for c in self.checks],
        }
        if self.statement is not None:
            told = {name: v.hex() if isinstance(v, bytes) else v for name, v in vars(self.statement).items()}
            out["statement"] = told | {"time": _date(self.statement.time / 1000).isoformat(timespec="milliseconds")}
        if self.evidence is not None:
            out["evidence"] = self.evidence.as_dict()
        if self.claims is not None and self.accepted:
            out["replica"] = self.claims.replica
        if self.error is not None:
            out["refusal"] = self.error.as_dict()
        return out


def judge_receipt(
    kept: KeptReceipt,
    policy: AppraisalPolicy,
    *,
    request: bytes | None = None,
    answer: bytes | None = None,
    at: float | None = None,
) -> ReceiptReport:
    """Judge a receipt. A refusal is in the report and is not raised.

    :param request: the message that it must be for, beside what the file has. :param answer: likewise.
    :param at: seconds since 1970 at which to judge the evidence, with the collateral that was kept; the receipt's own
        time, if None.
    """
    report = ReceiptReport()
    try:
        signed = _read(report, kept)
        _appraise(report, kept, policy, signed.statement.time / 1000 if at is None else at)
        _judge(report, kept, policy, signed, {"request": request, "answer": answer})
    except TrustError as error:
        report.error = error
    done = {check.name for check in report.checks}
    skipped = [Check(n, title, ok=None, detail="not reached") for n, title in _TITLES.items() if n not in done]
    report.checks += skipped
    return report


def _read(report: ReceiptReport, kept: KeptReceipt) -> SignedStatement:
    with _check(report, "receipt") as found:
        signed = receipts.read(kept.receipt)
        statement = report.statement = signed.statement
        found.append(f"{printable(statement.method)}, on {_date(statement.time / 1000):%Y-%m-%d %H:%M:%S} UTC")
        found.append("by the clock of the replica's host")
    return signed


def _appraise(report: ReceiptReport, kept: KeptReceipt, policy: AppraisalPolicy, moment: float) -> None:
    report.judged_at = moment
    presented = kept.presented
    try:
        collateral = Collateral.from_json(kept.collateral)
    except TrustError as error:
        report.checks.append(Check("collateral", TITLES["collateral"], ok=False, detail=error.message))
        raise
    appraisal = policy.judging_with(collateral).appraise_with_steps(
        presented.quote, report_data=presented.report_data, now=moment
    )
    report.evidence = appraisal.evidence
    report.checks += [Check(s.name, s.title, s.ok, s.detail) for s in appraisal.steps if s.name != "result"]
    appraisal.require()


def _judge(
    report: ReceiptReport,
    kept: KeptReceipt,
    policy: AppraisalPolicy,
    signed: SignedStatement,
    given: dict[str, bytes | None],
) -> None:
    statement = signed.statement
    with _check(report, "receipt-key") as found:
        claims = parse_claims(kept.presented.claims)
        if not claims.receipt_key:
            raise EvidenceError("the evidence names no key that signs receipts")
        signed.verify(claims.receipt_key)
        found.append(f"{signed.key_id.hex()[:16]}…, of {claims.replica or 'a replica without a name'}")
    with _check(report, "tls-key") as found:
        require_same("TLS key", statement.tls_key, kept.presented.spki_digest)
        found.append(f"{statement.tls_key.hex()[:16]}…")
    with _check(report, "models") as found:
        check_model(statement, policy)
        found.append(f"{printable(statement.model)} version {statement.version} ({statement.digest.hex()[:16]}…)")
        found.append("the policy lists it" if policy.models else "any model is accepted")
    for name, digest in (("request", statement.request), ("answer", statement.answer)):
        messages = [message for message in (getattr(kept, name), given[name]) if message is not None]
        if not messages:
            detail = f"not at hand; its SHA-256 is {digest.hex()}"
            report.checks.append(Check(name, _TITLES[name], ok=None, detail=detail))
            continue
        with _check(report, name) as found:
            for message in messages:
                require_same(name, digest, hashlib.sha256(message).digest())
            found.append(f"the message of {len(messages[0]):,} bytes")
    detail = f"{statement.nonce.hex()}; who asked knows whether it is theirs"
    report.checks.append(Check("nonce", _TITLES["nonce"], ok=None, detail=detail))
    report.claims = claims


@contextmanager
def _check(report: ReceiptReport, name: str) -> Iterator[list[str]]:
    """A check, failed if the block raises; it puts what it finds into the list."""
    found: list[str] = []
    try:
        yield found
    except TrustError as error:
        report.checks.append(Check(name, _TITLES[name], ok=False, detail=error.message))
        raise
    report.checks.append(Check(name, _TITLES[name], ok=True, detail=", ".join(found)))


def _date(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
