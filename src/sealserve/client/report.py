"""What ``sealserve verify`` tells: every check of a replica, in order, whether it held and what it found."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sealserve.client.attestation import (
    Claims,
    PresentedEvidence,
    open_connection,
    request_evidence,
)
from sealserve.client.deadline import Deadline
from sealserve.client.endpoint import Endpoint
from sealserve.client.errors import ServerNotAcceptedError
from sealserve.client.kept import KeptEvidence
from sealserve.client.server_name import DEFAULT_SERVER_NAME, check_server_name
from sealserve.client.stored_claims import PLAIN_TEXT_HOLDS, check_plain_text, claims_as_dict, judge_claims
from sealserve.client.tls import OwnerCertificates
from sealserve.errors import SealserveError, TrustError
from sealserve.evidence import AppraisalPolicy, VerifiedEvidence


@dataclass(frozen=True)
class Check:
    """One check.

    :param name: for scripts. :param title: for people. :param ok: None if it was not reached.
    """

    name: str
    title: str
    ok: bool | None
    detail: str

    @property
    def outcome(self) -> str:
        """``ok``, ``failed`` or ``skipped``."""
        return "skipped" if self.ok is None else "ok" if self.ok else "failed"


@dataclass
class Report:
    """The checks of one replica.

    :param at: when evidence was asked for. :param seconds: from connecting to the last check.
    :param policy_digest: SHA-256 of the policy's file, in hex, if it is known.
    :param error: the first refusal, None if all held. :param live: False for evidence out of a file.
    """

    target: str
    server_name: str
    at: datetime
    checks: list[Check] = field(default_factory=list)
    presented: PresentedEvidence | None = None
    evidence: VerifiedEvidence | None = None
    claims: Claims | None = None
    error: SealserveError | None = None
    seconds: float = 0.0
    policy_digest: str | None = None
    live: bool = True

    @property
    def kept(self) -> KeptEvidence | None:
        """The evidence, to be saved; None if none was given."""
        if self.presented is None:
            return None
        return KeptEvidence(self.target, self.server_name, self.at, self.presented)

    @property
    def accepted(self) -> bool:
        """Whether a client with this policy would send inputs; of kept evidence, whether it would have."""
        return self.error is None and self.evidence is not None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        out: dict[str, Any] = {
            "accepted": self.accepted,
            "live": self.live,
            "target": self.target,
            "server_name": self.server_name,
            "at": self.at.isoformat(timespec="seconds"),
            "seconds": round(self.seconds, 4),
            "policy_sha256": self.policy_digest,
            "checks": [{"name": c.name, "outcome": c.outcome, "detail": c.detail} for c in self.checks],
        }
        if (kept := self.kept) is not None:
            out = kept.as_dict() | out
        if self.evidence is not None:
            out["evidence"] = self.evidence.as_dict()
        # What a replica claims counts only if its evidence was accepted.
        if self.claims is not None and self.accepted:
            out |= claims_as_dict(self.claims)
        if self.error is not None:
            out["refusal"] = self.error.as_dict()
        return out


def examine(
    target: str,
    policy: AppraisalPolicy,
    *,
    server_name: str = DEFAULT_SERVER_NAME,
    certificates: OwnerCertificates | None = None,
    timeout: float = 10.0,
) -> Report:
    """Check the replica at ``target`` as :func:`~sealserve.client.attest` does, and keep what every check found.

    A refusal is in the report and is not raised.

    :raises UnavailableError: the target cannot be reached or is silent, so that there is nothing to report.
    """
    deadline = Deadline(timeout)
    started = time.monotonic()
    report = Report(target, check_server_name(server_name), datetime.now(UTC))
    try:
        _gather(report, certificates, deadline)
        _appraise(report, policy)
    except TrustError as error:
        report.error = error
    report.seconds = time.monotonic() - started
    return report


def _gather(report: Report, certificates: OwnerCertificates | None, deadline: Deadline) -> None:
    roots = certificates.roots if certificates else None
    try:
        endpoint = Endpoint.attested(report.target, report.server_name, certificates)
        connection = open_connection(endpoint, deadline)
    except ServerNotAcceptedError as error:
        report.checks.append(Check("certificate", "Owner's certificate", ok=False, detail=error.message))
        raise
    except TrustError as error:
        report.checks.append(Check("connection", "Connection", ok=False, detail=error.message))
        raise
    try:
        tls = connection.peer.facts
        report.checks.append(Check("connection", "Connection", ok=True, detail=f"{tls.version}, {tls.cipher}"))
        if roots is not None:
            detail = f"leads to {roots}, for the name {report.server_name}"
            report.checks.append(Check("certificate", "Owner's certificate", ok=True, detail=detail))
        asked = time.monotonic()
        presented = report.presented = request_evidence(connection, deadline)
        waited = time.monotonic() - asked
    except TrustError as error:
        report.checks.append(Check("evidence", "Evidence given", ok=False, detail=error.message))
        raise
    finally:
        connection.close()
    _describe(report, presented)
    detail = f"for a random nonce that was made for this question, {presented.nonce.hex()[:16]}…; answered in "
    report.checks.append(Check("freshness", "Fresh", ok=True, detail=detail + f"{waited * 1000:.0f} ms"))


def rejudge(kept: KeptEvidence, policy: AppraisalPolicy, *, now: float | None = None) -> Report:
    """Judge evidence out of a file as :func:`examine` does what it gets; nobody is asked anything.

    :param now: seconds since 1970 by which collateral is judged; this machine's clock, if None.
    """
    started = time.monotonic()
    report = Report(kept.target, kept.server_name, kept.at, presented=kept.presented, live=False)
    facts = kept.presented.tls
    detail = f"none; the file tells of {facts.version}, {facts.cipher}"
    report.checks.append(Check("connection", "Connection", ok=None, detail=detail))
    _describe(report, kept.presented)
    age = (datetime.now(UTC) - kept.at).total_seconds()
    detail = f"asked for on {kept.at:%Y-%m-%d %H:%M:%S %Z}, {age / 3600:,.1f} hours ago, by the word of the file alone"
    report.checks.append(Check("freshness", "Fresh", ok=None, detail=detail))
    try:
        _appraise(report, policy, now, kept.told)
    except TrustError as error:
        report.error = error
    report.seconds = time.monotonic() - started
    return report


def _describe(report: Report, presented: PresentedEvidence) -> None:
    detail = f"a quote of {len(presented.quote):,} bytes, for the key {presented.spki_digest.hex()[:16]}… "
    detail += "of the server's certificate"
    report.checks.append(Check("evidence", "Evidence given", ok=True, detail=detail))


def _appraise(
    report: Report, policy: AppraisalPolicy, now: float | None = None, told: Mapping[str, Any] | None = None
) -> None:
    presented = report.presented
    if presented is None:
        raise TrustError("there is no evidence to appraise")
    appraisal = policy.appraise_with_steps(presented.quote, report_data=presented.report_data, now=now)
    report.evidence = appraisal.evidence
    report.checks += [Check(s.name, s.title, s.ok, s.detail) for s in appraisal.steps if s.name != "result"]
    try:
        evidence = appraisal.require()
    except TrustError:
        report.checks.append(Check("models", "Models", ok=None, detail="not reached"))
        raise
    try:
        report.claims, detail = judge_claims(presented.claims, policy)
    except TrustError as error:
        report.checks.append(Check("models", "Models", ok=False, detail=error.message))
        raise
    report.checks.append(Check("models", "Models", ok=True, detail=detail))
    if report.claims is not None and report.claims.shared_tls_key:
        detail = "not this enclave's alone: its owner has it, and every enclave that gets it from the key broker"
        report.checks.append(Check("tls-key", "TLS key", ok=True, detail=detail))
    if told is None:
        return
    try:
        check_plain_text(told, presented.claims, evidence)
    except TrustError as error:
        report.checks.append(Check("plain-text", "Plain text", ok=False, detail=error.message))
        raise
    report.checks.append(Check("plain-text", "Plain text", ok=True, detail=PLAIN_TEXT_HOLDS))
