"""docs/kubernetes-quickstart.md, followed line by line on a real cluster.

What this machine does not have is replaced: a registry that knows Ubuntu, the build on it, and weights from the
internet. The engine's archive is that of the image that the other tests' pods run.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cluster.cluster import Cluster

pytest.importorskip("cluster.cluster", reason="the cluster of the tests is not here")

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

PAGE = Path(__file__).parents[2] / "docs/kubernetes-quickstart.md"
# Other ways on the page, and what needs the internet.
NOT_FOLLOWED = ("sealserve image push", "sealserve model fetch", "sealserve image pin", "sealserve image build")


def lines_of_the_page() -> list[str]:
    blocks = PAGE.read_text().split("```")[1::2]
    lines = [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()[1:]]
    return [line for line in lines if line and not line.startswith(NOT_FOLLOWED)]


def wait_for(port: int, host: str = "127.0.0.1") -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as sock:
            if sock.connect_ex((host, port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"nobody listens on port {port}")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The image of replicas as an engine saves it."""
    from cluster.oci import write_archive
    from cluster.sealserve_image import sealserve_image

    write_archive(sealserve_image("simulated"), tmp_path / "saved.tar")
    return tmp_path / "saved.tar"


def test_the_page_leads_to_a_verified_prediction(
    kubernetes_cluster: Cluster, saved: Path, tmp_path: Path, monkeypatch
) -> None:
    from small_model import write_doubling_model

    from sealserve.deploy.setting_edit import write_setting

    cluster = kubernetes_cluster
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {
        "docker": f'if [ "$2" = save ]; then cp {saved} "$4"; fi',
        "sealserve": f'exec {sys.executable} -m sealserve "$@"',
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    here = tmp_path / "empty"
    here.mkdir()
    with socket.create_server((cluster.addresses.host, 0)) as listener:
        port = listener.getsockname()[1]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        local = listener.getsockname()[1]
    (here / "x.json").write_text(json.dumps({"x": [1.0, 2.0, 3.0]}))
    changed = {
        "sealserve init": f" --model-name doubling --broker {cluster.addresses.host}:{port}",
        "kubectl -n photos port-forward": f" {local}:8500",
        "sealserve verify": f" 127.0.0.1:{local}",
        "sealserve predict": f" 127.0.0.1:{local} --input-json x.json --json",
    }
    followed, running = [], []
    try:
        for line in lines_of_the_page():
            words = line
            for begin, more in changed.items():
                if line.startswith(begin):
                    words = line.split(" 127.0.0.1")[0].split(" --image")[0].removesuffix(" 8500") + more
            words = words.replace("kubectl", str(cluster.kubectl_program), 1) if words.startswith("kubectl") else words
            followed.append(line)
            if line.startswith(("sealserve broker run", "kubectl -n photos port-forward")):
                with (tmp_path / f"{len(followed)}.log").open("wb") as log:
                    running.append(subprocess.Popen(shlex.split(words), cwd=here, stdout=log, stderr=log))
                wait_for(*((local,) if line.startswith("kubectl") else (port, cluster.addresses.host)))
                continue
            done = subprocess.run(
                shlex.split(words), cwd=here, check=False, capture_output=True, text=True, timeout=300
            )
            assert done.returncode == 0, (line, done.stdout, done.stderr)
            if line.startswith("sealserve init"):
                write_doubling_model(here / "model")
                write_setting(here / "deployment.yaml", "image.base", f"ubuntu:24.04@sha256:{64 * '2'}")
                write_setting(here / "deployment.yaml", "kubernetes.resources.cpu", "100m")
            if line.startswith(("sealserve image save", "sealserve image model")):
                cluster.import_image(here / words.split(" -o ")[1].split()[0])
            if line.startswith("sealserve verify"):
                assert "ACCEPTED" in done.stdout
            if line.startswith("sealserve predict"):
                assert "6.0" in done.stdout
    finally:
        for process in running:
            process.terminate()
            process.wait(timeout=30)
    assert followed[-1] == "sealserve k8s delete --yes"
    assert not [found for found in cluster.get("namespaces")["items"] if found["metadata"]["name"] == "photos"]
