from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_api_server import FakeApiServer, connected
from live_case import Case

# The model is the local cluster's.
sys.path.append(str(Path(__file__).parent.parent / "local"))
# A PostgreSQL is the brokers' tests.
sys.path.append(str(Path(__file__).parent.parent / "broker"))


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    """A deployment, and a server that has nothing of it yet."""
    server = FakeApiServer()
    with connected(server, tmp_path, patience=3) as cluster:
        yield Case(tmp_path, cluster, server)
