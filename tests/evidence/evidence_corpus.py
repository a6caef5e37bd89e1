"""A synthetic corpus of evidence, good and bad, and what judges it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from sealserve.evidence import (
    AppraisalPolicy,
    Collateral,
    FixedCollateral,
    PlatformProfile,
    SimulatedEnclave,
    SimulatedPlatform,
    TrustRoot,
    Verifier,
)
from sealserve.evidence.policy import AnyOf, MrEnclave, PlatformKind, Requirement

NOW = datetime(2026, 8, 1, 12, 0, 0, tzinfo=UTC)
ENCLAVE = SimulatedEnclave(mrenclave=bytes(range(32)), mrsigner=bytes(range(32, 64)), isv_prod_id=7, isv_svn=3)
REPORT_DATA = bytes(range(64))


def make_platform(**profile: Any) -> SimulatedPlatform:
    """A platform that exists since a little before ``NOW``."""
    return SimulatedPlatform.generate(PlatformProfile(**profile), now=NOW)


def collateral_with(platform: SimulatedPlatform, **changes: str) -> Collateral:
    """The platform's collateral with some of its fields replaced."""
    return Collateral.from_json(json.dumps({**json.loads(platform.collateral_json(now=NOW)), **changes}))


def verifier(platform: SimulatedPlatform, collateral: Collateral | None = None) -> Verifier:
    """What verifies evidence of the platform at ``NOW``."""
    collateral = collateral or Collateral.from_json(platform.collateral_json(now=NOW))
    return Verifier(TrustRoot.from_der(platform.root_der), FixedCollateral(collateral), clock=NOW.timestamp)


def policy(
    platform: SimulatedPlatform, enclaves: Requirement | None = None, *, at: datetime = NOW, **settings: Any
) -> AppraisalPolicy:
    """A policy that accepts ``ENCLAVE`` on the platform."""
    return AppraisalPolicy(
        root=TrustRoot.from_der(platform.root_der),
        collateral=FixedCollateral(Collateral.from_json(platform.collateral_json(now=NOW))),
        platform=PlatformKind("simulated", insecure_accept_simulated_platform=True),
        enclaves=enclaves or AnyOf([MrEnclave(ENCLAVE.mrenclave)]),
        clock=at.timestamp,
        **settings,
    )


def fields(platform: SimulatedPlatform, *, now: datetime = NOW, **settings: timedelta) -> dict[str, str]:
    """The fields of the platform's collateral."""
    found: dict[str, str] = json.loads(platform.collateral_json(now=now, **settings))
    return found
