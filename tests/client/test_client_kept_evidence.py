"""``sealserve verify --save`` and ``--saved``: evidence that is judged again later, without anybody being asked."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from client_parties import DIGEST, MARKER, write_policy
from cryptography.hazmat.primitives.serialization import Encoding

from sealserve.cli.client_verify import verify
from sealserve.cli.main import cli
from sealserve.errors import InputError


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(verify, arguments)


@pytest.fixture
def kept(run, replica, policy_file, tmp_path):
    result = run(replica.target, "--policy", policy_file, "--save", "kept.json")
    assert result.exit_code == 0, result.output
    assert "kept in kept.json" in result.output
    return tmp_path / "kept.json"


def test_kept_evidence_is_judged_without_a_connection(run, kept, replica, policy_file):
    replica.stop().wait()
    result = run("--saved", str(kept), "--policy", policy_file)
    assert result.exit_code == 0, result.output
    assert "ACCEPTED AS KEPT EVIDENCE  replica-1" in result.output
    assert "by the word of the file alone" in result.output
    report = json.loads(run("--saved", str(kept), "--policy", policy_file, "--json").output)
    assert (report["accepted"], report["live"]) == (True, False)
    # What nobody can check later is not called a check that held.
    outcomes = {check["name"]: check["outcome"] for check in report["checks"]}
    assert outcomes["connection"] == outcomes["freshness"] == "skipped"
    assert outcomes["binding"] == outcomes["models"] == "ok"
    assert len(report["policy_sha256"]) == 64


def test_a_report_for_scripts_can_be_judged_again_too(run, replica, policy_file, tmp_path):
    (tmp_path / "report.json").write_text(run(replica.target, "--policy", policy_file, "--json").output)
    assert run("--saved", "report.json", "--policy", policy_file).exit_code == 0
    shown = CliRunner().invoke(cli, ["evidence", "verify", "report.json", "--policy", policy_file])
    assert shown.exit_code == 0, shown.output


def test_another_policy_judges_it_otherwise(run, kept, platform, tmp_path):
    write_policy(tmp_path / "listed.yaml", platform, f"models: ['{DIGEST.hex()}']\n")
    write_policy(tmp_path / "stricter.yaml", platform, f"models: ['{bytes(32).hex()}']\n")
    assert run("--saved", str(kept), "--policy", "listed.yaml").exit_code == 0
    refused = run("--saved", str(kept), "--policy", "stricter.yaml")
    assert refused.exit_code == 4
    assert DIGEST.hex() in refused.output


@pytest.mark.parametrize("command", [["verify", "--saved"], ["evidence", "verify"]])
def test_both_commands_refuse_a_report_of_another_model(command, kept, platform, tmp_path):
    write_policy(tmp_path / "stricter.yaml", platform, f"models: ['{bytes(32).hex()}']\n")
    refused = CliRunner().invoke(cli, [*command, str(kept), "--policy", "stricter.yaml"])
    assert refused.exit_code == 4, refused.output
    assert DIGEST.hex() in refused.output


@pytest.mark.parametrize("command", [["verify", "--saved"], ["evidence", "verify"]])
def test_both_commands_refuse_a_report_with_forged_plain_text(command, run, replica, policy_file, tmp_path):
    report = json.loads(run(replica.target, "--policy", policy_file, "--json").output)
    forged = [{"name": "classifier", "version": 3, "digest": "ee" * 32}]
    for change in ({"models": forged}, {"replica": "x"}, {"evidence": report["evidence"] | {"mrenclave": "00" * 32}}):
        (tmp_path / "report.json").write_text(json.dumps(report | change))
        refused = CliRunner().invoke(cli, [*command, "report.json", "--policy", policy_file])
        assert refused.exit_code == 4, refused.output
        assert "in plain text" in refused.output
        assert "ee" * 32 not in refused.output


def test_evidence_of_a_refused_replica_is_kept_for_whoever_wants_to_know(run, bad_replica, policy_file, tmp_path):
    assert run(bad_replica.target, "--policy", policy_file, "--save", "kept.json").exit_code == 4
    assert run("--saved", "kept.json", "--policy", policy_file).exit_code == 4
    assert "accepted" not in json.loads((tmp_path / "kept.json").read_text())


@pytest.mark.parametrize("field", ["nonce", "claims", "quote"])
def test_what_was_changed_is_refused(field, run, kept, policy_file):
    document = json.loads(kept.read_text())
    changed = bytearray.fromhex(document[field])
    changed[len(changed) // 2] ^= 1
    kept.write_text(json.dumps(document | {field: changed.hex()}))
    assert run("--saved", str(kept), "--policy", policy_file).exit_code == 4


def test_another_key_is_refused(run, kept, identities, policy_file):
    other = identities[1]
    certificate = other.certificate.public_bytes(Encoding.PEM).decode()
    document = json.loads(kept.read_text())
    kept.write_text(json.dumps(document | {"certificate": certificate}))
    assert isinstance(run("--saved", str(kept), "--policy", policy_file).exception, InputError)
    kept.write_text(json.dumps(document | {"certificate": certificate, "key_sha256": other.spki_digest.hex()}))
    assert run("--saved", str(kept), "--policy", policy_file).exit_code == 4


def test_old_collateral_counts_as_of_then_or_not_at_all(run, kept, policy_file):
    document = json.loads(kept.read_text())
    kept.write_text(json.dumps(document | {"at": "2020-01-01T00:00:00+00:00"}))
    assert run("--saved", str(kept), "--policy", policy_file).exit_code == 0
    # The collateral of today was not valid then.
    assert run("--saved", str(kept), "--policy", policy_file, "--then").exit_code == 4


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"quote": 1}', "x" * 100])
def test_what_is_no_kept_evidence_is_told(text, run, policy_file, tmp_path):
    (tmp_path / "kept.json").write_text(text)
    assert isinstance(run("--saved", "kept.json", "--policy", policy_file).exception, InputError)


def test_a_file_cannot_steer_the_terminal(run, kept, policy_file):
    document = json.loads(kept.read_text())
    kept.write_text(
        json.dumps(document | {"target": "\x1b[2Jok      Everything\nok      Else", "tls": {"version": "\x1b[2J"}})
    )
    result = run("--saved", str(kept), "--policy", policy_file)
    assert "\x1b" not in result.output
    assert not any(line.startswith("ok      E") and "Evidence" not in line for line in result.output.splitlines())


@pytest.mark.parametrize(
    "arguments", [("127.0.0.1:1", "--saved", "x"), ("127.0.0.1:1", "--then"), ("--saved", "missing")]
)
def test_options_that_do_not_go_together_are_told(arguments, run, policy_file):
    assert isinstance(run(*arguments, "--policy", policy_file).exception, InputError)


def test_no_input_is_in_it(kept):
    assert MARKER not in kept.read_bytes()
