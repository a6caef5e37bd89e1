"""Key brokers as pods over a real PostgreSQL: replicas get their keys, also while brokers are being replaced."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_model import write_doubling_model
from test_broker_postgresql import Server

from cluster.cluster import Cluster
from cluster.deployments import Owner, prepare
from cluster.sealserve_image import sealserve_image
from sealserve.local.certificates import ensure_authority, ensure_server_certificate

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

_NAME, _KEYS, _DATABASE = "kept", "kept-keys", "kept-database"


@pytest.fixture
def database(kubernetes_cluster: Cluster, tmp_path: Path) -> Iterator[str]:
    """URL of an empty database that pods and this machine reach, certified by ``ca.crt``."""
    with tempfile.TemporaryDirectory(prefix="sealserve-pg-") as directory:
        Path(directory).chmod(0o755)
        server = Server(Path(directory), listen=kubernetes_cluster.addresses.host)
        _certify(server, tmp_path)
        server.database("keys")
        yield f"postgresql://broker@{kubernetes_cluster.addresses.host}:{server.port}/keys?sslmode=verify-ca"
        server.stop()


def _certify(server: Server, directory: Path) -> None:
    """Have the database speak TLS, with a certificate of ``ca.crt``."""
    key, authority = directory / "ca.key", directory / "ca.crt"
    ensure_authority(key, authority, name="keys", of="database")
    made = [server.data / name for name in ("server.key", "server.crt")]
    ensure_server_certificate(*made, authority_key=key, authority=authority, hosts=[server.listen])
    for path in made:
        shutil.chown(path, server.user or os.geteuid())
    server.sql("ALTER SYSTEM SET ssl = on", "postgres")
    server.stop()
    server.start()


@pytest.fixture
def owner(kubernetes_cluster: Cluster, database: str, tmp_path: Path) -> Iterator[Owner]:
    brokers = {
        "image": kubernetes_cluster.add_image(sealserve_image("broker")),
        "database": {"url": database, "secret": _DATABASE, "authority": "ca.crt"},
    }
    changes = {
        "broker": {"store": f"{database}&sslrootcert={tmp_path / 'ca.crt'}"},
        "image": {"brokers": [f"{_NAME}-broker.{_KEYS}.svc:4433"]},
        "kubernetes": {"broker": None, "brokers": brokers},
    }
    owner = prepare(kubernetes_cluster, tmp_path, write_doubling_model(tmp_path / "doubling"), changes, name=_NAME)
    yield owner
    for namespace in (_NAME, _KEYS):
        kubernetes_cluster.kubectl("delete", "namespace", namespace, "--ignore-not-found", "--timeout=3m", timeout=200)
    kubernetes_cluster.kubectl("delete", "persistentvolume", f"--selector=app.kubernetes.io/instance={_NAME}")


def _rendered(owner: Owner, command: str) -> Path:
    output = owner.file.parent / command
    arguments = ["k8s", command, "-f", str(owner.file), "-o", str(output)]
    subprocess.run([sys.executable, "-m", "sealserve", *arguments], check=True, timeout=60)
    return output


def test_replicas_get_keys_from_brokers_in_pods_and_while_these_are_replaced(owner: Owner) -> None:
    kubectl = owner.cluster.kubectl
    kubectl("apply", "--server-side", "--validate=strict", "--kustomize", _rendered(owner, "render-brokers"))
    files = [f"--from-file={owner.layout.owner / name}" for name in ("master.key", "broker-key.pem", "broker.pem")]
    kubectl("--namespace", _KEYS, "create", "secret", "generic", f"{_NAME}-broker", *files)
    brokers, replicas = ("--namespace", _KEYS), ("--namespace", _NAME)
    kubectl(*brokers, "create", "secret", "generic", _DATABASE, f"--from-file={owner.file.parent / 'ca.crt'}")
    status = ("rollout", "status", "--timeout=4m")
    kubectl(*brokers, *status, f"deployment/{_NAME}-broker", timeout=260)
    kubectl("apply", "--server-side", "--validate=strict", "--kustomize", _rendered(owner, "render"))
    platform = f"{_NAME}-simulated-platform"
    kubectl(*replicas, "create", "secret", "generic", platform, f"--from-file={owner.machine_keys}")
    kubectl(*replicas, *status, f"deployment/{_NAME}-replica", timeout=260)
    kubectl(*brokers, "rollout", "restart", f"deployment/{_NAME}-broker")
    kubectl(*replicas, "rollout", "restart", f"deployment/{_NAME}-replica")
    kubectl(*replicas, *status, f"deployment/{_NAME}-replica", timeout=260)
    kubectl(*brokers, *status, f"deployment/{_NAME}-broker", timeout=260)
    pods = owner.cluster.get("pods", *replicas, "--selector=app.kubernetes.io/component=replica")["items"]
    restarts = [status["restartCount"] for pod in pods for status in pod["status"]["containerStatuses"]]
    assert set(restarts) == {0}, "a replica waits for a broker, and does not end"
