"""What ``sealserve verify`` tells: every check of a replica, in order, whether it held and what it found."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sealserve.addresses import parse_address
from sealserve.client.attestation import (
    Claims,
    PresentedEvidence,
    check_models,
    open_connection,
    parse_claims,
    request_evidence,
)
from sealserve.client.deadline import Deadline
from sealserve.client.server_name import DEFAULT_SERVER_NAME, check_server_name
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

    :param seconds: from connecting to the last check. :param error: the first refusal, None if all held.
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

    @property
    def accepted(self) -> bool:
        """Whether a client with this policy would send inputs."""
        return self.error is None and self.evidence is not None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        out: dict[str, Any] = {
            "accepted": self.accepted,
            "target": self.target,
            "server_name": self.server_name,
            "at": self.at.isoformat(timespec="seconds"),
            "seconds": round(self.seconds, 4),
            "checks": [{"name": c.name, "outcome": c.outcome, "detail": c.detail} for c in self.checks],
        }
        if self.presented is not None:
            out["tls"] = {"version": self.presented.tls.version, "cipher": self.presented.tls.cipher}
            out["key_sha256"] = self.presented.spki_digest.hex()
            out["nonce"] = self.presented.nonce.hex()
            out["quote"] = self.presented.quote.hex()
            out["claims"] = self.presented.claims.hex()
        if self.evidence is not None:
            out["evidence"] = self.evidence.as_dict()
        # What a replica claims counts only if its evidence was accepted.
        if self.claims is not None and self.accepted:
            out["replica"] = self.claims.replica
            out["models"] = [
                {"name": m.name, "version": m.version, "digest": m.digest.hex()} for m in self.claims.models
            ]
        if self.error is not None:
            out["refusal"] = self.error.as_dict()
        return out


def examine(
    target: str, policy: AppraisalPolicy, *, server_name: str = DEFAULT_SERVER_NAME, timeout: float = 10.0
) -> Report:
    """Check the replica at ``target`` as :func:`~sealserve.client.attest` does, and keep what every check found.

    A refusal is in the report and is not raised.

    :raises UnavailableError: the target cannot be reached or is silent, so that there is nothing to report.
    """
    deadline = Deadline(timeout)
    started = time.monotonic()
    report = Report(target, check_server_name(server_name), datetime.now(UTC))
    try:
        _gather(report, deadline)
        _appraise(report, policy)
    except TrustError as error:
        report.error = error
    report.seconds = time.monotonic() - started
    return report


def _gather(report: Report, deadline: Deadline) -> None:
    try:
        address = parse_address(report.target)
        connection = open_connection(address, server_name=report.server_name, deadline=deadline)
    except TrustError as error:
        report.checks.append(Check("connection", "Connection", ok=False, detail=error.message))
        raise
    try:
        tls = connection.transport.facts
        report.checks.append(Check("connection", "Connection", ok=True, detail=f"{tls.version}, {tls.cipher}"))
        presented = report.presented = request_evidence(connection, deadline)
    except TrustError as error:
        report.checks.append(Check("evidence", "Evidence given", ok=False, detail=error.message))
        raise
    finally:
        connection.close()
    detail = (
        f"a quote of {len(presented.quote):,} bytes, for nonce {presented.nonce.hex()[:16]}… and this connection's "
    )
    detail += f"key {presented.spki_digest.hex()[:16]}…"
    report.checks.append(Check("evidence", "Evidence given", ok=True, detail=detail))


def _appraise(report: Report, policy: AppraisalPolicy) -> None:
    presented = report.presented
    if presented is None:
        raise TrustError("there is no evidence to appraise")
    appraisal = policy.appraise_with_steps(presented.quote, report_data=presented.report_data)
    report.evidence = appraisal.evidence
    report.checks += [Check(s.name, s.title, s.ok, s.detail) for s in appraisal.steps if s.name != "result"]
    try:
        appraisal.require()
    except TrustError:
        report.checks.append(Check("models", "Models", ok=None, detail="not reached"))
        raise
    try:
        report.claims = parse_claims(presented.claims)
        check_models(report.claims, policy)
    except TrustError as error:
        report.checks.append(Check("models", "Models", ok=False, detail=error.message))
        raise
    served = ", ".join(f"{m.name} version {m.version} ({m.digest.hex()[:16]}…)" for m in report.claims.models) or "none"
    listed = "" if policy.models else "; any model is accepted"
    report.checks.append(Check("models", "Models", ok=True, detail=served + listed))
