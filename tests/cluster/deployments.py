"""A deployment's owner beside the cluster: keys, sealed model, a running key broker, and what to render and to ask."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.cluster import Cluster
from cluster.images import nginx_image
from cluster.sealserve_image import sealserve_image
from sealserve.deploy import load_deployment
from sealserve.local.layout import Layout


@dataclass(frozen=True)
class Owner:
    """An owner whose key broker the cluster's pods reach.

    :ivar file: ``deployment.yaml``. :ivar layout: of what ``sealserve prepare`` made. :ivar name: of the deployment,
        and of its namespace.
    """

    cluster: Cluster
    file: Path
    layout: Layout
    name: str

    @property
    def machine_keys(self) -> Path:
        """The simulated machine's keys, which become a Secret."""
        return self.layout.platform / "simulated" / "machine"

    @contextlib.contextmanager
    def broker(self) -> Iterator[subprocess.Popen[bytes]]:
        """The key broker, running on this machine; its log is ``broker.log`` beside the deployment."""
        address = _broker_address(self.file)
        command = [sys.executable, "-m", "sealserve", "broker", "run", "-f", str(self.layout.broker_configuration)]
        with (self.file.parent / "broker.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 90
            while not _is_open(address):
                assert process.poll() is None, (self.file.parent / "broker.log").read_text()
                assert time.monotonic() < deadline, "the key broker does not listen"
                time.sleep(0.05)
            yield process
        finally:
            process.terminate()
            process.wait(timeout=30)


def prepare(cluster: Cluster, directory: Path, model: Path, changes: dict[str, Any], *, name: str = "photos") -> Owner:
    """Prepare a deployment with ``tee: simulated`` for the cluster, with small pods and nginx on a NodePort.

    :param model: directory of the SavedModel, with its versions. :param changes: to ``deployment.yaml``: sections are
        merged, but for ``edge``.
    """
    with socket.create_server((cluster.addresses.host, 0)) as listener:
        port = listener.getsockname()[1]
    sealed = cluster.directory / f"sealed-{name}"
    edge = {"image": cluster.add_image(nginx_image()), "service": "NodePort"}
    content: dict[str, Any] = {
        "name": name,
        "model": {"name": model.name, "path": str(model)},
        "broker": {"listen": f"{cluster.addresses.host}:{port}"},
        "image": {"brokers": [f"{name}-broker.{name}.svc:{port}"]},
        "kubernetes": {
            "image": cluster.add_image(sealserve_image("simulated")),
            "sealed_model": {"host_path": str(sealed)},
            "broker": f"{cluster.addresses.host}:{port}",
            "edge": edge,
            "resources": {"cpu": "100m", "memory": "512Mi"},
        },
    }
    for section, value in changes.items():
        merged = isinstance(value, dict) and section in content
        content[section] = {**content[section], **value} if merged else value
    file = directory / "deployment.yaml"
    file.write_text(yaml.safe_dump(content))
    # In a process of its own, as an owner does it: libraries of other tests in this one cannot bear libpq's TLS.
    subprocess.run(
        [sys.executable, "-m", "sealserve", "prepare", "-f", str(file)], check=True, stdout=subprocess.DEVNULL
    )
    layout = Layout(load_deployment(file).state)
    # What the owner keeps is closed to others; replicas run as a user of their own.
    shutil.rmtree(sealed, ignore_errors=True)
    shutil.copytree(layout.sealed_model, sealed)
    for path in [sealed, *sealed.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return Owner(cluster, file, layout, name)


def _broker_address(file: Path) -> tuple[str, int]:
    host, _, port = yaml.safe_load(file.read_text())["broker"]["listen"].rpartition(":")
    return host, int(port)


def _is_open(address: tuple[str, int]) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=2):
        return True
    return False
