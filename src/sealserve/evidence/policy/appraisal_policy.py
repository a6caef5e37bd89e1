"""A policy: a trust root, a source of collateral, and what is demanded of evidence. It appraises quotes."""

from __future__ import annotations

import copy
import hmac
import logging
import time
from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path

from sealserve.configuration import load_yaml
from sealserve.errors import ConfigurationError, InputError, SealserveError
from sealserve.evidence.appraisal import Appraisal, Record
from sealserve.evidence.attester import REPORT_DATA_SIZE
from sealserve.evidence.collateral import Collateral, CollateralSource, FixedCollateral
from sealserve.evidence.collateral_file import FileCollateral
from sealserve.evidence.errors import (
    EvidenceBindingError,
    EvidenceRefusedError,
    SimulatedEvidenceRefusedError,
    join_refusals,
    named_in_policy,
)
from sealserve.evidence.policy.document import EnclaveReference, PolicyDocument, TrustDomainSettings
from sealserve.evidence.policy.requirements import (
    AllOf,
    AnyOf,
    MrEnclave,
    MrSigner,
    OneOfMachines,
    PlatformKind,
    Requirement,
    TcbCurrent,
    measures,
)
from sealserve.evidence.policy.trust_domains import TrustDomainReference
from sealserve.evidence.roots import TrustRoot
from sealserve.evidence.service import PlatformStatus, ServiceCollateral
from sealserve.evidence.verified import VerifiedEvidence
from sealserve.evidence.verifier import Verifier
from sealserve.logs import event, get_logger

_log = get_logger(__name__)


