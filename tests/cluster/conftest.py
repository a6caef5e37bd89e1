"""The cluster of the tests marked ``cluster``: built and started once for all of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.cluster import Cluster
from cluster.needs import UnfitError

# The model is the local cluster's, renderings of every kind are those of their quick tests, PostgreSQL is the broker's.
for _room in ("local", "kubernetes", "broker"):
    sys.path.append(str(Path(__file__).parent.parent / _room))


@pytest.fixture(scope="session")
def kubernetes_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster with nothing in it but DNS. What a test makes there, it removes."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def report(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n{text}", end="", flush=True)  # noqa: T201

    try:
        cluster = Cluster(report)
    except UnfitError as unfit:
        pytest.skip(str(unfit))
    with cluster:
        yield cluster
