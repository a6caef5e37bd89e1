"""What goes wrong around a deployment that runs in a real cluster: what clients notice, what is said, what heals."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_model import write_doubling_model

from cluster.builds import PROGRAMS
from cluster.cluster import Cluster, KubectlError
from cluster.deployments import Owner, prepare
from cluster.node import DISK, LEAST_FREE, NODE, kubelet_root
from cluster.running import Callers, applied, ended, status, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

_INPUT = 3


@pytest.fixture(scope="module")
def owner(kubernetes_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owner]:
    """Of two replicas that serve."""
    directory = tmp_path_factory.mktemp("faults")
    changes = {"gateway": {"rest_listen": "127.0.0.1:8501"}, "replicas": {"count": 2, "threads": 1}}
    model = write_doubling_model(directory / "doubling")
    owner = prepare(kubernetes_cluster, directory, model, changes, name="faults")
    with owner.broker(), applied(owner):
        assert status(owner, "--wait", "90")["complete"]
        yield owner


def _kubectl(owner: Owner, *words: str) -> str:
    return owner.cluster.kubectl("--namespace", owner.name, *words)


def _replica(owner: Owner, pod: str) -> dict[str, Any]:
    return next((dict(each) for each in status(owner)["replicas"] if each["pod"] == pod), {})


def _soon(condition: Callable[[], bool], *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.3)


def _kill_process(owner: Owner, pod: str) -> None:
    """End a replica's process as the kernel does when memory is short."""
    container = owner.cluster.get("pod", pod, "--namespace", owner.name)["status"]["containerStatuses"][0]
    ctr = owner.cluster.program(next(program for program in PROGRAMS if program.name == "ctr"))
    identifier = container["containerID"].removeprefix("containerd://")
    owner.cluster.run_on_node(ctr, "--namespace=k8s.io", "tasks", "kill", "--signal", "SIGKILL", identifier)


def test_a_replica_or_an_edge_that_dies_at_once_costs_clients_no_request(owner: Owner) -> None:
    first, second = (each["pod"] for each in status(owner)["replicas"])
    with Callers(owner, count=16) as callers:
        callers.until(2.0)
        # Without a grace period nginx still sends connections to a replica that has been told to end.
        _kubectl(owner, "delete", "pod", first, "--grace-period=0", "--force")
        _soon(lambda: first not in {each["pod"] for each in status(owner)["replicas"]})
        assert status(owner, "--wait", "60")["complete"]
        _kill_process(owner, second)
        _soon(lambda: _replica(owner, second)["restarts"] == 1)
        assert status(owner, "--wait", "60")["complete"]
        assert _replica(owner, second)["state"] == "serving"

        edge = _kubectl(owner, "get", "pods", "--selector=app.kubernetes.io/component=edge", "--output=name").split()
        _kubectl(owner, "delete", edge[0], "--grace-period=0", "--force")
        time.sleep(2)
        callers.until(2.0)
    assert callers.failures == []
    assert set(callers.by_replica(0, time.monotonic())) == {first, *(each["pod"] for each in status(owner)["replicas"])}


def test_a_node_that_is_drained_keeps_one_replica_and_serves_until_there_is_room(owner: Owner) -> None:
    cluster = owner.cluster
    with Callers(owner) as callers:
        callers.until(2.0)
        only = f"--pod-selector=app.kubernetes.io/instance={owner.name}"
        with pytest.raises(KubectlError, match="disruption budget"):
            cluster.kubectl("drain", NODE, only, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=6s")
        until(owner, "unschedulable", saying="unschedulable")
        assert status(owner)["serving"] == 1
        cluster.kubectl("uncordon", NODE)
        assert status(owner, "--wait", "60")["complete"]
    assert callers.failures == []


def test_a_node_that_is_lost_is_named_and_its_replicas_go_on_when_it_is_back(owner: Owner) -> None:
    components = owner.cluster.components
    before = {each["pod"] for each in status(owner)["replicas"]}
    components["kube-controller-manager"].restart("--node-monitor-grace-period=11s")  # in the place of 50
    components["kubelet"].stop()
    try:
        until(owner, "failed", saying="its node does not answer")
        assert status(owner)["serving"] == 0
    finally:
        components["kubelet"].start()
        components["kube-controller-manager"].restart()
    assert status(owner, "--wait", "60")["complete"]
    assert {(each["pod"], each["restarts"] < 2) for each in status(owner)["replicas"]} == {
        (pod, True) for pod in before
    }


@pytest.fixture
def big_file(owner: Owner) -> Iterator[Path]:
    """A file that leaves the node's disk too little room for its kubelet, as long as it is there."""
    big = kubelet_root(owner.cluster.directory) / "big"
    owner.cluster.run_on_node("fallocate", f"--length={DISK - LEAST_FREE // 2}", big)
    try:
        yield big
    finally:
        owner.cluster.run_on_node("rm", "--force", big)


@pytest.mark.parametrize("restarts", [False, True], ids=["", "kubelet-restarts"])
def test_a_full_disk_ends_replicas_for_a_reason_that_is_told_until_there_is_room(
    owner: Owner, big_file: Path, restarts: bool
) -> None:
    if restarts:  # then pods are rejected, if they are not evicted before, without a word in them that stays
        owner.cluster.components["kubelet"].restart()
    until(owner, "failed", saying="The node " if restarts else "The node was low on resource: ephemeral-storage")
    until(owner, "unschedulable", saying=f"; node {NODE} is short of disk (DiskPressure)")
    owner.cluster.run_on_node("rm", big_file)
    after = status(owner, "--wait", "90")
    assert after["complete"]
    reasons = [each["reason"] for each in after["replicas"] if each["state"] == "failed"]
    assert [reason for reason in reasons if not re.search("ephemeral-storage|DiskPressure", reason)] == []
    _kubectl(owner, "delete", "pods", "--field-selector=status.phase!=Pending,status.phase!=Running")


def test_whoever_may_only_look_is_told_of_every_permission_that_is_missing(owner: Owner, tmp_path: Path) -> None:
    cluster = owner.cluster
    content = yaml.safe_load(owner.file.read_text().replace(f".{owner.name}.svc:", ".forbidden.svc:"))
    content["kubernetes"]["namespace"] = "forbidden"
    other = Owner(cluster, tmp_path / "deployment.yaml", owner.layout, owner.name)
    other.file.write_text(yaml.safe_dump({**content, "state": str(owner.layout.root)}))
    cluster.kubectl("create", "serviceaccount", "viewer")
    cluster.kubectl("create", "clusterrolebinding", "viewer", "--clusterrole=view", "--serviceaccount=default:viewer")
    try:
        kubeconfig = yaml.safe_load(cluster.kubeconfig.read_text())
        kubeconfig["users"][0]["user"] = {"token": cluster.kubectl("create", "token", "viewer").strip()}
        file = tmp_path / "kubeconfig"
        file.write_text(yaml.safe_dump(kubeconfig))
        refused = ended(other, "apply", codes=(_INPUT,), kubeconfig=file).stderr
    finally:
        cluster.kubectl("delete", "clusterrolebinding/viewer", "serviceaccount/viewer")
    assert "the cluster does not permit what is needed" in refused
    for missing in (
        "create, patch namespaces",
        "create, patch, delete deployments.apps in forbidden",
        "get, create, patch, list, delete secrets in forbidden",
        "get, create, patch persistentvolumes",
        "delete pods in forbidden",
    ):
        assert re.search(rf"^ +{re.escape(missing)}$", refused, re.MULTILINE), refused
    assert "forbidden" not in cluster.kubectl("get", "namespaces")
