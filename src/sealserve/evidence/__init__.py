"""Evidence: what an enclave can prove, and judging it.

The attester's side asks a platform for quotes: :class:`GramineAttester` in an SGX enclave, :class:`TsmAttester` in a
TDX guest, :class:`SimulatedAttester` where there is neither. The relying party's side appraises them:
:class:`AppraisalPolicy` joins a trust root, collateral and requirements. The words are those of RATS (RFC 9334).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sealserve.evidence.appraisal import Appraisal, Step
from sealserve.evidence.attester import REPORT_DATA_SIZE, Attester, GramineAttester
from sealserve.evidence.collateral import Collateral, CollateralSource, FixedCollateral
from sealserve.evidence.collateral_file import FileCollateral
from sealserve.evidence.measurement import SIMULATED_SIGNER, SimulatedEnclave, measure_simulated_enclave
from sealserve.evidence.quote import Quote, parse_quote
from sealserve.evidence.roots import TrustRoot
from sealserve.evidence.service import PlatformStatus, Service, ServiceCollateral, service_at
from sealserve.evidence.simulated import (
    PlatformProfile,
    SimulatedAttester,
    SimulatedPlatform,
    create_simulated_platform,
    ensure_simulated_platform,
    refresh_collateral,
)
from sealserve.evidence.tsm import TsmAttester
from sealserve.evidence.verified import TrustDomain, VerifiedEvidence
from sealserve.evidence.verifier import Verifier

if TYPE_CHECKING:
    from sealserve.evidence.policy import AppraisalPolicy, EnclaveReference, PolicyDocument

_POLICY = frozenset({"AppraisalPolicy", "EnclaveReference", "PolicyDocument"})

if not TYPE_CHECKING:  # so that the type checker still finds misspelt names

    def __getattr__(name: str) -> Any:
        # Loaded when first used: an enclave that only attests needs neither YAML nor pydantic, and starts sooner.
        if name in _POLICY:
            from sealserve.evidence import policy

            return getattr(policy, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "REPORT_DATA_SIZE",
    "SIMULATED_SIGNER",
    "Appraisal",
    "AppraisalPolicy",
    "Attester",
    "Collateral",
    "CollateralSource",
    "EnclaveReference",
    "FileCollateral",
    "FixedCollateral",
    "GramineAttester",
    "PlatformProfile",
    "PlatformStatus",
    "PolicyDocument",
    "Quote",
    "Service",
    "ServiceCollateral",
    "SimulatedAttester",
    "SimulatedEnclave",
    "SimulatedPlatform",
    "Step",
    "TrustDomain",
    "TrustRoot",
    "TsmAttester",
    "VerifiedEvidence",
    "Verifier",
    "create_simulated_platform",
    "ensure_simulated_platform",
    "measure_simulated_enclave",
    "parse_quote",
    "refresh_collateral",
    "service_at",
]
