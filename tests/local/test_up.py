"""`sealserve init`, `up`, `status`, `logs` and `down` as a user types them, with everything real and a small model."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from small_model import write_doubling_model

from sealserve.addresses import parse_address
from sealserve.client import attest
from sealserve.errors import MachineError
from sealserve.evidence import AppraisalPolicy
from sealserve.gateway import find_nginx, worker_user
from sealserve.local.layout import Layout
from sealserve.local.ownership import claim
from sealserve.local.proc import all_processes
from sealserve.ratls import spki_digest

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


def test_rest_over_tls_ends_inside_the_replica_that_evidence_vouches_for(deployment: Path) -> None:
    file = deployment / "deployment.yaml"
    text = file.read_text()
    assert "# rest_listen: 127.0.0.1:8501" in text
    file.write_text(text.replace("# rest_listen: 127.0.0.1:8501", "rest_listen: 127.0.0.1:0"))
    try:
        started = sealserve("up", "--detach", cwd=deployment)
        assert started.returncode == 0, started.stderr
        found = status(deployment)
        rest, name = parse_address(str(found["rest"])), str(found["server_name"])
        assert f"{rest} (REST over TLS)" in started.stdout
        assert f"REST {rest}" in sealserve("status", cwd=deployment).stdout
        policy = AppraisalPolicy.load(Layout(deployment / ".sealserve").client_policy)
        evidence = attest(str(found["gateway"]), policy, server_name=name)

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the key is what counts
        with socket.create_connection((rest.host, rest.port), timeout=20) as raw:
            stream = context.wrap_socket(raw, server_hostname=name)
            certificate = x509.load_der_x509_certificate(stream.getpeercert(binary_form=True) or b"")
            assert spki_digest(certificate) == evidence.spki_digest
            connection = http.client.HTTPConnection(rest.host)
            connection.sock = stream
            connection.request("POST", "/v1/models/double:predict", json.dumps({"instances": [1, 2.5]}))
            answer = connection.getresponse()
            assert (answer.status, json.load(answer)) == (200, {"predictions": [2.0, 5.0]})
            connection.close()
        with socket.create_connection((rest.host, rest.port), timeout=20) as raw, pytest.raises(OSError, match=r".*"):
            context.wrap_socket(raw, server_hostname="other.example").recv(1)
    finally:
        sealserve("down", cwd=deployment)


def test_a_rest_port_that_is_taken_is_named_by_its_setting(deployment: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file = deployment / "deployment.yaml"
        file.write_text(file.read_text().replace("# rest_listen: 127.0.0.1:8501", f"rest_listen: 127.0.0.1:{port}"))
        done = sealserve("up", cwd=deployment)
    assert done.returncode == 6
    assert f"error: port {port} (gateway.rest_listen" in done.stderr


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


def wait_for_partial(root: Path) -> None:
    """Until a model is being sealed."""
    deadline = time.monotonic() + 60
    while not list((root / "platform").rglob("*.partial")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def long_sealing(deployment: Path) -> Path:
    """A deployment whose model takes seconds to seal."""
    assets = deployment / "model" / "1" / "assets"
    assets.mkdir()
    with (assets / "big").open("wb") as file:
        file.truncate(1 << 30)
    return deployment


@pytest.mark.parametrize(
    ("arguments", "number"),
    [(["up"], signal.SIGTERM), (["up"], signal.SIGHUP), (["up", "--detach"], signal.SIGTERM)],
)
def test_a_signal_during_the_preparation_leaves_nothing(
    long_sealing: Path, arguments: list[str], number: signal.Signals
) -> None:
    before = sorted(long_sealing.rglob("*"))
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "sealserve", *arguments, "--json"],
        cwd=long_sealing,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_partial(long_sealing / ".sealserve")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    last = json.loads(out.splitlines()[-1])
    assert (last["event"], last["reason"]) == ("cluster-failed", "interrupted")
    assert json.loads(err)["reason"] == "interrupted"
    assert sorted(long_sealing.rglob("*")) == before


def test_a_cluster_that_is_being_prepared_is_shown_and_can_be_stopped(long_sealing: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "sealserve", "up", "-d"], cwd=long_sealing, stderr=subprocess.PIPE, text=True
    )
    wait_for_partial(long_sealing / ".sealserve")
    assert status(long_sealing) == {"running": True, "phase": "starting", "processes": []}
    assert "stopped" in sealserve("down", cwd=long_sealing).stdout
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in err
    assert not (long_sealing / ".sealserve").exists()


def test_down_wakes_a_cluster_that_was_suspended(background: Path) -> None:
    found = status(background)
    os.kill(int(str(found["supervisor"])), signal.SIGSTOP)
    done = sealserve("down", cwd=background)
    assert done.returncode == 0
    lines = (background / ".sealserve" / "platform" / "logs" / "supervisor.log").read_text().splitlines()
    assert json.loads(lines[-1])["event"] == "cluster-stopped", "it ended by itself"


def test_a_stopped_cluster_with_any_port_is_said_not_to_run(deployment: Path) -> None:
    done = sealserve("verify", cwd=deployment)
    assert done.returncode == 5
    assert "no cluster of deployment.yaml runs" in done.stderr
    named = sealserve("verify", "127.0.0.1:1", "--policy", "absent.yaml", "-f", "deployment.yaml", cwd=deployment)
    assert "absent.yaml" in named.stderr
    assert "was started" not in named.stderr


def test_a_path_that_nginx_cannot_take_is_refused_before_anything_is_made(deployment: Path) -> None:
    file = deployment / "deployment.yaml"
    file.write_text(file.read_text().replace("state: .sealserve", "state: it's"))
    before = sorted(deployment.rglob("*"))
    for arguments in (["up"], ["up", "-d"], ["demo", "--directory", "a;b"]):
        done = sealserve(*arguments, cwd=deployment)
        assert done.returncode == 3
        assert "nginx cannot take the path" in done.stderr
        assert sorted(deployment.rglob("*")) == before


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


def test_replicas_batch_as_the_deployment_says_and_a_wrong_file_is_named_before_anything_is_made(
    deployment: Path,
) -> None:
    file, batching = deployment / "deployment.yaml", deployment / "batching.pbtxt"
    text = file.read_text()
    assert "  # batching: batching.pbtxt" in text
    file.write_text(text.replace("# batching: batching.pbtxt", "batching: batching.pbtxt"))
    done = sealserve("up", "-d", cwd=deployment)
    assert (done.returncode, "batching.pbtxt" in done.stderr) == (3, True)
    assert "model.batching" in done.stderr
    batching.write_text("max_batch_size { value: 0 }")
    done = sealserve("up", "-d", cwd=deployment)
    assert done.returncode == 3
    assert "model.batching" in done.stderr
    assert "max_batch_size must be positive" in done.stderr
    assert not (deployment / ".sealserve").exists()
    batching.write_text("max_batch_size { value: 2 } batch_timeout_micros { value: 0 }")
    assert sealserve("up", "-d", cwd=deployment).returncode == 0
    try:
        for rows in (2, 3):
            (deployment / f"{rows}.json").write_text(json.dumps({"x": list(range(rows))}))
        assert sealserve("predict", "--input-json", "2.json", cwd=deployment).returncode == 0
        done = sealserve("predict", "--input-json", "3.json", cwd=deployment)
        assert done.returncode != 0
        assert "Task size 3 is larger than maximum" in done.stderr
    finally:
        sealserve("down", cwd=deployment)


def test_a_start_that_fails_in_its_preparation_leaves_nothing_of_its_own(deployment: Path) -> None:
    before = sorted(deployment.rglob("*"))
    good = (deployment / "deployment.yaml").read_text()
    for old, new, arguments in (
        ("path: model", "path: absent", ["up"]),
        ("127.0.0.1:0", "192.0.2.1:4433", ["up", "--detach"]),
    ):
        (deployment / "deployment.yaml").write_text(good.replace(old, new, 1))
        done = sealserve(*arguments, cwd=deployment)
        assert done.returncode in {3, 6}, done.stderr
        assert done.stderr.startswith("error: ")
        assert sorted(deployment.rglob("*")) == before


def test_every_run_for_scripts_ends_with_an_event_on_standard_output(deployment: Path) -> None:
    (deployment / "model" / "1" / "saved_model.pb").unlink()
    for arguments in (["up", "--json"], ["up", "--json", "--detach"], ["up", "--json", "-f", "absent.yaml"]):
        done = sealserve(*arguments, cwd=deployment)
        last = json.loads(done.stdout.splitlines()[-1])
        assert last["event"] == "cluster-failed"
        assert last["exit_code"] == done.returncode == 3
        assert json.loads(done.stderr.splitlines()[-1])["error"] == last["error"]


def test_a_project_that_looks_like_a_state_directory_is_left_alone(deployment: Path) -> None:
    (deployment / "deployment.yaml").write_text(
        (deployment / "deployment.yaml").read_text().replace("state: .sealserve", "state: .")
    )
    for name in ("platform/tmp/x", "platform/sealed/x", "owner/x", "client/policy.yaml"):
        (deployment / name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        (deployment / name).write_text("mine")
    before = {path: path.read_bytes() for path in deployment.rglob("*") if path.is_file()}
    for command in (["up"], ["up", "-d"], ["down"], ["status"], ["logs"], ["down", "--state", "."]):
        done = sealserve(*command, cwd=deployment)
        assert done.returncode == 3
        assert "did not make it" in done.stderr
    assert {path: path.read_bytes() for path in deployment.rglob("*") if path.is_file()} == before


def test_a_cluster_of_another_file_under_an_open_umask(deployment: Path) -> None:
    """Nothing private is open to others, nginx's workers are nobody's, and hints name the file."""
    (deployment / "deployment.yaml").rename(deployment / "other.yaml")
    before = os.umask(0)
    try:
        done = sealserve("up", "-d", "-f", "other.yaml", cwd=deployment)
        assert done.returncode == 0, done.stderr
        for command in ("status", "logs", "down", "verify", "predict"):
            assert f"sealserve {command} -f" in done.stdout
        root = deployment / ".sealserve"
        for path in (root / "state.json", root / "lock", *root.rglob("*.log"), *root.rglob("*.key")):
            if path.parent.name != "nginx":
                assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert not [path for path in root.rglob("*") if path.stat().st_mode & 0o022]
        processes = json.loads((root / "state.json").read_text())["processes"]
        (master,) = (process["pid"] for process in processes if process["name"] == "gateway")
        users = {f.pid: Path(f"/proc/{f.pid}").stat().st_uid for f in all_processes() if f.session == master}
        assert users.pop(master) == os.geteuid()
        assert users
        assert 0 not in users.values() or worker_user() == "root"
    finally:
        os.umask(before)
        sealserve("down", "-f", "other.yaml", cwd=deployment)


def test_what_a_replica_writes_does_not_command_the_terminal(deployment: Path) -> None:
    claim(deployment / ".sealserve", "cluster")
    logs = Layout(deployment / ".sealserve").make().logs
    (logs / "replica-1.log").write_bytes(b"\x1b]0;owned\x07 \xc2\x9b31m \xe2\x80\xae \xff plain \xc3\xa4\n")
    done = sealserve("logs", "replica-1", cwd=deployment)
    assert done.stdout.rstrip("\n").isprintable()
    assert "\\x1b]0;owned" in done.stdout
    assert "plain ä" in done.stdout


@pytest.fixture
def small_disk(deployment: Path) -> Iterator[Path]:
    """A file system of 2 MB with the deployment in it, whose room :func:`fill` takes."""
    disk = deployment / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("only root can mount a small file system")
    try:
        shutil.copytree(deployment / "model", disk / "model")
        shutil.copy(deployment / "deployment.yaml", disk)
        yield disk
    finally:
        sealserve("down", cwd=disk)
        subprocess.run(["/bin/umount", disk], check=True)


def fill(disk: Path, *, free: int) -> None:
    """Leave ``free`` bytes."""
    (disk / "filling").unlink(missing_ok=True)
    (disk / "filling").write_bytes(bytes(shutil.disk_usage(disk).free - free))
    assert shutil.disk_usage(disk).free == free


def test_a_full_disk_is_named_and_nothing_is_left(small_disk: Path) -> None:
    fill(small_disk, free=120 << 10)
    before = sorted(small_disk.rglob("*"))
    for arguments in (["up"], ["up", "-d"]):
        done = sealserve(*arguments, cwd=small_disk)
        assert done.returncode == 6
        assert "No space left on device" in done.stderr
        assert str(small_disk) in done.stderr
        assert sorted(small_disk.rglob("*")) == before


def test_a_disk_that_becomes_full_for_the_brokers_audit_log_is_named_at_once(small_disk: Path) -> None:
    assert sealserve("up", "-d", cwd=small_disk).returncode == 0
    assert sealserve("down", cwd=small_disk).returncode == 0
    key = (small_disk / ".sealserve" / "owner" / "wrap.key").read_bytes()
    fill(small_disk, free=24 << 10)
    done = sealserve("up", cwd=small_disk)
    assert done.returncode == 6
    assert "No space left on device" in done.stderr
    assert "answered within" not in done.stderr, "it asked the broker again and again"
    assert not list(small_disk.rglob("*.partial"))
    assert (small_disk / ".sealserve" / "owner" / "wrap.key").read_bytes() == key


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    for command in ("up", "status", "down", "logs"):
        done = sealserve(command, cwd=tmp_path)
        assert done.returncode == 3
        assert "`sealserve init` writes one" in done.stderr
    done = sealserve("verify", cwd=tmp_path)
    assert "TARGET" in done.stderr
    assert "--target" not in done.stderr


def test_init_says_how_to_get_a_model_and_where(tmp_path: Path) -> None:
    done = sealserve("init", "-f", "d.yaml", "--model", "my model", cwd=tmp_path)
    assert "sealserve model fetch efficientnet-lite0 --to 'my model'" in done.stdout
    assert "sealserve up -f " in done.stdout


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
    assert done.stderr.startswith("error: --name: must be 1 to 63 lower-case letters")
    done = sealserve("init", "--model", "", cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.startswith("error: --model: must not be empty")
    assert not (tmp_path / "deployment.yaml").exists()
