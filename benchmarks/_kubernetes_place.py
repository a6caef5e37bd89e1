"""A real Kubernetes, and outside of it an owner with a key broker, for the benchmark of clusters."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

sys.path += [str(Path(__file__).parent.parent / "tests"), str(Path(__file__).parent.parent / "tests" / "local")]

from small_model import write_doubling_model

from cluster.cluster import Cluster
from cluster.deployments import Owner, prepare

from ._broker_place import Process

NAME = "photos"


def say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Place:
    """:ivar broker: the key broker's process, and its port."""

    cluster: Cluster
    owner: Owner
    broker: Process

    @property
    def directory(self) -> Path:
        """Where ``deployment.yaml`` is."""
        return self.owner.file.parent

    @property
    def target(self) -> str:
        """Where the edge is."""
        ports = self.cluster.get("--namespace", NAME, f"service/{NAME}")["spec"]["ports"]
        return f"{self.cluster.addresses.node}:{next(port['nodePort'] for port in ports if port['name'] == 'grpc')}"

    def sealserve(self, *words: str) -> str:
        """Run a command of the platform's, beside the deployment's file. :returns: its output."""
        done = subprocess.run(
            [sys.executable, "-m", "sealserve", *words],
            cwd=self.directory,
            env=os.environ | {"KUBECONFIG": str(self.cluster.kubeconfig)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"sealserve {' '.join(words)}: {done.stderr}")
        return done.stdout

    def start_sleepers(self) -> None:
        """Start three pods of the replicas' image that do nothing: the Deployment ``sleepers``."""
        image = yaml.safe_load(self.owner.file.read_text())["kubernetes"]["image"]
        container = {"name": "sleeper", "image": image, "command": ["/bin/sleep", "1000"]}
        labels = {"app": "sleepers"}
        specification = {"terminationGracePeriodSeconds": 0, "containers": [container]}
        self.cluster.apply(
            [
                {
                    "apiVersion": "apps/v1",
                    "kind": "Deployment",
                    "metadata": {"name": "sleepers", "namespace": "default"},
                    "spec": {
                        "replicas": 3,
                        "selector": {"matchLabels": labels},
                        "template": {"metadata": {"labels": labels}, "spec": specification},
                    },
                }
            ]
        )
        self.cluster.kubectl("rollout", "status", "deployment/sleepers", "--timeout=60s")

    def count(self, replicas: int) -> None:
        """Change the deployment's file: it is to have so many replicas."""
        content = yaml.safe_load(self.owner.file.read_text())
        self.owner.file.write_text(yaml.safe_dump(content | {"replicas": {"count": replicas}}))

    def hide_edge(self) -> None:
        """Have an edge for the cluster alone, which `apply` does not try: pods that kwok plays answer nobody."""
        content = yaml.safe_load(self.owner.file.read_text())
        content["kubernetes"]["edge"]["service"] = "ClusterIP"
        self.owner.file.write_text(yaml.safe_dump(content))


@contextlib.contextmanager
def place(*, replicas: int) -> Iterator[Place]:
    """A cluster with sealserve's images, and a broker that its pods reach."""
    with Cluster(say) as cluster, tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        model = write_doubling_model(directory / "doubling")
        changes: dict[str, Any] = {
            "replicas": {"count": replicas},
            "kubernetes": {"resources": {"cpu": "50m", "memory": "400Mi"}},
        }
        owner = prepare(cluster, directory, model, changes, name=NAME)
        port = int(yaml.safe_load(owner.file.read_text())["broker"]["listen"].rpartition(":")[2])
        with owner.broker() as process:
            yield Place(cluster, owner, Process(process.pid, port))


def wait_for(condition: Any, *, seconds: float, what: str) -> float:
    """Seconds until a condition holds."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > seconds:
            raise RuntimeError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.05)
    return time.monotonic() - started