class AppraisalPolicy:
    """Decides whether evidence is believed and accepted. Safe for several threads.

    :param root: whose platforms are believed. :param collateral: what quotes are judged with.
    :param platform: the kind of platform.
    :param enclaves: what is demanded of the enclave or trust domain; must pin a measurement.
    :param tcb: the state that the platform must be in; up to date if not given.
    :param machines: which machines; any if not given.
    :param models: digests (32 bytes) of the sealed models that a client accepts. They are not judged here, because
        evidence does not speak of them; empty means that the client does not say.
    :param clock: seconds since 1970. :param name: for people and logs, e.g. the path of the file.
    :raises ConfigurationError: the policy would accept any enclave, or a simulated platform without saying so.
    """

    def __init__(
        self,
        *,
        root: TrustRoot,
        collateral: CollateralSource,
        platform: PlatformKind,
        enclaves: Requirement,
        tcb: TcbCurrent | None = None,
        machines: OneOfMachines | None = None,
        models: Collection[bytes] = (),
        clock: Callable[[], float] = time.time,
        name: str = "policy",
    ) -> None:
        tcb = tcb or TcbCurrent()
        _check(root, platform, enclaves, name)
        self.name = name
        self.root = root
        self.platform = platform
        self.models = frozenset(models)
        self.requirements: tuple[Requirement, ...] = (
            platform,
            tcb,
            enclaves,
            machines or OneOfMachines(frozenset()),
        )
        self._verifier = Verifier(root, collateral, clock=clock)
        if platform.insecure_accept_simulated_platform:
            event(_log, logging.WARNING, "insecure-policy-loaded", policy=name, accepts="simulated platforms")
        if tcb.insecure_statuses:
            event(_log, logging.WARNING, "insecure-policy-loaded", policy=name, accepts=sorted(tcb.insecure_statuses))
        if not root.is_intel and not root.simulated:
            event(_log, logging.WARNING, "policy-with-own-root-loaded", policy=name, root=root.description)

    @classmethod
    def load(cls, path: Path, *, clock: Callable[[], float] = time.time) -> AppraisalPolicy:
        """The policy in a YAML file; see ``docs/appraisal-policy.md``.

        :raises ConfigurationError: the file is not a policy that could be meant; names file, line and setting.
        :raises InputError: a file cannot be read.
        """
        return cls.from_document(load_yaml(path, PolicyDocument), clock=clock, name=str(path))

    @classmethod
    def from_document(
        cls,
        document: PolicyDocument,
        *,
        root: TrustRoot | None = None,
        clock: Callable[[], float] = time.time,
        name: str = "policy",
    ) -> AppraisalPolicy:
        """The policy that a document describes.

        :param root: instead of the file that the document names; for documents that are kept away from their files.
        :raises ConfigurationError: trust root and policy do not go together. :raises InputError: a file cannot be read.
        """
        if root is None:
            try:
                root = TrustRoot.intel() if document.trust_root is None else TrustRoot.from_pem(document.trust_root)
            except InputError as error:
                raise named_in_policy(error, name, "trust_root") from error
        references = [_enclave(reference) for reference in document.enclaves]
        domains = [_trust_domain(reference) for reference in document.trust_domains]
        if not all(domain.pins_software for domain in domains):
            event(_log, logging.WARNING, "policy-pins-firmware-only", policy=name, missing="rtmr1 and rtmr2")
        elif not all(domain.pins_settings for domain in domains):
            event(_log, logging.WARNING, "policy-pins-no-settings", policy=name, missing="rtmr3")
        if document.collateral.insecure_allow_http:
            event(_log, logging.WARNING, "insecure-policy-loaded", policy=name, accepts="collateral over plain http")
        return cls(
            root=root,
            collateral=document.collateral.source(root, clock=clock, named_by=name),
            platform=PlatformKind(document.tee, document.insecure_accept_simulated_platform),
            enclaves=AnyOf([*references, *domains]),
            tcb=TcbCurrent(
                statuses=frozenset(document.tcb_statuses),
                insecure_statuses=frozenset(document.insecure_accept_tcb_statuses),
                rejected_advisories=frozenset(document.reject_advisories),
                minimum_evaluation_data_number=document.minimum_tcb_evaluation_data_number,
            ),
            machines=OneOfMachines(frozenset(document.machines)),
            models=document.models,
            clock=clock,
            name=name,
        )

    def appraise(self, quote: bytes, *, report_data: bytes, now: float | None = None) -> VerifiedEvidence:
        """Appraise evidence.

        :param report_data: the 64 bytes that the quote must be over.
        :param now: judge at this time (seconds since 1970) instead of the clock's.
        :raises EvidenceError: it is not genuine. :raises EvidenceBindingError: it was made for something else.
        :raises EvidenceRefusedError: it is genuine, and the policy does not accept it; lists every reason.
        :raises UnavailableError: the collateral cannot be fetched. :raises InputError: its file cannot be read.
        """
        return self.appraise_with_steps(quote, report_data=report_data, now=now).require()

    def appraise_with_steps(self, quote: bytes, *, report_data: bytes | None, now: float | None = None) -> Appraisal:
        """Like :meth:`appraise`, for a report: gives each check's outcome and raises nothing.

        :param report_data: without it the binding is not checked. Only for looking at stored evidence: such an
            appraisal says nothing about who sent it or when.
        """
        record = Record()
        evidence: VerifiedEvidence | None = None
        try:
            evidence = self._verifier.verify(quote, now=now, record=record)
            refusals = self._judge(evidence, record)
            if report_data is None:
                record.add("binding", ok=None, detail="no report data to compare with was given")
            else:
                with record.step("binding") as found:
                    _check_binding(evidence, report_data)
                    found.detail = "the report data is what was asked for"
            _raise_all(refusals)
        except SealserveError as error:
            return record.finish(evidence, error)
        return record.finish(evidence, None)

    def judging_with(self, collateral: Collateral) -> AppraisalPolicy:
        """The same policy, judging with this collateral: to look again at what was accepted with it."""
        other = copy.copy(self)
        other._verifier = Verifier(self.root, FixedCollateral(collateral), clock=time.time)
        return other

    def would_block(self, quote: bytes) -> bool:
        """Whether appraising ``quote`` would wait for a collateral service, or for a file system. Never raises.

        A caller on an event loop asks this, and appraises in a thread if so.
        """
        source = self._verifier.collateral
        if isinstance(source, FileCollateral):
            return source.would_block()
        if not isinstance(source, ServiceCollateral):
            return False
        try:
            return source.would_block(quote)
        except SealserveError:
            return False  # it is refused before anything is fetched

    def refresh_collateral(self) -> int:
        """Renew collateral of a service that is due, now and in this thread; for a loop that runs every hour or so.

        What is in use is renewed without this, too. Failures are logged, and told by :meth:`collateral_status`.

        :returns: how many kinds of platforms were tried.
        """
        source = self._verifier.collateral
        return source.refresh_due() if isinstance(source, ServiceCollateral) else 0

    def collateral_status(self) -> tuple[PlatformStatus, ...]:
        """How the collateral of a service is, for each kind of platform; empty for a file."""
        source = self._verifier.collateral
        return source.status() if isinstance(source, ServiceCollateral) else ()

    def collateral_expiry(self) -> dict[str, datetime | None]:
        """When the collateral that is held expires, by kind of platform (TEE and FMSPC); of a file by the path.

        None if there is none that can be used.
        """
        source = self._verifier.collateral
        if not isinstance(source, FileCollateral):
            return {f"{status.tee} {status.fmspc}": status.expires for status in self.collateral_status()}
        try:
            return {str(source.path): source.collateral(b"").expires}
        except SealserveError:
            return {str(source.path): None}

    def _judge(self, evidence: VerifiedEvidence, record: Record) -> list[EvidenceRefusedError]:
        """Judge by every requirement; the refusals."""
        refusals = []
        for requirement in self.requirements:
            try:
                record.add(requirement.step, ok=True, detail=requirement.verify(evidence))
            except EvidenceRefusedError as error:
                record.add(requirement.step, ok=False, detail="; ".join(error.reasons))
                refusals.append(error)
        return refusals


