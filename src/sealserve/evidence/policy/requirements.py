"""What a policy demands of evidence, as objects that combine.

Each has one ``verify``; :class:`AnyOf` and :class:`AllOf` join them.
A requirement that is not met raises :class:`EvidenceRefusedError` with every reason, not only the first.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from sealserve.errors import ConfigurationError
from sealserve.evidence.errors import (
    EvidenceRefusedError,
    MachineRefusedError,
    MeasurementRefusedError,
    PlatformRefusedError,
    SecurityVersionRefusedError,
    SimulatedEvidenceRefusedError,
    TcbRefusedError,
    join_refusals,
)
from sealserve.evidence.policy.trust_domains import TrustDomainReference
from sealserve.evidence.verified import VerifiedEvidence
from sealserve.logs import event, get_logger

_log = get_logger(__name__)
_MOST_REASONS = 16  # that AnyOf tells: they go into logs, audit records and reports

MEASUREMENT_SIZE = 32


class Requirement(Protocol):
    """One demand on evidence.

    :param step: the check of :data:`~sealserve.evidence.appraisal.TITLES` that it belongs to.
    """

    @property
    def step(self) -> str:
        """The name of the check in a report."""
        ...

    def verify(self, evidence: VerifiedEvidence) -> str:
        """Judge the evidence.

        :returns: what was found acceptable, for people.
        :raises EvidenceRefusedError: with all reasons.
        """
        ...


@dataclass(frozen=True)
class AllOf:
    """Every one of several requirements. An empty list is no policy and is refused."""

    requirements: tuple[Requirement, ...]
    step: str = "measurement"

    def __init__(self, requirements: Iterable[Requirement], *, step: str = "measurement") -> None:
        object.__setattr__(self, "requirements", _at_least_one(requirements))
        object.__setattr__(self, "step", step)

    def verify(self, evidence: VerifiedEvidence) -> str:
        """Judge by all, and collect the reasons of all."""
        found: list[str] = []
        refusals: list[EvidenceRefusedError] = []
        for requirement in self.requirements:
            try:
                found.append(requirement.verify(evidence))
            except EvidenceRefusedError as error:
                refusals.append(error)
        if refusals:
            raise join_refusals(refusals)
        return ", ".join(found)


@dataclass(frozen=True)
class AnyOf:
    """At least one of several requirements. An empty list is no policy and is refused."""

    requirements: tuple[Requirement, ...]
    step: str = "measurement"

    def __init__(self, requirements: Iterable[Requirement], *, step: str = "measurement") -> None:
        object.__setattr__(self, "requirements", _at_least_one(requirements))
        object.__setattr__(self, "step", step)

    def verify(self, evidence: VerifiedEvidence) -> str:
        """Judge by one after the other until one is met."""
        refusals: list[EvidenceRefusedError] = []
        for requirement in self.requirements:
            try:
                return requirement.verify(evidence)
            except EvidenceRefusedError as error:
                refusals.append(error)
        # Of several enclaves one may be the right one in an old version: that is the reason that helps.
        old = [refusal for refusal in refusals if isinstance(refusal, SecurityVersionRefusedError)]
        told = (old or refusals) if len(refusals) > _MOST_REASONS else refusals
        reasons = [reason for refusal in told[:_MOST_REASONS] for reason in refusal.reasons]
        if len(refusals) > _MOST_REASONS:
            reasons.append(f"none of {len(refusals)} alternatives is met")
        raise type((old or refusals)[0])(reasons)


def _at_least_one(requirements: Iterable[Requirement]) -> tuple[Requirement, ...]:
    found = tuple(requirements)
    if not found:
        raise ConfigurationError("an empty policy would accept any evidence", hint="Name at least one requirement.")
    return found


@dataclass(frozen=True)
class MrEnclave:
    """Exactly this enclave.

    :param value: MRENCLAVE, 32 bytes.
    """

    value: bytes
    step: str = "measurement"

    def __post_init__(self) -> None:
        _check_measurement("mrenclave", self.value)

    def verify(self, evidence: VerifiedEvidence) -> str:
        """Judge the evidence's MRENCLAVE."""
        if evidence.mrenclave != self.value:
            raise MeasurementRefusedError([f"MRENCLAVE is {_shown(evidence.mrenclave)}, not {self.value.hex()}"])
        return f"MRENCLAVE {self.value.hex()}"


@dataclass(frozen=True)
class MrSigner:
    """A product of this signer, at this security version or later.

    :param value: MRSIGNER, 32 bytes. :param isv_prod_id: exactly. :param minimum_isv_svn: at least.
    """

    value: bytes
    isv_prod_id: int
    minimum_isv_svn: int
    step: str = "measurement"

    def __post_init__(self) -> None:
        _check_measurement("mrsigner", self.value)

    def verify(self, evidence: VerifiedEvidence) -> str:
        """Judge signer, product and version."""
        reasons = []
        if evidence.mrsigner != self.value:
            reasons.append(f"MRSIGNER is {_shown(evidence.mrsigner)}, not {self.value.hex()}")
        if evidence.isv_prod_id != self.isv_prod_id:
            reasons.append(f"ISV_PROD_ID is {evidence.isv_prod_id}, not {self.isv_prod_id}")
        old = evidence.isv_svn < self.minimum_isv_svn
        kind = MeasurementRefusedError if reasons or not old else SecurityVersionRefusedError
        if old:
            reasons.append(f"ISV_SVN is {evidence.isv_svn}, less than {self.minimum_isv_svn}")
        if reasons:
            raise kind(reasons)
        return f"MRSIGNER {self.value.hex()}, product {evidence.isv_prod_id}, SVN {evidence.isv_svn}"


