from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_api_server import FakeApiServer, connected
from live_case import Case

# Models are the local cluster's tests', PostgreSQL is the broker's, and parties are the enclave's.
for _room in ("local", "broker", "enclave"):
    sys.path.append(str(Path(__file__).parent.parent / _room))


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    """A deployment, and a server that has nothing of it yet."""
    server = FakeApiServer()
    with connected(server, tmp_path, patience=3) as cluster:
        yield Case(tmp_path, cluster, server)
