"""`sealserve init`, `up`, `status`, `logs` and `down` as a user types them, with everything real and a small model."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_model import write_doubling_model

from sealserve.errors import MachineError
from sealserve.gateway import find_nginx
from sealserve.local.proc import all_processes

pytest.importorskip("openvino")


def sealserve(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "sealserve", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=90, check=False)


@pytest.fixture
def deployment(tmp_path: Path) -> Path:
    """A directory with a model and a deployment.yaml: free ports, one replica."""
    try:
        find_nginx()
    except MachineError as error:
        pytest.skip(str(error))
    write_doubling_model(tmp_path / "model")
    assert sealserve("init", "--name", "test", "--model-name", "double", cwd=tmp_path).returncode == 0
    file = tmp_path / "deployment.yaml"
    text = file.read_text()
    for default, ours in {":4433": ":0", ":8500": ":0", "count: 2": "count: 1"}.items():
        assert default in text
        text = text.replace(default, ours)
    file.write_text(text)
    return tmp_path


@pytest.fixture
def background(deployment: Path) -> Iterator[Path]:
    started = sealserve("up", "--detach", cwd=deployment)
    try:
        assert started.returncode == 0, started.stderr
        assert "attested and serving" in started.stdout
        assert "sealserve predict" in started.stdout
        yield deployment
    finally:
        sealserve("down", cwd=deployment)


def status(directory: Path) -> dict[str, object]:
    done = sealserve("status", "--json", cwd=directory)
    return dict(json.loads(done.stdout))


def test_a_cluster_in_the_background_from_up_to_down(background: Path) -> None:
    found = status(background)
    processes = {process["name"]: process for process in found["processes"]}  # type: ignore[attr-defined]
    assert found["running"] is True
    assert list(processes) == ["broker", "replica-1", "gateway"]
    assert processes["replica-1"]["attested"] is True

    again = sealserve("up", cwd=background)
    assert again.returncode == 3
    assert "runs already" in again.stderr

    os.kill(processes["replica-1"]["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 60
    # If this fails with a refusal by the broker, a file of the package was changed meanwhile: that is measured.
    while True:
        replica = status(background)["processes"][1]  # type: ignore[index]
        if replica["restarts"] == 1 and replica["phase"] == "ready":
            break
        assert time.monotonic() < deadline, replica
        time.sleep(0.2)

    table = sealserve("status", cwd=background).stdout
    assert "ATTESTED" in table
    logs = sealserve("logs", "-n", "1000", cwd=background).stdout
    assert "replica-1  | " in logs
    assert '"event": "process-died"' in logs
    assert "no log 'x'" in sealserve("logs", "x", cwd=background).stderr

    stopped = sealserve("down", cwd=background)
    assert stopped.returncode == 0
    assert "stopped" in stopped.stdout
    sessions = {process["pid"] for process in processes.values()}
    assert not [facts for facts in all_processes() if facts.session in sessions and facts.state not in "ZX"]
    assert sealserve("status", cwd=background).returncode == 5
    assert "no cluster runs" in sealserve("down", cwd=background).stdout


def test_interrupting_the_start_leaves_nothing(deployment: Path) -> None:
    command = [sys.executable, "-P", "-m", "sealserve", "up"]
    process = subprocess.Popen(command, cwd=deployment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "broker" in line:  # replicas are on their way
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    root = deployment / ".sealserve"
    assert not (root / "state.json").exists()
    for facts in all_processes():
        try:
            assert not Path(f"/proc/{facts.pid}/cwd").readlink().is_relative_to(root)
        except OSError:
            continue


def test_a_failure_in_the_background_comes_to_the_foreground(deployment: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file = deployment / "deployment.yaml"
        file.write_text(file.read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}", 1))
        done = sealserve("up", "-d", cwd=deployment)
        assert done.returncode == 6
        assert f"error: port {port} (broker.listen" in done.stderr
        assert sealserve("status", cwd=deployment).returncode == 5


def test_a_model_that_is_none_is_refused_and_nothing_is_left(deployment: Path) -> None:
    (deployment / "model" / "1" / "saved_model.pb").write_bytes(b"\xff\xff no graph")
    done = sealserve("up", "--json", cwd=deployment)
    assert done.returncode == 3
    error = json.loads(done.stderr.splitlines()[-1])
    assert "saved_model.pb" in error["error"] or "SavedModel" in error["error"]
    for line in done.stdout.splitlines():
        json.loads(line)


def test_init_does_not_write_over_a_file(deployment: Path) -> None:
    refused = sealserve("init", cwd=deployment)
    assert refused.returncode == 3
    assert "--force" in refused.stderr
    assert "name: test" in (deployment / "deployment.yaml").read_text()
    assert sealserve("init", "--force", cwd=deployment).returncode == 0
    assert "name: my-deployment" in (deployment / "deployment.yaml").read_text()


def test_init_refuses_a_name_that_would_not_load(tmp_path: Path) -> None:
    done = sealserve("init", "--name", "Not A Name", cwd=tmp_path)
    assert done.returncode == 3
    assert not (tmp_path / "deployment.yaml").exists()
