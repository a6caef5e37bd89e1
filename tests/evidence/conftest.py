from __future__ import annotations

import pytest
from evidence_corpus import ENCLAVE, REPORT_DATA, make_platform

from sealserve.evidence import SimulatedPlatform


@pytest.fixture(scope="session")
def platform() -> SimulatedPlatform:
    """An up-to-date simulated platform."""
    return make_platform()


@pytest.fixture(scope="session")
def other_platform() -> SimulatedPlatform:
    """A platform under another simulated root."""
    return make_platform()


@pytest.fixture(scope="session")
def quote(platform: SimulatedPlatform) -> bytes:
    """A good quote."""
    return platform.quote(ENCLAVE, REPORT_DATA)
