"""``sealserve verify`` and ``sealserve predict`` as a user meets them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner, Result
from client_parties import BAD, GOOD, Scripted, free_port
from PIL import Image

from sealserve.cli.client import predict
from sealserve.cli.client_options import endpoint
from sealserve.cli.client_verify import verify
from sealserve.client import OwnerCertificates
from sealserve.errors import InputError, PolicyRefusedError, SealserveError, UnavailableError

both_protocols = pytest.mark.parametrize("protocol", ["grpc", "rest"])


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run_command(command, *arguments: str, columns: int = 80) -> Result:
        monkeypatch.setenv("COLUMNS", str(columns))
        return CliRunner().invoke(command, arguments)

    return run_command


@both_protocols
@pytest.mark.parametrize("columns", [60, 120])
def test_the_report_shows_every_check_and_fits_the_terminal(columns, run, replica, policy_file):
    result = run(verify, replica.target, "--policy", policy_file, columns=columns)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= columns
    assert sum(line.startswith("ok ") for line in lines) >= 10
    for word in ("TLSv1.3", "UpToDate", "no advisories", "until 20", "classifier version 3", "ACCEPTED  replica-1"):
        assert word in result.output
    assert GOOD.mrenclave.hex() in "".join(line.strip() for line in lines)
    assert "SIMULATED - NO PROTECTION" in lines
    assert replica.log == ["GetEvidence"]


@both_protocols
def test_the_report_names_what_failed(run, bad_replica, policy_file):
    result = run(verify, bad_replica.target, "--policy", policy_file, columns=160)
    assert result.exit_code == 4
    failed = [line for line in result.output.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 1
    assert "Measurement" in failed[0]
    assert BAD.mrenclave.hex() in failed[0]
    assert "REFUSED" in result.output
    # What a replica claims of itself is not shown unless its evidence was accepted.
    assert "classifier" not in result.output


@both_protocols
def test_a_relay_fails_at_the_binding(run, replica, second_replica, policy_file):
    relay = second_replica
    relay.evidence = replica.honest_evidence
    result = run(verify, relay.target, "--policy", policy_file, "--json")
    assert result.exit_code == 4
    report = json.loads(result.output)
    assert [c["name"] for c in report["checks"] if c["outcome"] == "failed"] == ["binding"]
    assert "replica" not in report


@both_protocols
def test_the_report_for_scripts_has_everything_to_check_again(run, replica, policy, policy_file):
    from sealserve.ratls import client_report_data

    result = run(verify, replica.target, "--policy", policy_file, "--json")
    report = json.loads(result.output)
    assert report["accepted"] is True
    assert report["evidence"]["simulated"] is True
    assert report["models"][0]["name"] == "classifier"
    assert {check["outcome"] for check in report["checks"]} == {"ok"}
    nonce, key, claims, quote = (bytes.fromhex(report[k]) for k in ("nonce", "key_sha256", "claims", "quote"))
    policy.appraise(quote, report_data=client_report_data(nonce, key, claims))


def test_what_gives_no_evidence_is_reported(run, identities, policy_file):
    with Scripted(identities[0], b"HTTP/1.1 200 OK\r\n\r\n") as server:
        result = run(verify, server.target, "--policy", policy_file)
    assert result.exit_code == 4
    assert "FAILED  Evidence given" in result.output


def test_an_address_where_nobody_listens_is_an_error(run, policy_file):
    result = run(verify, f"127.0.0.1:{free_port()}", "--policy", policy_file)
    assert isinstance(result.exception, UnavailableError)


@both_protocols
def test_a_picture_is_classified_and_the_replica_named(run, replica, policy_file, tmp_path):
    Image.new("RGB", (50, 40), "red").save(tmp_path / "red.png")
    result = run(predict, replica.target, "--policy", policy_file, "--image", "red.png", "--top", "2")
    assert result.exit_code == 0, result.output
    assert "red.png  answered by replica-1, model version 3" in result.output
    # The model's classes are ten: the thousand names of ImageNet would be wrong for them.
    assert [line.split()[-2:] for line in result.output.splitlines()[-2:]] == [["class", "9"], ["class", "8"]]
    assert "SIMULATED - NO PROTECTION" in result.output


@both_protocols
def test_labels_of_a_file_name_the_classes(run, replica, policy_file, tmp_path):
    Image.new("RGB", (50, 40), "red").save(tmp_path / "red.png")
    (tmp_path / "labels.txt").write_text("\n".join(f"thing {n}" for n in range(10)))
    result = run(
        *(predict, replica.target, "--policy", policy_file, "--image", "red.png", "--image", "red.png"),
        *("--labels", "labels.txt", "--json"),
    )
    out = json.loads(result.output)
    assert [p["input"] for p in out["predictions"]] == ["red.png"] * 2
    assert [b["label"] for b in out["predictions"][0]["best"]] == [f"thing {n}" for n in (9, 8, 7, 6, 5)]
    assert out["verified"]["evidence"]["mrenclave"] == GOOD.mrenclave.hex()
    assert replica.asked == 1


@both_protocols
def test_arrays_are_sent_and_outputs_printed(run, replica, policy_file, tmp_path):
    np.save(tmp_path / "x.npy", np.ones((1, 4), dtype=np.uint8))
    common = (replica.target, "--policy", policy_file)
    shown = run(predict, *common, "--npy", "images=x.npy")
    assert "scores  float32 1x10" in shown.output
    (tmp_path / "x.json").write_text('{"images": [[1, 1, 1, 1]]}')
    kept = json.loads(run(predict, *common, "--input-json", "x.json", "--json").output)
    assert kept["predictions"][0]["outputs"]["scores"] == [[4.0 + n for n in range(10)]]


@both_protocols
def test_a_refused_replica_gets_nothing_from_the_command(run, bad_replica, policy_file, tmp_path):
    Image.new("RGB", (50, 40), "red").save(tmp_path / "red.png")
    result = run(predict, bad_replica.target, "--policy", policy_file, "--image", "red.png")
    assert isinstance(result.exception, PolicyRefusedError)
    assert bad_replica.log == ["GetEvidence"]


@both_protocols
@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--image", "missing.png"),
        ("--image", "text.png"),
        ("--npy", "x"),
        ("--npy", "x=missing.npy"),
        ("--image", "text.png", "--npy", "x=y"),
        ("--image", "text.png", "--labels", "missing.txt"),
    ],
)
def test_bad_input_is_told_and_nobody_is_sent_anything(arguments, run, replica, policy_file, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    result = run(predict, replica.target, "--policy", policy_file, *arguments)
    assert isinstance(result.exception, SealserveError)
    assert result.exception.exit_code == 3
    assert replica.log == []


def test_whom_to_call_must_be_known(run, tmp_path):
    result = run(predict, "--npy", "x=y")
    assert isinstance(result.exception, InputError)
    for arguments in (("127.0.0.1:1",), ()):
        result = run(verify, *arguments)
        assert isinstance(result.exception, InputError)
        assert "--policy" in result.exception.message


def test_a_deployment_file_fills_in_what_is_not_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deployment.yaml").write_text(
        "name: shop\nmodel: {name: classifier, path: model}\ntls: {server_name: shop.example}\n"
        "gateway: {listen: '0.0.0.0:8511'}\n"
    )
    found = endpoint(None, None, None, None, None)
    assert (found.target, found.server_name, found.model) == ("127.0.0.1:8511", "shop.example", "classifier")
    assert found.policy == tmp_path / ".sealserve" / "client" / "policy.yaml"
    found = endpoint(None, "127.0.0.1:1", None, "other.example", "other")
    assert (found.target, found.server_name, found.model) == ("127.0.0.1:1", "other.example", "other")


def test_certificates_come_from_the_deployment_and_options_go_before_them(tmp_path):
    file, client = tmp_path / "deployment.yaml", tmp_path / ".sealserve" / "client"
    roots, shown = client / "server-ca.pem", (client / "client.pem", client / "client-key.pem")
    text = "name: mine\nmodel: {name: m, path: model}\ntls: {mode: MODE}\n"

    def found(mode, given=None):
        file.write_text(text.replace("MODE", mode))
        return endpoint(file, None, None, None, None, certificates=given).certificates

    assert found("attested") is None
    assert found("one-way") == OwnerCertificates(roots)
    assert found("two-way") == OwnerCertificates(roots, *shown)
    other, own = tmp_path / "other.pem", (tmp_path / "own.pem", tmp_path / "own.key")
    assert found("two-way", OwnerCertificates(other)) == OwnerCertificates(other, *shown)
    assert found("two-way", OwnerCertificates(None, *own)) == OwnerCertificates(roots, *own)
    assert found("attested", OwnerCertificates(other)) == OwnerCertificates(other)


@pytest.mark.parametrize("given", [["--crt", "a"], ["--key", "a"], ["--ca", "a", "--crt", "a"]])
@pytest.mark.parametrize("command", [verify, predict])
def test_a_certificate_without_its_key_is_refused(command, given, run):
    error = run(command, *given).exception
    assert isinstance(error, InputError)
    assert "belong together" in error.message


def test_verify_shows_a_certificate_that_is_not_the_owners(run, replica, owner, policy_file):
    flags = ["--policy", policy_file, "--ca", str(owner.path("ca.pem"))]
    result = run(verify, replica.target, *flags, columns=160)
    assert result.exit_code == 4
    assert "FAILED  Owner's certificate" in result.output
    assert replica.log == []
