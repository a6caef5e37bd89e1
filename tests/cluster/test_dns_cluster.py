"""``sealserve k8s dns`` on a real CoreDNS: it answers as it is told, and what was there before is there afterwards."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

_CONFIG_MAP = ("configmap", "coredns", "--namespace", "kube-system")
_NAME = "attestation.service.com"


@pytest.fixture
def corefile(kubernetes_cluster: Cluster) -> Iterator[str]:
    """The Corefile as the cluster has it, and has it again afterwards."""
    before = _corefile(kubernetes_cluster)
    yield before
    _write(kubernetes_cluster, before)


def _corefile(cluster: Cluster) -> str:
    return str(cluster.get(*_CONFIG_MAP)["data"]["Corefile"])


def _write(cluster: Cluster, text: str) -> None:
    cluster.kubectl("patch", *_CONFIG_MAP, "--type=merge", "--patch", json.dumps({"data": {"Corefile": text}}))


def _dns(cluster: Cluster, directory: Path, *arguments: str, name: str = "photos") -> dict[str, Any]:
    file = directory / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"name": name, "model": {"name": "m", "path": "model"}}))
    command = [sys.executable, "-m", "sealserve", "k8s", "dns", *arguments, "-f", file, "--json"]
    done = subprocess.run(
        [*command, "--kubeconfig", cluster.kubeconfig], capture_output=True, text=True, check=True, timeout=90
    )
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def _ask(cluster: Cluster, name: str) -> str | None:
    """The address that CoreDNS answers with (RFC 1035); None for any other answer."""
    server = cluster.get("service", "kube-dns", "--namespace", "kube-system")["spec"]["clusterIP"]
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        connection.settimeout(5)
        connection.sendto(question, (server, 53))
        try:
            answer = connection.recv(4096)
        except TimeoutError:
            return None
    return socket.inet_ntoa(answer[-4:]) if struct.unpack(">H", answer[6:8])[0] else None


def _becomes(cluster: Cluster, name: str, wanted: str | None) -> bool:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if _ask(cluster, name) == wanted:
            return True
        time.sleep(1)
    return False


def test_coredns_answers_with_the_entry_until_it_is_taken_out(
    kubernetes_cluster: Cluster, corefile: str, tmp_path: Path
) -> None:
    cluster = kubernetes_cluster
    assert _dns(cluster, tmp_path, "apply", "--address", "192.0.2.10", "--name", _NAME)["changed"]
    _dns(cluster, tmp_path, "apply", "--address", "192.0.2.11", "--name", "keys.example", name="cats")
    assert _becomes(cluster, _NAME, "192.0.2.10")
    assert _becomes(cluster, "keys.example", "192.0.2.11")
    assert _ask(cluster, "kubernetes.default.svc.cluster.local") is not None, "everything else falls through"
    _dns(cluster, tmp_path, "apply", "--address", "192.0.2.99", "--name", _NAME)
    assert _becomes(cluster, _NAME, "192.0.2.99")
    _dns(cluster, tmp_path, "undo")
    _dns(cluster, tmp_path, "undo", name="cats")
    assert _corefile(cluster) == corefile
    assert _becomes(cluster, _NAME, None)


def test_coredns_reads_a_corefile_as_we_do(kubernetes_cluster: Cluster, corefile: str, tmp_path: Path) -> None:
    """With what could be misread in it: comments in words, quotation marks, a block of another zone, a hosts."""
    cluster = kubernetes_cluster
    theirs = (
        "    hosts { # theirs\n        192.0.2.77 theirs.example\n        fallthrough\n    }\n"
        '    rewrite name exact "alias.example" theirs.example # not "this {\n'
    )
    strange = corefile.replace(".:53 {\n", ".:53, # {\n  cluster.local. {\n" + theirs, 1) + (
        "stub.example:53 {\n    errors#with a comment in the word\n}\n"
    ).replace("#with a comment in the word", " # with a comment")
    _write(cluster, strange)
    assert _becomes(cluster, "alias.example", "192.0.2.77")
    _dns(cluster, tmp_path, "apply", "--address", "192.0.2.10", "--name", _NAME)
    assert _becomes(cluster, _NAME, "192.0.2.10")
    assert _ask(cluster, "alias.example") == "192.0.2.77"
    _dns(cluster, tmp_path, "undo")
    assert _corefile(cluster) == strange
