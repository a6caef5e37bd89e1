"""From ``deployment.yaml`` to verified answers out of a real cluster, with commands that a person types."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_model import write_doubling_model

from cluster.cluster import Cluster
from cluster.deployments import Owner, prepare
from sealserve.client import Client
from sealserve.errors import UnavailableError
from sealserve.evidence.policy import AppraisalPolicy

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SERVER_NAME = "replica.sealserve.internal"


@pytest.fixture
def owner(kubernetes_cluster: Cluster, tmp_path: Path) -> Iterator[Owner]:
    """An owner with a running key broker; of the deployment nothing stays in the cluster."""
    model = write_doubling_model(tmp_path / "doubling")
    owner = prepare(kubernetes_cluster, tmp_path, model, {"gateway": {"rest_listen": "127.0.0.1:8501"}})
    with owner.broker():
        yield owner
    kubernetes_cluster.kubectl("delete", "namespace", owner.name, "--ignore-not-found", "--timeout=3m", timeout=200)
    kubernetes_cluster.kubectl("delete", "persistentvolume", f"--selector={_of_deployment(owner)}")


def test_a_rendered_deployment_answers_verified_clients_and_leaves_nothing(owner: Owner) -> None:
    rendered = _render(owner)
    _apply(owner, rendered)
    ports = _node_ports(owner)
    node = owner.cluster.addresses.node
    for target in (f"{node}:{ports['grpc']}", f"https://{node}:{ports['rest']}"):
        assert _doubled(owner, target, [1, 2, 3]) == [2, 4, 6]
    owner.cluster.kubectl("delete", "--kustomize", rendered, "--timeout=3m", timeout=200)
    kinds = (
        "namespaces,pods,services,persistentvolumes,persistentvolumeclaims,networkpolicies,endpointslices,configmaps"
    )
    left = owner.cluster.get(kinds, "--all-namespaces", f"--selector={_of_deployment(owner)}")
    assert left["items"] == []


def _render(owner: Owner) -> Path:
    output = owner.file.parent / "k8s"
    command = [sys.executable, "-m", "sealserve", "k8s", "render", "-f", str(owner.file), "-o", str(output)]
    subprocess.run(command, check=True, timeout=60)
    return output


def _apply(owner: Owner, rendered: Path) -> None:
    kubectl = owner.cluster.kubectl
    kubectl("apply", "--server-side", "--validate=strict", "--kustomize", rendered)
    secret = ["secret", "generic", f"{owner.name}-simulated-platform", f"--from-file={owner.machine_keys}"]
    kubectl("--namespace", owner.name, "create", *secret)
    for part in ("replica", "edge"):
        rollout = ["rollout", "status", f"deployment/{owner.name}-{part}", "--timeout=3m"]
        kubectl("--namespace", owner.name, *rollout, timeout=200)


def _node_ports(owner: Owner) -> dict[str, int]:
    service: dict[str, Any] = owner.cluster.get("service", owner.name, "--namespace", owner.name)
    return {port["name"]: port["nodePort"] for port in service["spec"]["ports"]}


def _doubled(owner: Owner, target: str, numbers: list[float]) -> list[float]:
    """What the model makes of ``numbers``, by a client that accepts no other replicas than the owner's policy."""
    policy = AppraisalPolicy.load(owner.layout.client_policy)
    # nginx looks for replicas every two seconds: it may not have seen those that have just become ready.
    deadline = time.monotonic() + 20
    with Client(target, policy, server_name=SERVER_NAME) as client:
        while True:
            try:
                answer = client.predict({"x": np.array(numbers, np.float32)}, model="doubling")
            except UnavailableError:
                assert time.monotonic() < deadline, owner.cluster.kubectl("-n", owner.name, "get", "events")
                time.sleep(0.5)
            else:
                doubled: list[float] = answer.outputs["y"].tolist()
                return doubled


def _of_deployment(owner: Owner) -> str:
    return f"app.kubernetes.io/instance={owner.name}"
