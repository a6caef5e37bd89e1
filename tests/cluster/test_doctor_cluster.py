"""``sealserve k8s doctor`` on a real cluster: what it says of the broker is what a replica's pod would meet."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_model import write_doubling_model

from cluster.cluster import Cluster
from cluster.deployments import Owner, prepare

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]


@pytest.fixture
def owner(kubernetes_cluster: Cluster, tmp_path: Path) -> Iterator[Owner]:
    """An owner without a running broker, and the deployment's namespace with its names and policies."""
    owner = prepare(kubernetes_cluster, tmp_path, write_doubling_model(tmp_path / "doubling"), {}, name="examined")
    output = tmp_path / "k8s"
    command = [sys.executable, "-m", "sealserve", "k8s", "render", "-f", owner.file, "-o", output]
    subprocess.run(command, check=True, timeout=60)
    for name in ("namespace.yaml", "broker.yaml", "network-policy.yaml"):
        kubernetes_cluster.kubectl("apply", "--filename", output / name)
    yield owner
    kubernetes_cluster.kubectl("delete", "namespace", owner.name, "--timeout=3m", timeout=200)


def _doctor(owner: Owner, *options: str) -> dict[str, dict[str, Any]]:
    command = [sys.executable, "-m", "sealserve", "k8s", "doctor", "-f", owner.file, "--json", *options]
    done = subprocess.run(
        [*command, "--kubeconfig", owner.cluster.kubeconfig], capture_output=True, text=True, check=False, timeout=180
    )
    assert done.returncode in (0, 6), done.stderr
    told = json.loads(done.stdout)
    assert told["ready"] == (done.returncode == 0)
    return {finding["check"]: finding for finding in told["findings"]}


def test_a_pod_reaches_the_broker_when_it_runs_and_nothing_is_left(owner: Owner) -> None:
    before = _doctor(owner, "--probe")
    assert before["broker"]["level"] == "problem"
    assert "no pod reaches the key broker" in before["broker"]["text"]
    with owner.broker():
        found = _doctor(owner, "--probe")
    assert found["broker"]["level"] == "ok", found
    assert found["pod-security"] == {
        "check": "pod-security",
        "level": "ok",
        "text": f"a privileged pod is refused in {owner.name}",
    }
    assert {name for name, finding in found.items() if finding["level"] == "problem"} == set()
    assert found["permissions"]["level"] == "ok"
    assert owner.cluster.get("pods", "--namespace", owner.name)["items"] == []


def test_an_account_that_may_only_look_is_told_what_it_may_not_do(owner: Owner, tmp_path: Path) -> None:
    kubectl = owner.cluster.kubectl
    kubectl("--namespace", owner.name, "create", "serviceaccount", "viewer")
    kubectl(
        *("--namespace", owner.name, "create", "rolebinding", "viewer", "--clusterrole=view"),
        f"--serviceaccount={owner.name}:viewer",
    )
    token = kubectl("--namespace", owner.name, "create", "token", "viewer").strip()
    kubeconfig = tmp_path / "viewer.kubeconfig"
    kubeconfig.write_bytes(Path(owner.cluster.kubeconfig).read_bytes())
    own = ("--kubeconfig", str(kubeconfig))
    kubectl("config", "set-credentials", "viewer", f"--token={token}", *own)
    kubectl("config", "set-context", "viewer", "--user=viewer", *own)
    cluster = json.loads(kubectl("config", "view", "--output=json", *own))["clusters"][0]["name"]
    kubectl("config", "set-context", "viewer", f"--cluster={cluster}", *own)
    command = [sys.executable, "-m", "sealserve", "k8s", "doctor", "-f", owner.file, "--json", *own]
    done = subprocess.run([*command, "--context", "viewer"], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 6, done.stderr
    findings = json.loads(done.stdout)["findings"]
    (problem,) = [one for one in findings if one["check"] == "permissions" and one["level"] == "problem"]
    assert "create, patch deployments" in problem["text"]
    assert any(one["check"] == "nodes" and one["level"] == "warning" for one in findings)
