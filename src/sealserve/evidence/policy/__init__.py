"""Appraisal policies: what evidence must say to be accepted. Fail closed: what is not allowed is refused."""

from __future__ import annotations

from sealserve.evidence.policy.appraisal_policy import AppraisalPolicy
from sealserve.evidence.policy.document import EnclaveReference, PolicyDocument
from sealserve.evidence.policy.requirements import (
    AllOf,
    AnyOf,
    MrEnclave,
    MrSigner,
    OneOfMachines,
    PlatformKind,
    Requirement,
    TcbCurrent,
)

__all__ = [
    "AllOf",
    "AnyOf",
    "AppraisalPolicy",
    "EnclaveReference",
    "MrEnclave",
    "MrSigner",
    "OneOfMachines",
    "PlatformKind",
    "PolicyDocument",
    "Requirement",
    "TcbCurrent",
]