@dataclass(frozen=True)
class PlatformKind:
    """The kind of platform.

    :param tee: ``sgx`` and ``tdx`` never mean a simulated platform; ``simulated`` means nothing else.
    :param insecure_accept_simulated_platform: must be said for ``simulated``; every use is logged.
    """

    tee: Literal["sgx", "tdx", "simulated"]
    insecure_accept_simulated_platform: bool = False
    step: str = "platform"

    def verify(self, evidence: VerifiedEvidence) -> str:
        """Judge TEE and simulation."""
        if evidence.tee != ("tdx" if self.tee == "tdx" else "sgx"):
            raise PlatformRefusedError([f"the evidence is of a {evidence.tee} TEE, and the policy is for {self.tee}"])
        if evidence.simulated:
            if self.tee != "simulated" or not self.insecure_accept_simulated_platform:
                raise SimulatedEvidenceRefusedError(
                    ["the evidence comes from a simulated platform, which protects nothing"]
                )
            event(_log, logging.WARNING, "insecure-simulated-platform-accepted", root=evidence.root)
            return "SIMULATED, NO PROTECTION: accepted because the policy says insecure_accept_simulated_platform"
        if self.tee == "simulated":
            raise PlatformRefusedError(
                ["the evidence comes from a real platform, and the policy is for simulated ones"]
            )
        name = evidence.tee.upper()
        return f"{name}, under a root of the operator's own, which is not Intel's" if evidence.own_root else name


@dataclass(frozen=True)
class TcbCurrent:
    """The state of platform and quoting enclave.

    :param statuses: the TCB statuses accepted beside ``UpToDate``, which always is.
    :param insecure_statuses: more of them; every use is logged.
    :param rejected_advisories: advisories that must not apply.
    :param minimum_evaluation_data_number: of TCB info and QE identity; older ones do not know the latest attacks.
    """

    statuses: frozenset[str] = frozenset()
    insecure_statuses: frozenset[str] = frozenset()
    rejected_advisories: frozenset[str] = frozenset()
    minimum_evaluation_data_number: int = 0
    step: str = "tcb"

    def verify(self, evidence: VerifiedEvidence) -> str:
        """Judge statuses, advisories and the number."""
        safe = self.statuses | {"UpToDate"}
        statuses = safe | self.insecure_statuses
        accepted = ", ".join(sorted(statuses))
        reasons = []
        if evidence.tcb_status not in statuses:
            because = f" ({', '.join(evidence.advisory_ids)})" if evidence.advisory_ids else ""
            reasons.append(f"the TCB status is {evidence.tcb_status}{because}; accepted: {accepted}")
        if evidence.qe_tcb_status not in statuses and evidence.qe_tcb_status != evidence.tcb_status:
            reasons.append(f"the quoting enclave's TCB status is {evidence.qe_tcb_status}; accepted: {accepted}")
        if bad := sorted(
            {name.upper() for name in self.rejected_advisories} & {name.upper() for name in evidence.advisory_ids}
        ):
            reasons.append(f"the platform is affected by {', '.join(bad)}")
        if evidence.tcb_evaluation_data_number < self.minimum_evaluation_data_number:
            reasons.append(
                f"the TCB evaluation data number is {evidence.tcb_evaluation_data_number}, "
                f"less than {self.minimum_evaluation_data_number}"
            )
        if reasons:
            raise TcbRefusedError(reasons)
        if insecure := {evidence.tcb_status, evidence.qe_tcb_status} - safe:
            event(
                _log,
                logging.WARNING,
                "insecure-tcb-status-accepted",
                statuses=sorted(insecure),
                ppid=evidence.ppid.hex(),
            )
        advisories = ", ".join(evidence.advisory_ids) or "no advisories"
        return f"{evidence.tcb_status}, {advisories}, evaluation data number {evidence.tcb_evaluation_data_number}"


@dataclass(frozen=True)
class OneOfMachines:
    """One of the machines that are known. It answers attacks by whoever can touch the machine.

    :param ppids: 16 bytes each. Empty means any machine.
    """

    ppids: frozenset[bytes]
    step: str = "machine"

    def verify(self, evidence: VerifiedEvidence) -> str:
        """Judge the PPID."""
        if self.ppids and evidence.ppid not in self.ppids:
            raise MachineRefusedError([f"the machine with PPID {evidence.ppid.hex()} is not among those allowed"])
        return f"PPID {evidence.ppid.hex()}" + ("" if self.ppids else ", any machine is accepted")


def measures(requirement: Requirement) -> bool:
    """Whether a requirement pins a measurement, whichever of its alternatives is met."""
    match requirement:
        case MrEnclave() | MrSigner() | TrustDomainReference():
            return True
        case AnyOf():
            return all(measures(item) for item in requirement.requirements)
        case AllOf():
            return any(measures(item) for item in requirement.requirements)
        case _:
            return False


def _check_measurement(name: str, value: bytes) -> None:
    if len(value) != MEASUREMENT_SIZE:
        raise ConfigurationError(f"{name} has {len(value)} bytes, and a measurement has {MEASUREMENT_SIZE}")


def _shown(value: bytes) -> str:
    return value.hex() or "missing"
