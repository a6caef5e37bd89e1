"""Brokers as they are rendered, run here over a PostgreSQL that ``prepare`` filled: no replica goes without a key."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from kubernetes_cases import NGINX, REPLICA, objects_in, of_kind
from small_model import write_doubling_model
from test_broker_postgresql import Server

from sealserve.broker.client import fetch_grant
from sealserve.broker.settings import BrokerSettings
from sealserve.enclave.measured import measured_settings
from sealserve.evidence import SimulatedAttester, measure_simulated_enclave
from sealserve.kubernetes.broker_rendering import render_key_brokers
from sealserve.local.layout import Layout
from sealserve.local.owner import prepare_owner
from sealserve.ratls import create_identity

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def database() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="sealserve-pg-") as directory:
        Path(directory).chmod(0o755)
        server = Server(Path(directory))
        yield server.database("keys")
        server.stop()


def _deployment(directory: Path, database: str) -> Path:
    write_doubling_model(directory / "model")
    file = directory / "deployment.yaml"
    content = {
        "name": "photos",
        "model": {"name": "double", "path": "model"},
        "broker": {"store": database},
        "image": {"brokers": ["photos-broker.photos-keys.svc:4433"]},
        "kubernetes": {
            "namespace": "serving",
            "image": REPLICA,
            "sealed_model": {"claim": "sealed"},
            "edge": {"image": NGINX},
            "brokers": {"image": REPLICA, "database": {"url": "postgresql://broker@db/keys?sslmode=verify-full"}},
        },
    }
    file.write_text(yaml.safe_dump(content))
    return file


def _as_in_a_pod(directory: Path, layout: Layout, objects: list[dict[str, object]], database: str) -> list[Path]:
    """What two pods would run with: keys by the rendered command from files as Kubernetes gives them; ports of here."""
    secret, keys = directory / "secret", directory / "keys"
    secret.mkdir()
    keys.mkdir()
    for name in ("master.key", "broker-key.pem", "broker.pem"):
        shutil.copy(layout.owner / name, secret / name)
        (secret / name).chmod(0o440)
    pod = of_kind(objects, "Deployment")[0]["spec"]["template"]["spec"]
    shell = pod["initContainers"][0]["command"]
    subprocess.run([*shell[:2], shell[2].replace("/secret/", f"{secret}/").replace("/keys ", f"{keys} ")], check=True)
    assert {path.stat().st_mode & 0o777 for path in keys.iterdir()} == {0o400}
    text = of_kind(objects, "ConfigMap")[0]["data"]["broker.yaml"].replace("/keys/", f"{keys}/")
    files = []
    for number in range(2):
        settings = yaml.safe_load(text)
        settings["store"] = database
        settings["listen"] = f"127.0.0.1:{_free_port()}"
        settings["admin"]["listen"] = f"127.0.0.1:{_free_port()}"
        files.append(directory / f"broker-{number}.yaml")
        files[-1].write_text(yaml.safe_dump(settings))
    return files


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _start(file: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "sealserve", "broker", "run", "--file", str(file), "--json-logs"],
        stderr=subprocess.DEVNULL,
    )
    address = BrokerSettings.load(file).address
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection((address.host, address.port), 1):
            return process
        time.sleep(0.1)
    process.kill()
    pytest.fail("the broker does not listen")


def test_prepare_fills_the_database_and_brokers_restart_one_by_one_without_a_request_lost(
    tmp_path: Path, database: str
) -> None:
    file = _deployment(tmp_path, database)
    layout = prepare_owner(file).layout
    assert not layout.store.exists()
    with BrokerSettings.load(layout.broker_configuration).open_store() as store:
        assert list(store.load().grants) == ["photos"]
        revision = store.mark()[0]
        prepare_owner(file)
        assert store.mark()[0] == revision, "running it again changes nothing"
    objects = objects_in(render_key_brokers(file, tmp_path / "brokers").directory)
    files = _as_in_a_pod(tmp_path, layout, objects, database)
    brokers = [f"127.0.0.1:{BrokerSettings.load(path).address.port}" for path in files]
    authority = layout.authority.read_bytes()
    enclave = measure_simulated_enclave(measured_settings(deployment="photos", broker_ca=authority))
    attester = SimulatedAttester(layout.simulated_platform, enclave)
    identity = create_identity(attester)

    def ask(turn: int) -> None:
        grant = fetch_grant(
            brokers[turn % 2 :] + brokers[: turn % 2],
            ca_pem=authority,
            identity=identity,
            attester=attester,
            deployment="photos",
            timeout=20,
        )
        assert grant.model.name == "double"
        grant.wipe()

    running = [_start(path) for path in files]
    try:
        ask(0)
        for which in (0, 1):
            running[which].send_signal(signal.SIGTERM)
            for turn in range(4):
                ask(turn)
            assert running[which].wait(30) == 0
            running[which] = _start(files[which])
            for turn in range(4):
                ask(turn)
    finally:
        for process in running:
            process.kill()
            process.wait()
    with BrokerSettings.load(layout.broker_configuration).open_store() as store:
        assert store.check().audit.records > 17  # every request that was answered is in the one log of both