def _raise_all(refusals: list[EvidenceRefusedError]) -> None:
    """Raise one refusal with the reasons of all."""
    if not refusals:
        return
    if any(isinstance(refusal, SimulatedEvidenceRefusedError) for refusal in refusals):
        raise join_refusals(refusals, hint="Only a policy for tee: simulated accepts such evidence.")
    raise join_refusals(refusals, hint="Compare the evidence with the policy's reference values.")


def _check_binding(evidence: VerifiedEvidence, report_data: bytes) -> None:
    if len(report_data) != REPORT_DATA_SIZE or not hmac.compare_digest(evidence.report_data, report_data):
        raise EvidenceBindingError(
            "the evidence was made for another key or another request: its report data is not what it must be",
            hint="Somebody may be replaying or relaying evidence. Ask for fresh evidence over this very connection.",
        )


def _check(root: TrustRoot, platform: PlatformKind, enclaves: Requirement, name: str) -> None:
    if not measures(enclaves):
        raise ConfigurationError(
            f"{name}: enclaves: names no measurement, so that any enclave would be accepted",
            hint="Give mrenclave, or mrsigner with isv_prod_id and minimum_isv_svn; for TDX, mrtd.",
        )
    if root.simulated and platform.tee != "simulated":
        raise ConfigurationError(
            f"{name}: trust_root: {root.name} is a simulated platform's, and the policy is for tee: {platform.tee}",
            hint="A simulated platform protects nothing. To try things out, use a policy with tee: simulated.",
        )
    if platform.tee == "simulated" and not root.simulated:
        raise ConfigurationError(
            f"{name}: trust_root: {root.name} is no simulated platform's, and the policy is for tee: simulated",
            hint="Set tee: sgx or tdx, or name the root.pem of the simulated platform.",
        )
    if platform.tee == "simulated" and not platform.insecure_accept_simulated_platform:
        raise ConfigurationError(
            f"{name}: insecure_accept_simulated_platform: must be true for tee: simulated, which protects nothing"
        )


def _trust_domain(reference: TrustDomainSettings) -> TrustDomainReference:
    return TrustDomainReference(
        mrtd=reference.mrtd,
        rtmrs=(reference.rtmr0, reference.rtmr1, reference.rtmr2, reference.rtmr3),
        mr_config_id=reference.mr_config_id,
        mr_owner=reference.mr_owner,
        mr_owner_config=reference.mr_owner_config,
        attributes=reference.td_attributes,
        xfam=reference.xfam,
    )


def _enclave(reference: EnclaveReference) -> Requirement:
    parts: list[Requirement] = []
    if reference.mrenclave is not None:
        parts.append(MrEnclave(reference.mrenclave))
    if reference.mrsigner is not None:
        # The document insists on both beside mrsigner; these would be the strictest values if it did not.
        product = 0 if reference.isv_prod_id is None else reference.isv_prod_id
        version = 65535 if reference.minimum_isv_svn is None else reference.minimum_isv_svn
        parts.append(MrSigner(reference.mrsigner, product, version))
    return parts[0] if len(parts) == 1 else AllOf(parts)
