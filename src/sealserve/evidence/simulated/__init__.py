"""A simulated SGX platform: SIMULATED, NO PROTECTION.

It lets the whole chain of attestation run where there is no SGX. A root of its own stands in for Intel's, and under it
everything has Intel's form: PCK certificate with the SGX extension, TCB info, QE identity, revocation lists, and
quotes of version 3. The verifier that judges Intel's evidence judges this evidence; only the root differs.

What it does not do: protect anything. The keys are files, and whoever reads them can claim to be any enclave; the
measurement is what the process says about itself. Every subject says so, and no policy accepts the root unless
``insecure_accept_simulated_platform`` says so.
"""

from __future__ import annotations

from sealserve.evidence.simulated.attester import SimulatedAttester
from sealserve.evidence.simulated.directory import (
    create_simulated_platform,
    ensure_simulated_platform,
    load_simulated_platform,
    refresh_collateral,
)
from sealserve.evidence.simulated.platform import SimulatedPlatform
from sealserve.evidence.simulated.profile import PlatformProfile

__all__ = [
    "PlatformProfile",
    "SimulatedAttester",
    "SimulatedPlatform",
    "create_simulated_platform",
    "ensure_simulated_platform",
    "load_simulated_platform",
    "refresh_collateral",
]
