"""Every rendering, judged by a real API server: strictly, and in a namespace that enforces the restricted standard."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cluster.cluster import Cluster
from sealserve.kubernetes.live.api import Cluster as Connection
from sealserve.kubernetes.live.kinds import NAMESPACE, kind_of
from sealserve.kubernetes.rendering import objects_by_file, plan_deployment

sys.path.append(str(Path(__file__).parent.parent / "kubernetes"))

from kubernetes_cases import CASES, MODEL_SIZE, write_deployment

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.mark.parametrize("case", CASES)
def test_every_object_passes_the_dry_run_without_a_warning(
    kubernetes_cluster: Cluster, tmp_path: Path, case: str
) -> None:
    """Gateways, routes and TransportServers are left out: this cluster does not have their kinds."""
    changes = {**CASES[case], "kubernetes": {**CASES[case]["kubernetes"], "namespace": f"dry-{case}"}}
    brokers = [
        name.replace(".serving.", f".dry-{case}.").replace(".photos.", f".dry-{case}.") for name in _brokers(case)
    ]
    if brokers:
        changes["image"] = {"brokers": brokers}
    plan = plan_deployment(write_deployment(tmp_path, changes), model_size=MODEL_SIZE)
    namespace, *others = [thing for things in objects_by_file(plan).values() for thing in things]
    warnings: list[str] = []
    with Connection.connect(kubernetes_cluster.kubeconfig) as connection:
        try:
            connection.apply(namespace, on_warning=warnings.append)
            for thing in others:
                if kind_of(thing).comes_with is None:
                    connection.apply(thing, dry_run=True, on_warning=warnings.append)
        finally:
            connection.delete(NAMESPACE, plan.namespace)
    assert warnings == []


def _brokers(case: str) -> list[str]:
    found: list[str] = CASES[case].get("image", {}).get("brokers", [])
    return found
