"""Errors reach the user as one message, a hint and an exit code; help needs nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

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
    code = root.show_error(InputError("no model at x", hint="Look elsewhere."), machine_readable=False)
    printed = capsys.readouterr()
    assert code == 3
    assert printed.out == ""
    assert printed.err.split() == ["error:", "no", "model", "at", "x", "Look", "elsewhere."]


def test_an_error_is_json_where_scripts_read(capsys: pytest.CaptureFixture[str]) -> None:
    root.show_error(InputError("no model at x", hint="Look elsewhere."), machine_readable=True)
    assert json.loads(capsys.readouterr().err) == {
        "error": "no model at x",
        "reason": "input",
        "hint": "Look elsewhere.",
    }


def test_a_missing_package_names_the_extra_that_brings_it() -> None:
    error = root.explain_missing_module(ModuleNotFoundError("No module named 'grpc'", name="grpc.aio"))
    assert error.exit_code == 6
    assert ".[server]" in str(error.hint)


def test_a_module_of_our_own_that_is_missing_is_a_defect() -> None:
    with pytest.raises(ModuleNotFoundError):
        root.explain_missing_module(ModuleNotFoundError("no", name="sealserve.nowhere"))
