"""The decision: may this enclave have this grant? Made, recorded and only then told, in this order.

Everything that costs processor time, the appraisal of quotes, is in :meth:`Decider._appraise`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography import x509

from sealserve.broker.audit_writer import AuditWriter
from sealserve.broker.grant import ModelGrant, ReleasedKey
from sealserve.broker.grants import HeldGrant
from sealserve.broker.messages import (
    Evidence,
    Granted,
    Key,
    Model,
    Previous,
    ProtocolError,
    RefusalReason,
    Refused,
    Request,
    decode,
)
from sealserve.broker.strangers import Strangers
from sealserve.errors import EvidenceError, PolicyRefusedError, SealserveError, TrustError
from sealserve.evidence import VerifiedEvidence
from sealserve.logs import event, get_logger
from sealserve.ratls import CertificateEvidence, broker_report_data, extract_evidence, spki_digest
from sealserve.secret import Secret

_log = get_logger(__name__)
_LONGEST_DETAIL = 2000


class NoClientCertificateError(EvidenceError):
    """The enclave presented no TLS certificate, so evidence has no key to be bound to."""


class UnknownGrantError(PolicyRefusedError):
    """There is no grant for the deployment, or no key of that name in it."""


class NoGrantAcceptsError(PolicyRefusedError):
    """No grant's policy accepts the evidence (version 1)."""


class AmbiguousGrantError(PolicyRefusedError):
    """More than one grant's policy accepts the evidence, and version 1 cannot say which is meant."""


@dataclass(frozen=True)
class Session:
    """What is known of a connection: facts that TLS proved, not what the peer says.

    :param certificate: whose key the peer proved to have. :param exporter: see :mod:`sealserve.ratls.binding`.
    """

    peer: str
    certificate: x509.Certificate | None
    exporter: bytes = b""
    nonce: bytes = b""


class Decider:
    """Decides over grants, and records every decision.

    :param grants: gives the grants as they are now, by deployment; raises if they cannot be trusted.
    :param audit: where decisions are recorded before they are told.
    """

    def __init__(self, grants: Callable[[], Mapping[str, HeldGrant]], audit: AuditWriter) -> None:
        self._grants = grants
        self._audit = audit
        self._strangers = Strangers()

    async def version_2(self, session: Session, frame: bytes) -> Granted | Refused:
        """Decide over an ``evidence`` message of protocol version 2. Never raises for what the enclave sent."""
        record = _Record(2, session)
        try:
            grant, names = await asyncio.to_thread(self._judge_version_2, session, frame, record)
            answer = _granted(record.decision, grant, names)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, the answer is no
            return await self._refuse(record, error)
        record.grants(answer)
        if not await self._written(record):
            return Refused(decision=record.decision, reason="unavailable")
        return answer

    async def version_1(self, session: Session) -> Secret | None:
        """Decide over the evidence in an RA-TLS certificate: a secret, or nothing.

        Never raises for what the enclave sent.
        """
        record = _Record(1, session)
        try:
            grant, key = await asyncio.to_thread(self._judge_version_1, session, record)
            secret = grant.version_1_secret()
            # What is recorded is told as a grant of version 2; version 1 sends the key alone.
            told = _granted(record.decision, grant, (key,), previous=False)
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

    async def malformed(self, session: Session, protocol: int, error: ProtocolError) -> Refused:
        """Record that somebody spoke nonsense."""
        return await self._refuse(_Record(protocol, session), error)

    def _judge_version_2(self, session: Session, frame: bytes, record: _Record) -> tuple[HeldGrant, tuple[str, ...]]:
        evidence = decode(frame, Evidence)
        record.quote(evidence.quote)
        request = decode(evidence.request, Request)
        record.fields["deployment"] = request.deployment
        if session.certificate is None:
            raise NoClientCertificateError("the enclave presented no TLS certificate")
        key = spki_digest(session.certificate)
        record.fields["key_sha256"] = key.hex()
        grant = self._grants().get(request.deployment)
        if grant is None:
            raise UnknownGrantError(f"there is no grant for a deployment named {request.deployment}")
        names = tuple(dict.fromkeys(request.keys)) or tuple(grant.keys)
        if unknown := [name for name in names if name not in grant.keys]:
            raise UnknownGrantError(f"the grant for {request.deployment} has no key named {', '.join(unknown)}")
        report_data = broker_report_data(session.nonce, key, session.exporter, evidence.request)
        self._appraise(grant, evidence.quote, report_data, record)
        return grant, names

    def _judge_version_1(self, session: Session, record: _Record) -> tuple[HeldGrant, str]:
        if session.certificate is None:
            raise NoClientCertificateError("the enclave presented no TLS certificate")
        record.fields["key_sha256"] = spki_digest(session.certificate).hex()
        evidence = extract_evidence(session.certificate)
        record.quote(evidence.quote)
        candidates = {name: grant for name, grant in self._grants().items() if grant.version_1}
        accepting, refusals = self._try_all(candidates, evidence, record)
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
        self, candidates: Mapping[str, HeldGrant], evidence: CertificateEvidence, record: _Record
    ) -> tuple[list[str], dict[str, str]]:
        """Deployments whose policies accept the evidence, and why the others' do not."""
        accepting: list[str] = []
        refusals: dict[str, str] = {}
        for name, grant in candidates.items():
            try:
                self._appraise(grant, evidence.quote, evidence.report_data, record)
            except TrustError as error:
                refusals[name] = error.message
            else:
                accepting.append(name)
        return accepting, refusals

    def _appraise(self, grant: HeldGrant, quote: bytes, report_data: bytes, record: _Record) -> None:
        """About a millisecond of processor time for each quote and policy, seconds where collateral is fetched.

        It runs in a thread of its own, so that other enclaves do not wait.

        :raises SealserveError: the evidence is not accepted.
        """
        appraisal = grant.policy.appraise_with_steps(quote, report_data=report_data)
        if appraisal.evidence is not None:
            record.evidence(appraisal.evidence, bound=hmac.compare_digest(appraisal.evidence.report_data, report_data))
        appraisal.require()

    async def _refuse(self, record: _Record, error: Exception) -> Refused:
        reason = _general_reason(error)
        record.refuses(error)
        if not record.attested and not self._strangers.admit(str(record.fields["reason"])):
            return Refused(decision=record.decision, reason=reason)
        if reason == "unavailable":
            _log.error("decision-failed", exc_info=error, extra={"fields": {"decision": record.decision}})
        await self._written(record)
        return Refused(decision=record.decision, reason=reason)

    async def _written(self, record: _Record) -> bool:
        """Put the decision on disk, then into the log; false if it is not on disk."""
        try:
            head = await self._audit.append(record.fields)
        except SealserveError as error:
            event(_log, logging.ERROR, "audit-failed", reason=error, hint=error.hint, decision=record.decision)
            return False
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


