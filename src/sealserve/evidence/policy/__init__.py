"""Appraisal policies: what evidence must say to be accepted. Fail closed: what is not allowed is refused."""

from __future__ import annotations

from sealserve.evidence.policy.appraisal_policy import AppraisalPolicy
from sealserve.evidence.policy.collateral_settings import CollateralSettings
from sealserve.evidence.policy.document import EnclaveReference, PolicyDocument, TrustDomainSettings
from sealserve.evidence.policy.recorded import trust_domain_policy
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
from sealserve.evidence.policy.trust_domains import TrustDomainReference

__all__ = [
    "AllOf",
    "AnyOf",
    "AppraisalPolicy",
    "CollateralSettings",
    "EnclaveReference",
    "MrEnclave",
    "MrSigner",
    "OneOfMachines",
    "PlatformKind",
    "PolicyDocument",
    "Requirement",
    "TcbCurrent",
    "TrustDomainReference",
    "TrustDomainSettings",
    "trust_domain_policy",
]
