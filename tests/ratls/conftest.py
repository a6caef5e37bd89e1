"""A simulated platform, identities under it, and certificates of an ordinary authority."""

from __future__ import annotations

import pytest

from sealserve.evidence import SimulatedAttester, SimulatedEnclave, create_simulated_platform
from sealserve.ratls import TlsIdentity, create_identity


@pytest.fixture(scope="session")
def attester(tmp_path_factory: pytest.TempPathFactory) -> SimulatedAttester:
    directory = tmp_path_factory.mktemp("platform") / "platform"
    create_simulated_platform(directory)
    return SimulatedAttester(directory, SimulatedEnclave(mrenclave=b"\x11" * 32, mrsigner=b"\x22" * 32))


@pytest.fixture(scope="session")
def identity(attester: SimulatedAttester) -> TlsIdentity:
    return create_identity(attester, server_names=["replica.sealserve.internal", "127.0.0.1"])
