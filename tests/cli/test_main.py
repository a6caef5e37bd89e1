"""Errors reach the user as one message, a hint and an exit code; help needs nothing heavy."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from sealserve import logs
from sealserve.cli import failures
from sealserve.cli import main as root
from sealserve.errors import InputError


def sealserve(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sealserve", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def test_help_lists_every_command_with_a_line_about_it() -> None:
    done = sealserve("--help")
    assert done.returncode == 0
    for name in root.COMMANDS:
        line = next(line for line in done.stdout.splitlines() if line.strip().startswith(name + " "))
        assert len(line.split()) > 2


def test_lists_of_commands_are_cut_at_no_width_of_a_usual_terminal() -> None:
    def lists(command: click.Command, path: list[str]) -> Iterator[str]:
        if isinstance(command, click.Group):
            context = click.Context(command, info_name=" ".join(path))
            yield CliRunner().invoke(command, ["--help"], terminal_width=80).output
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None
                yield from lists(found, [*path, name])

    told = list(lists(root.cli, ["sealserve"]))
    assert len(told) > 10
    for text in told:
        listed = text.partition("--help")[2].splitlines()
        assert not [line for line in listed if line.endswith("...") or len(line) > 80]


@pytest.mark.parametrize("name", root.COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    done = sealserve(name, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: sealserve" in done.stdout


def test_help_imports_none_of_the_heavy_packages() -> None:
    program = (
        "import sys\nfrom sealserve.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'grpc', 'openvino', 'numpy', 'tensorflow', 'OpenSSL', 'dcap_qvl', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_an_unknown_command_is_a_usage_error() -> None:
    done = sealserve("frobnicate")
    assert done.returncode == 2
    assert "frobnicate" in done.stderr


def test_an_error_is_one_message_with_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    code = failures.show_failure(InputError("no model at x", hint="Look elsewhere."), machine_readable=False)
    printed = capsys.readouterr()
    assert code == 3
    assert printed.out == ""
    assert printed.err.split() == ["error:", "no", "model", "at", "x", "Look", "elsewhere."]


def test_an_error_is_json_where_scripts_read(capsys: pytest.CaptureFixture[str]) -> None:
    failures.show_failure(InputError("no model at x", hint="Look elsewhere."), machine_readable=True)
    assert json.loads(capsys.readouterr().err) == {
        "error": "no model at x",
        "reason": "input",
        "hint": "Look elsewhere.",
    }


def test_a_missing_package_names_the_extra_that_brings_it() -> None:
    error = failures.explain_missing_module(ModuleNotFoundError("No module named 'grpc'", name="grpc.aio"))
    assert error.exit_code == 6
    assert ".[server]" in str(error.hint)


def test_a_module_of_our_own_that_is_missing_is_a_defect() -> None:
    with pytest.raises(ModuleNotFoundError):
        failures.explain_missing_module(ModuleNotFoundError("no", name="sealserve.nowhere"))


def test_an_error_is_folded_to_a_narrow_terminal_and_paths_stay_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    path = "/a/very/long/path/that/is/there/to/be/copied/model.pb"
    failures.show_failure(InputError(f"there is no model at {path} or near it", hint="Look."), machine_readable=False)
    lines = capsys.readouterr().err.splitlines()
    assert any(line.strip() == path for line in lines)
    assert all(len(line) <= 40 for line in lines if path not in line)


def test_an_item_of_a_list_stays_under_its_beginning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    failures.show_failure(InputError("missing:\n  get, create and delete services in photos"), machine_readable=False)
    assert capsys.readouterr().err.splitlines() == [
        "error: missing:",
        "         get, create and delete services",
        "         in photos",
    ]


def test_an_error_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    failures.show_failure(InputError("evil \x1b[2J\nname", hint="\x9b1m"), machine_readable=False)
    printed = capsys.readouterr().err
    assert all(line.isprintable() for line in printed.splitlines())
    assert len(printed.splitlines()) == 3


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_are_for_terminals_that_want_them(environment: dict[str, str], coloured: bool) -> None:
    outside, inside = pty.openpty()
    command = [sys.executable, "-m", "sealserve", "model", "fetch", "unknown"]
    plain = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
    subprocess.run(command, stdout=inside, stderr=inside, env={**plain, **environment}, check=False, timeout=60)
    os.close(inside)
    assert (b"\x1b[" in os.read(outside, 4096)) is coloured
    os.close(outside)
    assert "\x1b" not in sealserve("model", "fetch", "unknown").stderr


def test_a_wrong_command_line_is_json_where_scripts_read() -> None:
    done = sealserve("status", "--json", "--frobnicate")
    assert done.returncode == 2
    assert json.loads(done.stderr)["reason"] == "usage"


def test_a_defect_is_told_with_its_trace_and_an_exit_code_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert failures.show_failure(KeyError("x"), machine_readable=True) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback") or "KeyError" in lines[0]
    assert json.loads(lines[-1])["reason"] == "defect"


def test_a_full_disk_behind_the_output_is_no_defect() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sealserve", "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 6
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_whoever_stops_reading_is_no_defect(tmp_path: Path) -> None:
    (tmp_path / "app.manifest").write_text("sgx.debug = true\n")
    for arguments in (f"image lint {tmp_path / 'app.manifest'}", "cloud show bare-metal"):
        read, write = os.pipe()
        os.close(read)
        command = [sys.executable, "-m", "sealserve", *arguments.split()]
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
        os.close(write)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_last_event_of_a_failure_has_its_cause(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), failures.final_event(enabled=True, event="end", result="failed"):
        raise KeyboardInterrupt
    assert json.loads(capsys.readouterr().out) == {
        "event": "end",
        "result": "failed",
        "error": "interrupted",
        "reason": "interrupted",
        "exit_code": 130,
    }
    with pytest.raises(InputError), failures.final_event(enabled=False, event="end"):
        raise InputError("no")
    assert capsys.readouterr().out == ""


def test_ctrl_c_prints_no_trace_at_any_moment_of_a_short_command() -> None:
    for moment in range(1, 6):
        with subprocess.Popen(
            [sys.executable, "-X", "importtime", "-m", "sealserve", "status", "--state", "/nonexistent"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            # By the imports that it has done, so that the moments are the same on a slow machine.
            ours = (line for line in process.stderr if "click" in line or "sealserve.cli" in line)
            for _ in zip(range(moment * 4), ours, strict=False):
                pass
            process.send_signal(signal.SIGINT)
            _, rest = process.communicate(timeout=60)
        assert "Traceback" not in rest
        assert process.returncode in {130, -signal.SIGINT, 5}


def test_a_library_warning_reads_as_the_commands_do() -> None:
    stream = io.StringIO()
    logs.configure(json_lines=False, stream=stream, command=True)
    logs.event(
        logs.get_logger("sealserve.x"), logging.WARNING, "insecure-policy-loaded", policy="p", accepts=["a", "b\x1b"]
    )
    assert stream.getvalue() == "warning: insecure policy loaded: policy p, accepts a, b\\x1b\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_defect(closed: str, tmp_path: Path) -> None:
    command = f"{sys.executable} -m sealserve status --state {tmp_path} {closed}"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 5
    assert done.stderr == ""


def test_what_a_stream_cannot_encode_is_escaped() -> None:
    program = (
        "import sys\nfrom sealserve.cli.streams import prepare_streams\nprepare_streams()\nprint('a' + chr(0x2026))\n"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, env=environment)
    assert done.stdout == b"a\\u2026\n"
