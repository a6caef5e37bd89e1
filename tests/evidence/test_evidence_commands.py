"""``sealserve evidence show`` and ``verify``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evidence_corpus import ENCLAVE, NOW, REPORT_DATA

from sealserve.cli.main import main
from sealserve.evidence import EnclaveReference, PolicyDocument, SimulatedPlatform

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: Any) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def files(tmp_path: Path, platform: SimulatedPlatform, quote: bytes) -> Path:
    (tmp_path / "quote").write_bytes(quote)
    (tmp_path / "root.pem").write_text(platform.root_pem)
    (tmp_path / "collateral.json").write_text(platform.collateral_json(now=NOW))
    PolicyDocument(
        tee="simulated",
        trust_root=Path("root.pem"),
        collateral=Path("collateral.json"),
        enclaves=(EnclaveReference(mrenclave=ENCLAVE.mrenclave),),
        insecure_accept_simulated_platform=True,
    ).save(tmp_path / "policy.yaml")
    return tmp_path


def test_show_explains_a_quote_and_does_not_judge_it(run: Run, files: Path) -> None:
    code, out, _ = run("evidence", "show", files / "quote")
    assert code == 0
    assert ENCLAVE.mrenclave.hex() in out
    assert "SIMULATED" in out
    assert "Nothing of this is verified" in out


def test_show_gives_json(run: Run, files: Path) -> None:
    code, out, _ = run("evidence", "show", files / "quote", "--json")
    assert code == 0
    assert json.loads(out)["isv_prod_id"] == 7


def test_show_refuses_what_is_no_quote(run: Run, files: Path) -> None:
    code, out, error = run("evidence", "show", files / "root.pem")
    assert (code, out) == (4, "")
    assert "not supported" in error
    assert run("evidence", "show", files / "absent")[0] == 3


def test_verify_lists_every_check(run: Run, files: Path) -> None:
    arguments = ("--policy", files / "policy.yaml", "--time", NOW.isoformat(), "--report-data", REPORT_DATA.hex())
    code, out, _ = run("evidence", "verify", files / "quote", *arguments)
    assert code == 0
    assert out.count("✓") == 12
    assert "accepted" in out.splitlines()[-1]


def test_verify_takes_a_time_without_a_zone_as_utc(run: Run, files: Path) -> None:
    policy = files / "policy.yaml"
    assert run("evidence", "verify", files / "quote", "--policy", policy, "--time", "2026-08-01T12:00:00")[0] == 0
    code, out, _ = run("evidence", "verify", files / "quote", "--policy", policy, "--time", "2026-10-01")
    assert code == 4
    assert "expired" in out


def test_verify_tells_scripts_why_not(run: Run, files: Path) -> None:
    arguments = ("--policy", files / "policy.yaml", "--time", NOW.isoformat(), "--json", "--report-data", "00" * 64)
    code, out, _ = run("evidence", "verify", files / "quote", *arguments)
    told = json.loads(out)
    assert code == 4
    assert told["accepted"] is False
    assert told["refusal"]["reason"] == "evidence-binding"
    assert told["evidence"]["mrenclave"] == ENCLAVE.mrenclave.hex()


@pytest.mark.parametrize(
    "wrong", [("--time", "soon"), ("--report-data", "zz"), ("--report-data", "00"), ("--policy", "")]
)
def test_a_wrong_option_is_a_usage_error(run: Run, files: Path, wrong: tuple[str, str]) -> None:
    code, _, _ = run("evidence", "verify", files / "quote", "--policy", files / "policy.yaml", *wrong)
    assert code in {2, 3}


def test_verify_needs_a_policy(run: Run, files: Path) -> None:
    assert run("evidence", "verify", files / "quote")[0] == 2
