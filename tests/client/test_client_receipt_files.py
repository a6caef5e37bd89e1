"""``sealserve predict --receipt`` and ``sealserve verify receipt``: proof to others, without a connection."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import socket
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from client_parties import DIGEST, GOOD, MARKER, SECRET_INPUT, Replica, write_policy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from receipt_parties import Signing, changing

from sealserve.cli.main import cli
from sealserve.client import Client
from sealserve.client.receipt_files import read_receipt_file
from sealserve.client.receipt_report import judge_receipt
from sealserve.errors import InputError, SealserveError
from sealserve.evidence import AppraisalPolicy, SimulatedAttester, create_simulated_platform
from sealserve.files import write_atomically
from sealserve.ratls import create_identity


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture
def signing(replica):
    return Signing(replica)


def give(signing, policy, path, *, messages=False):
    """A file with a receipt of this replica."""
    with Client(signing.replica.target, policy) as client:
        receipt = client.predict({"images": SECRET_INPUT}, model="classifier", receipt=True).receipt
    receipt.save(path, messages=messages)
    return receipt


@pytest.fixture
def receipt(signing, policy, tmp_path):
    return give(signing, policy, tmp_path / "receipt.json")


def code_of(result):
    """The exit code that the command ends with."""
    return getattr(result.exception, "exit_code", result.exit_code)


def check(run, *arguments):
    """The JSON report, its exit code, and outcomes by name."""
    result = run("verify", "receipt", *arguments, "--json")
    report = json.loads(result.output)
    assert report["accepted"] == (result.exit_code == 0)
    return report, result.exit_code, {one["name"]: one["outcome"] for one in report["checks"]}


def test_predict_keeps_a_receipt_which_is_checked_without_a_connection(run, signing, policy_file, tmp_path):
    np.save(tmp_path / "x.npy", SECRET_INPUT)
    target = signing.replica.target
    asked = run(
        *("predict", target, "--policy", policy_file, "--model", "classifier"),
        *("--npy", f"images={tmp_path}/x.npy", "--receipt", "receipt.json"),
    )
    assert asked.exit_code == 0, asked.output
    assert "kept in receipt.json" in asked.output
    signing.replica.stop().wait()
    shown = run("verify", "receipt", "receipt.json", "--policy", policy_file)
    assert shown.exit_code == 0, shown.output
    assert "ACCEPTED  classifier version 3 answered, on replica-1" in shown.output
    assert DIGEST.hex() in shown.output
    assert "SIMULATED" in shown.output
    assert "judged as of 20" in shown.output
    report, code, outcomes = check(run, "receipt.json", "--policy", policy_file)
    assert code == 0
    assert report["statement"]["digest"] == DIGEST.hex()
    assert report["replica"] == "replica-1"
    assert len(report["policy_sha256"]) == 64
    held = ("receipt", "quote", "binding", "measurement", "receipt-key", "tls-key", "models")
    assert {outcomes[name] for name in held} == {"ok"}
    # What nobody can know here is not called a check that held.
    assert {outcomes[name] for name in ("request", "answer", "nonce")} == {"skipped"}


def test_the_input_is_in_the_file_only_if_that_was_asked_for(run, signing, policy, policy_file, tmp_path):
    np.save(tmp_path / "x.npy", SECRET_INPUT)
    asked = ("predict", signing.replica.target, "--policy", policy_file, "--model", "classifier")
    asked += ("--npy", f"images={tmp_path}/x.npy", "--receipt", "receipt.json")
    assert run(*asked).exit_code == 0
    text = (tmp_path / "receipt.json").read_text()
    assert base64.b64encode(MARKER)[:20].decode() not in text
    assert not {"request", "answer"} & json.loads(text).keys()
    assert run(*asked, "--receipt-with-messages").exit_code == 0
    document = json.loads((tmp_path / "receipt.json").read_text())
    assert MARKER in base64.b64decode(document["request"])
    _, code, outcomes = check(run, "receipt.json", "--policy", policy_file)
    assert (code, outcomes["request"], outcomes["answer"]) == (0, "ok", "ok")


def test_messages_that_are_named_are_compared(run, receipt, policy_file, tmp_path):
    (tmp_path / "request").write_bytes(b"".join(receipt.request))
    (tmp_path / "answer").write_bytes(receipt.answer)
    named = ("receipt.json", "--policy", policy_file)
    _, code, outcomes = check(run, *named, "--request", "request", "--answer", "answer")
    assert (code, outcomes["request"], outcomes["answer"]) == (0, "ok", "ok")
    for option, wrong in (("--request", "answer"), ("--answer", "request")):
        report, code, outcomes = check(run, *named, option, wrong)
        assert (code, outcomes[option[2:]]) == (4, "failed")
        assert "another" in report["refusal"]["error"]
    shown = run("verify", "receipt", *named, "--request", "answer")
    assert shown.exit_code == 4
    assert "REFUSED" in shown.output


@pytest.mark.parametrize("name", ["request", "answer"])
def test_messages_in_the_file_that_are_others_are_refused(run, signing, policy_file, tmp_path, name):
    give(signing, AppraisalPolicy.load(Path(policy_file)), tmp_path / "receipt.json", messages=True)
    document = json.loads((tmp_path / "receipt.json").read_text())
    document[name] = base64.b64encode(base64.b64decode(document[name]) + b"\0").decode()
    (tmp_path / "receipt.json").write_text(json.dumps(document))
    _, code, outcomes = check(run, "receipt.json", "--policy", policy_file)
    assert (code, outcomes[name]) == (4, "failed")


def test_the_policy_of_whoever_checks_decides(run, receipt, platform, tmp_path):
    write_policy(tmp_path / "listed.yaml", platform, f"models: ['{DIGEST.hex()}']\n")
    write_policy(tmp_path / "other.yaml", platform, f"models: ['{bytes(32).hex()}']\n")
    text = (tmp_path / "listed.yaml").read_text()
    (tmp_path / "stranger.yaml").write_text(text.replace(GOOD.mrenclave.hex(), "ab" * 32))
    assert check(run, "receipt.json", "--policy", "listed.yaml")[1] == 0
    _, code, outcomes = check(run, "receipt.json", "--policy", "other.yaml")
    assert (code, outcomes["models"]) == (4, "failed")
    _, code, outcomes = check(run, "receipt.json", "--policy", "stranger.yaml")
    assert (code, outcomes["measurement"], outcomes["receipt-key"]) == (4, "failed", "skipped")


def test_a_policy_is_needed(run, receipt):
    assert code_of(run("verify", "receipt", "receipt.json")) == 3


def test_another_root_is_refused_whatever_collateral_is_kept(run, receipt, tmp_path):
    create_simulated_platform(tmp_path / "other")
    write_policy(tmp_path / "other.yaml", tmp_path / "other")
    _, code, outcomes = check(run, "receipt.json", "--policy", "other.yaml")
    assert (code, outcomes["root"]) == (4, "failed")
    # Nor does it help to put that platform's collateral beside it.
    change(tmp_path, collateral=json.loads((tmp_path / "other" / "collateral.json").read_text()))
    assert check(run, "receipt.json", "--policy", "other.yaml")[1] == 4


def test_evidence_is_judged_at_the_receipts_time_or_as_of_another(run, receipt, policy_file):
    named = ("receipt.json", "--policy", policy_file)
    report = check(run, *named)[0]
    judged = datetime.fromisoformat(report["judged_at"])
    assert judged == receipt.at.replace(microsecond=0)
    for moment in ("2001-01-01", "2126-01-01T00:00:00"):
        report, code, outcomes = check(run, *named, "--at", moment)
        assert (code, outcomes["collateral"]) == (4, "failed")
        assert report["judged_at"].startswith(moment[:4])
    assert check(run, *named, "--at", datetime.now(UTC).isoformat())[1] == 0
    assert run("verify", "receipt", *named, "--at", "yesterday").exit_code != 0


@pytest.mark.parametrize("time", [0, 4_000_000_000_000, (1 << 43) - 1])
def test_a_receipt_of_a_time_for_which_there_is_no_collateral_is_refused(run, signing, receipt, policy_file, time):
    signing.change = changing(time=time)
    change_receipt(signing, receipt)
    assert check(run, "receipt.json", "--policy", policy_file)[1] == 4


def change_receipt(signing, receipt):
    """Replace the receipt in the file by one that the same key signed."""
    from sealserve.ratls import receipts

    signed = receipts.sign(signing.change(receipt.statement), signing.key._key, signing.key._key_id)
    change(Path(), receipt=signed.hex())


def change(directory, **fields):
    path = directory / "receipt.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_receipt_over_another_replicas_tls_key_is_refused(run, signing, receipt, policy_file):
    signing.change = changing(tls_key=bytes(32))
    change_receipt(signing, receipt)
    _, code, outcomes = check(run, "receipt.json", "--policy", policy_file)
    assert (code, outcomes["receipt-key"], outcomes["tls-key"]) == (4, "ok", "failed")


def test_evidence_of_another_replica_is_refused(run, receipt, second_replica, policy_file, tmp_path):
    policy = AppraisalPolicy.load(Path(policy_file))
    other = give(Signing(second_replica), policy, tmp_path / "other.json").as_dict()
    change(tmp_path, evidence=other["evidence"])
    _, code, outcomes = check(run, "receipt.json", "--policy", policy_file)
    assert (code, outcomes["binding"], outcomes["receipt-key"]) == (4, "ok", "failed")
    # Its claims beside the right quote: the quote is bound to the right ones.
    change(tmp_path, evidence=receipt.as_dict()["evidence"] | {"claims": other["evidence"]["claims"]})
    _, code, outcomes = check(run, "receipt.json", "--policy", policy_file)
    assert (code, outcomes["binding"], outcomes["receipt-key"]) == (4, "failed", "skipped")


def test_evidence_that_names_no_receipt_key_is_refused(run, signing, receipt, policy_file, tmp_path):
    signing.name_key(b"")
    with Client(signing.replica.target, AppraisalPolicy.load(Path(policy_file))) as client:
        replica = client.verify()
    replace(receipt, replica=replica).save(tmp_path / "receipt.json")
    report, code, outcomes = check(run, "receipt.json", "--policy", policy_file)
    assert (code, outcomes["receipt-key"]) == (4, "failed")
    assert "names no key" in report["refusal"]["error"]


def test_a_debug_enclave_proves_nothing(run, platform, policy_file, receipt, tmp_path):
    attester = SimulatedAttester(platform, replace(GOOD, debug=True))
    identity = create_identity(attester)
    with Replica(identity, attester) as replica:
        signing = Signing(replica)
        evidence = replica.honest_evidence(bytes(32))
    kept = read_receipt_file(tmp_path / "receipt.json")
    presented = replace(
        kept.presented,
        quote=evidence.quote,
        claims=evidence.claims,
        nonce=bytes(32),
        certificate=identity.certificate,
        spki_digest=identity.spki_digest,
    )
    from sealserve.client.kept import presented_as_dict

    change(tmp_path, evidence=presented_as_dict(presented))
    signing.change = changing(tls_key=identity.spki_digest)
    change_receipt(signing, receipt)
    _, code, outcomes = check(run, "receipt.json", "--policy", policy_file)
    assert (code, outcomes["debug"]) == (4, "failed")


def test_kept_collateral_that_is_malformed_is_refused(run, receipt, policy_file, tmp_path):
    document = receipt.as_dict()
    for name in document["collateral"]:
        change(tmp_path, collateral={key: value for key, value in document["collateral"].items() if key != name})
        _, code, outcomes = check(run, "receipt.json", "--policy", policy_file)
        assert code == (0 if name == "pck_certificate_chain" else 4), name
        if code:
            assert "failed" in outcomes.values()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        '{"format": "sealserve-receipt/2"}',
        '{"format": "sealserve-receipt/1", "receipt": "zz"}',
        "[" * 100_000,
        "\ud800".encode("utf-16", "surrogatepass").decode("latin-1"),
    ],
)
def test_another_file_is_no_receipt(run, policy_file, tmp_path, text):
    (tmp_path / "receipt.json").write_bytes(text.encode("latin-1"))
    result = run("verify", "receipt", "receipt.json", "--policy", policy_file)
    assert code_of(result) == 3, result.output
    assert "receipt" in str(result.exception or result.output)


@pytest.mark.parametrize("name", ["receipt", "evidence", "collateral"])
@pytest.mark.parametrize("value", [None, 7, "", "00", [], {}, {"a": {}}], ids=str)
def test_other_types_in_the_place_of_a_part_are_refused(run, receipt, policy_file, name, value):
    change(Path(), **{name: value})
    assert code_of(run("verify", "receipt", "receipt.json", "--policy", policy_file)) in {3, 4}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_flipped_bit_in_receipt_quote_claims_nonce_or_certificate_is_refused(receipt, policy, tmp_path, data):
    document = copy.deepcopy(receipt.as_dict())
    name = data.draw(st.sampled_from(["receipt", "quote", "claims", "nonce", "key_sha256"]))
    holder = document if name == "receipt" else document["evidence"]
    flipped = bytearray.fromhex(holder[name])
    # The signature over the quote ends where its certificates begin, and what follows those is padding.
    last = len(flipped) - 1 if name != "quote" else 1000
    flipped[data.draw(st.integers(0, last))] ^= 1 << data.draw(st.integers(0, 7))
    holder[name] = flipped.hex()
    path = tmp_path / "flipped.json"
    write_atomically(path, json.dumps(document))
    try:
        report = judge_receipt(read_receipt_file(path), policy)
    except InputError:
        return
    assert not report.accepted
    assert isinstance(report.error, SealserveError)


def test_judging_a_receipt_leaves_the_policy_as_it_was(receipt, policy: AppraisalPolicy, tmp_path):
    source = policy._verifier.collateral
    assert judge_receipt(read_receipt_file(tmp_path / "receipt.json"), policy).accepted
    assert policy._verifier.collateral is source


def test_several_pictures_and_one_receipt_are_refused(run, tmp_path, policy_file):
    from PIL import Image

    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    result = run(
        *("predict", "127.0.0.1:1", "--policy", policy_file, "--receipt", "r.json"),
        *("--image", "a.png", "--image", "b.png"),
    )
    assert code_of(result) == 3
    target = ("127.0.0.1:1", "--policy", policy_file)
    assert code_of(run("predict", *target, "--receipt-with-messages")) == 3


def test_a_receipt_over_rest_is_refused_before_anybody_is_asked(run, tmp_path, policy_file):
    (tmp_path / "x.json").write_text('{"x": [[1, 2]]}')
    result = run(
        *("predict", "https://127.0.0.1:1", "--policy", policy_file),
        *("--input-json", f"{tmp_path}/x.json", "--receipt", "r.json"),
    )
    assert code_of(result) == 3
    assert "no receipts over REST" in str(result.exception)


def test_verify_receipt_has_help_of_its_own_and_verify_goes_on_to_take_a_target(run, replica, policy_file):
    assert "receipt FILE" in run("verify", "--help").output
    assert "--answer" in run("verify", "receipt", "--help").output
    assert run("verify", replica.target, "--policy", policy_file).exit_code == 0


def test_the_digest_in_the_file_is_of_the_message_that_was_sent(receipt, replica, tmp_path):
    kept = read_receipt_file(tmp_path / "receipt.json")
    from sealserve.ratls.receipts import read

    assert read(kept.receipt).statement.request == hashlib.sha256(replica.inputs[-1]).digest()


def test_a_models_name_adds_no_line_to_the_report(run, replica, policy, policy_file, tmp_path):
    honest = replica.predict

    def named(request, context):
        response = honest(request, context)
        response.model_spec.name = "x\nACCEPTED  classifier"
        return response

    replica.predict = named
    give(Signing(replica), policy, tmp_path / "receipt.json")
    output = run("verify", "receipt", "receipt.json", "--policy", policy_file).output
    assert len([line for line in output.splitlines() if line.startswith("ACCEPTED")]) == 1
    assert "ACCEPTED  x ACCEPTED  classifier version" not in output
    assert "ACCEPTED  x ACCEPTED classifier version 3 answered" in output


def test_judging_a_receipt_asks_no_collateral_service(run, receipt, platform, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as service:
        service.settimeout(0.2)
        settings = {"service": f"http://127.0.0.1:{service.getsockname()[1]}/", "insecure_allow_http": True}
        write_policy(tmp_path / "policy.yaml", platform)
        document = yaml.safe_load((tmp_path / "policy.yaml").read_text()) | {"collateral": settings}
        (tmp_path / "policy.yaml").write_text(yaml.safe_dump(document))
        assert run("verify", "receipt", "receipt.json", "--policy", "policy.yaml").exit_code == 0
        with pytest.raises(TimeoutError):
            service.accept()