class _Record:
    """What is recorded of one decision, gathered as it is made. Nothing secret ever enters it."""

    def __init__(self, protocol: int, session: Session) -> None:
        self.decision = secrets.token_hex(8)
        self.attested = False
        """Whether the peer proved to be some enclave: with genuine evidence that was made for this session."""
        self.fields: dict[str, Any] = {
            "event": "decision",
            "decision": self.decision,
            "protocol": protocol,
            "peer": session.peer,
            "outcome": "refused",
        }

    def quote(self, quote: bytes) -> None:
        self.fields["quote_sha256"] = hashlib.sha256(quote).hexdigest()

    def evidence(self, evidence: VerifiedEvidence, *, bound: bool) -> None:
        self.attested = self.attested or bound
        self.fields["evidence"] = evidence.as_dict()
        self.fields["simulated"] = evidence.simulated

    def grants(self, answer: Granted) -> None:
        self.fields |= {
            "outcome": "granted",
            "grant_revision": answer.revision,
            "keys": [{"name": name, "version": key.version} for name, key in answer.keys.items()],
            "model": _recorded(answer.model),
        }
        if answer.previous is not None:
            self.fields["previous"] = {
                "key": {"name": answer.previous.model.key, "version": answer.previous.key.version},
                "model": _recorded(answer.previous.model),
            }

    def refuses(self, error: Exception) -> None:
        known = isinstance(error, SealserveError)
        self.fields |= {
            "outcome": "refused",
            "reason": error.reason if isinstance(error, SealserveError) else type(error).__name__,
            # The text of a foreign exception may hold anything.
            "detail": str(error)[:_LONGEST_DETAIL] if known else "a defect; the broker's log has it",
        }


def _granted(decision: str, grant: HeldGrant, names: tuple[str, ...], *, previous: bool = True) -> Granted:
    """The answer.

    :raises KeyNotReleasedError: a key of it is retired or destroyed.
    """
    return Granted(
        decision=decision,
        keys={name: _key(grant.keys[name].release()) for name in names},
        model=_model(grant.model),
        arguments=dict(grant.arguments),
        revision=grant.revision,
        refresh=grant.refresh_seconds,
        previous=_previous(grant, names) if previous else None,
    )


def _previous(grant: HeldGrant, names: tuple[str, ...]) -> Previous | None:
    """What the grant named before, for whoever asks for the model's key, until that version is retired."""
    if grant.previous is None:
        return None
    model, key = grant.previous
    if grant.model.key not in names or not key.key.releasable():
        return None
    return Previous(model=_model(model), key=_key(key.release()))


def _key(key: ReleasedKey) -> Key:
    return Key(version=key.version, value=bytes(key.value.reveal()))


def _model(model: ModelGrant) -> Model:
    return Model(name=model.name, version=model.version, digest=model.digest, mount=model.mount, key=model.key)


def _recorded(model: Model) -> dict[str, Any]:
    return {"name": model.name, "version": model.version, "digest": model.digest.hex()}


def _general_reason(error: Exception) -> RefusalReason:
    if isinstance(error, ProtocolError):
        return "bad-request"
    return "not-granted" if isinstance(error, TrustError) else "unavailable"
