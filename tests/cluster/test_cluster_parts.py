"""What tests may expect of the cluster itself: names, fake nodes, parts that fail and come back."""

from __future__ import annotations

import json
import socket
import time

import pytest

from cluster.builds import KUBERNETES_VERSION
from cluster.cluster import Cluster
from cluster.dns import CONFIG_MAP, COREFILE, NAMESPACE
from cluster.node import NODE

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]  # kwok may have to be built


def _addresses_of(name: str, server: str) -> list[str]:
    """Ask a DNS server for the IPv4 addresses of a name (RFC 1035)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question = labels + b"\0" + b"\0\x01" + b"\0\x01"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.settimeout(5)
        asked.sendto(b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0" + question, (server, 53))
        answer = asked.recv(2000)
    found, position = [], 12 + len(question)
    for _ in range(int.from_bytes(answer[6:8])):
        # A name, whole or as a pointer of two bytes; type, class, time to live and a length in ten bytes; an address.
        position += 2 if answer[position] & 0xC0 else len(labels) + 1
        found.append(socket.inet_ntoa(answer[position + 10 : position + 14]))
        position += 14
    return found


def test_it_is_the_kubernetes_that_is_pinned(kubernetes_cluster: Cluster) -> None:
    version = json.loads(kubernetes_cluster.kubectl("version", "--output=json"))["serverVersion"]["gitVersion"]
    assert version == f"v{KUBERNETES_VERSION}"
    assert kubernetes_cluster.get("node", NODE)["status"]["nodeInfo"]["kubeletVersion"] == version


def test_services_have_names_and_a_changed_corefile_is_read(kubernetes_cluster: Cluster) -> None:
    addresses = kubernetes_cluster.addresses
    assert _addresses_of("kubernetes.default.svc.cluster.local", addresses.dns) == [addresses.api_service]
    patch = ["--namespace", NAMESPACE, "patch", "configmap", CONFIG_MAP, "--patch"]
    changed = COREFILE.replace(
        "    ready\n", "    ready\n    hosts {\n       192.0.2.7 owner.test\n       fallthrough\n    }\n"
    )
    kubernetes_cluster.kubectl(*patch, json.dumps({"data": {"Corefile": changed}}))
    try:
        deadline = time.monotonic() + 60
        while _addresses_of("owner.test", addresses.dns) != ["192.0.2.7"]:
            assert time.monotonic() < deadline
            time.sleep(0.5)
    finally:
        kubernetes_cluster.kubectl(*patch, json.dumps({"data": {"Corefile": COREFILE}}))


@pytest.mark.parametrize("name", ["kube-apiserver", "etcd", "containerd", "kubelet"])
def test_a_part_that_was_killed_comes_back_with_what_it_knew(kubernetes_cluster: Cluster, name: str) -> None:
    before = kubernetes_cluster.get("namespace", "default")["metadata"]["uid"]
    component = kubernetes_cluster.components[name]
    component.kill()
    assert not component.running
    component.start()
    kubernetes_cluster.components["kube-apiserver"].wait_until_ready()
    assert kubernetes_cluster.get("namespace", "default")["metadata"]["uid"] == before
    kubernetes_cluster.kubectl("wait", "--for=condition=Ready", "--timeout=60s", f"node/{NODE}")


def test_fake_nodes_run_nothing_and_leave_the_real_one_alone(kubernetes_cluster: Cluster) -> None:
    kubernetes_cluster.add_fake_nodes(2, tainted=True, resources={"sgx.intel.com/epc": "8Gi"})
    pods = kubernetes_cluster.get("pods", "--namespace", NAMESPACE)["items"]
    assert {pod["spec"]["nodeName"] for pod in pods} == {NODE}
    assert kubernetes_cluster.get("node", "kwok-1")["status"]["allocatable"]["sgx.intel.com/epc"] == "8Gi"
    kubernetes_cluster.kubectl("delete", "nodes", "--selector=type=kwok")
    assert "kwok-1" not in kubernetes_cluster.kubectl("get", "nodes")
