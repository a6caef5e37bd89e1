"""The decision: may this enclave have this grant? Made, recorded and only then told, in this order.

Everything that costs processor time, the appraisal of quotes, is in :meth:`Decider._appraise`.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from cryptography import x509

from sealserve.broker.answer import granted
from sealserve.broker.audit_writer import AuditWriter
from sealserve.broker.decision_record import DecisionRecord
from sealserve.broker.grants import HeldGrant
from sealserve.broker.judges import Judges, MustWaitError
from sealserve.broker.messages import Evidence, Granted, Refused, Request, decode
from sealserve.broker.refusals import (
    AmbiguousGrantError,
    NoGrantAcceptsError,
    UnknownGrantError,
    general_reason,
    is_verdict,
)
from sealserve.broker.statistics import Statistics
from sealserve.broker.strangers import Strangers
from sealserve.broker.troubles import Troubles
from sealserve.errors import SealserveError
from sealserve.logs import event, get_logger
from sealserve.ratls import CertificateEvidence, broker_report_data, extract_evidence, spki_digest
from sealserve.secret import Secret

_log = get_logger(__name__)
_AT_ONCE = 4
"""Policies that may look at evidence while everybody else waits: a millisecond each."""


@dataclass(frozen=True)
class Session:
    """What is known of a connection: facts that TLS proved, not what the peer says.

    :param certificate: whose key the peer proved to have. :param exporter: see :mod:`sealserve.ratls.binding`.
    """

    peer: str
    certificate: x509.Certificate
    exporter: bytes = b""
    nonce: bytes = b""


class Decider:
    """Decides over grants, and records every decision.

    :param grants: gives the grants as they are now, by deployment; raises if they cannot be trusted.
    :param audit: where decisions are recorded before they are told. :param statistics: where they are counted.
    """

    def __init__(
        self,
        grants: Callable[[], Mapping[str, HeldGrant]],
        audit: AuditWriter,
        statistics: Statistics | None = None,
    ) -> None:
        self._grants = grants
        self._audit = audit
        self._statistics = statistics or Statistics()
        self._strangers = Strangers()
        self._troubles = Troubles()
        self._judges = Judges()

    async def version_2(self, session: Session, frame: bytes) -> Granted | Refused:
        """Decide over an ``evidence`` message of protocol version 2. Never raises for what the enclave sent."""
        record = DecisionRecord(2, session.peer)
        try:
            grant, names = await self._judges.run(partial(self._judge_version_2, session, frame, record))
            answer = granted(record.decision, grant, names)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, the answer is no
            return await self._refuse(record, error)
        record.grants(answer, grant.tls_key)
        if not await self._written(record):
            return Refused(decision=record.decision, reason="unavailable")
        return answer

    async def version_1(self, session: Session) -> Secret | None:
        """Decide over the evidence in an RA-TLS certificate: a secret, or nothing.

        Never raises for what the enclave sent.
        """
        record = DecisionRecord(1, session.peer)
        try:
            candidates = {name: grant for name, grant in self._grants().items() if grant.version_1}
            judge = partial(self._judge_version_1, session, candidates, record)
            grant, key = await self._judges.run(judge, at_once=len(candidates) <= _AT_ONCE)
            secret = grant.version_1_secret()
            # What is recorded is told as a grant of version 2; version 1 sends the key alone.
            told = granted(record.decision, grant, (key,), version_1=True)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, the answer is no
            await self._refuse(record, error)
            return None
        record.grants(told)
        return secret if await self._written(record) else None

    async def summarise_strangers(self) -> None:
        """Record what was only counted."""
        summary = self._strangers.summary()
        if summary is not None:
            try:
                await self._audit.append(summary)
            except SealserveError as error:
                event(_log, logging.ERROR, "audit-failed", reason=error, hint=error.hint)
            event(_log, logging.WARNING, "strangers-refused", **{k: v for k, v in summary.items() if k != "event"})

    async def refuse(self, peer: str, protocol: int, error: SealserveError) -> Refused:
        """Record that somebody is refused before there is anything to judge."""
        return await self._refuse(DecisionRecord(protocol, peer), error)

    def close(self) -> None:
        """Judge nothing more."""
        self._judges.close()

    def _judge_version_2(
        self, session: Session, frame: bytes, record: DecisionRecord, may_wait: bool
    ) -> tuple[HeldGrant, tuple[str, ...]]:
        evidence = decode(frame, Evidence)
        record.quote(evidence.quote)
        request = decode(evidence.request, Request)
        record.fields["deployment"] = request.deployment
        key = spki_digest(session.certificate)
        record.fields["key_sha256"] = key.hex()
        grant = self._grants().get(request.deployment)
        if grant is None:
            raise UnknownGrantError(f"there is no grant for a deployment named {request.deployment}")
        names = tuple(dict.fromkeys(request.keys)) or tuple(grant.keys)
        if unknown := [name for name in names if name not in grant.keys]:
            raise UnknownGrantError(f"the grant for {request.deployment} has no key named {', '.join(unknown)}")
        report_data = broker_report_data(session.nonce, key, session.exporter, evidence.request)
        self._appraise(grant, evidence.quote, report_data, record, may_wait=may_wait)
        return grant, names

    def _judge_version_1(
        self, session: Session, candidates: Mapping[str, HeldGrant], record: DecisionRecord, may_wait: bool
    ) -> tuple[HeldGrant, str]:
        record.fields["key_sha256"] = spki_digest(session.certificate).hex()
        evidence = extract_evidence(session.certificate)
        record.quote(evidence.quote)
        accepting, refusals = self._try_all(candidates, evidence, record, may_wait=may_wait)
        if not accepting:
            reasons = "; ".join(f"{name}: {why}" for name, why in refusals.items())
            raise NoGrantAcceptsError(f"no grant of version 1 accepts the evidence ({reasons or 'there is none'})")
        if len(accepting) > 1:
            names = ", ".join(accepting)
            raise AmbiguousGrantError(
                f"the evidence is accepted by more than one grant ({names}), and version 1 cannot name one",
                hint="Give the grants policies that no enclave satisfies together, or version_1 to one of them only.",
            )
        (deployment,) = accepting
        record.fields["deployment"] = deployment
        grant = candidates[deployment]
        if grant.version_1 is None:
            raise RuntimeError("the grant does not speak version 1")
        return grant, grant.version_1.key

    def _try_all(
        self,
        candidates: Mapping[str, HeldGrant],
        evidence: CertificateEvidence,
        record: DecisionRecord,
        *,
        may_wait: bool,
    ) -> tuple[list[str], dict[str, str]]:
        """Deployments whose policies accept the evidence, and why the others' do not.

        :raises SealserveError: one of them cannot judge now. It might accept, too, and then nobody could say which
            grant is meant.
        """
        accepting: list[str] = []
        refusals: dict[str, str] = {}
        for name, grant in candidates.items():
            try:
                self._appraise(grant, evidence.quote, evidence.report_data, record, may_wait=may_wait)
            except SealserveError as error:
                if not is_verdict(error):
                    raise
                refusals[name] = error.message
            else:
                accepting.append(name)
        return accepting, refusals

    @staticmethod
    def _appraise(
        grant: HeldGrant, quote: bytes, report_data: bytes, record: DecisionRecord, *, may_wait: bool
    ) -> None:
        """About a millisecond of processor time for each quote and policy, seconds where collateral is fetched.

        :raises SealserveError: the evidence is not accepted. :raises MustWaitError: see :class:`Judges`.
        """
        if not may_wait and grant.policy.would_block(quote):
            raise MustWaitError
        appraisal = grant.policy.appraise_with_steps(quote, report_data=report_data)
        if appraisal.evidence is not None:
            record.evidence(appraisal.evidence, bound=hmac.compare_digest(appraisal.evidence.report_data, report_data))
        appraisal.require()

    async def _refuse(self, record: DecisionRecord, error: Exception) -> Refused:
        reason = general_reason(error)
        record.refuses(error)
        if reason == "unavailable":
            self._troubles.tell(error, record.decision)
        if not record.attested and not self._strangers.admit(str(record.fields["reason"])):
            self._count(record, recorded=False)
            return Refused(decision=record.decision, reason=reason)
        await self._written(record)
        return Refused(decision=record.decision, reason=reason)

    def _count(self, record: DecisionRecord, *, recorded: bool = True, failure: str | None = None) -> None:
        if recorded:
            self._statistics.recorded(failure)
        outcome, reason = ("refused", failure) if failure else (record.fields["outcome"], record.fields.get("reason"))
        seconds = time.monotonic() - record.started
        self._statistics.decided(record.fields["protocol"], outcome, reason or "", seconds)
        if (evidence := record.fields.get("evidence")) is not None:
            tee = "simulated" if evidence["simulated"] else evidence["tee"]
            self._statistics.evidence[tee, evidence["tcb_status"]] += 1

    async def _written(self, record: DecisionRecord) -> bool:
        """Put the decision on disk, then into the log; false if it is not on disk."""
        try:
            head = await self._audit.append(record.fields)
        except SealserveError as error:
            self._count(record, failure=error.reason)
            event(_log, logging.ERROR, "audit-failed", reason=error, hint=error.hint, decision=record.decision)
            return False
        self._count(record)
        granted = record.fields["outcome"] == "granted"
        event(
            _log,
            logging.INFO if granted else logging.WARNING,
            "grant-released" if granted else "grant-refused",
            **{name: record.fields.get(name) for name in _LOGGED if record.fields.get(name) is not None},
            audit_head=head,
        )
        return True


_LOGGED = ("decision", "protocol", "peer", "deployment", "keys", "simulated", "reason", "detail")
