"""``sealserve resnet-client``: the seed's flags, with evidence, and with the owner's certificates alone."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner
from client_parties import free_port
from PIL import Image

from sealserve.cli.resnet_client import resnet_client
from sealserve.errors import InputError, PolicyRefusedError, SealserveError, TrustError, UnavailableError
from sealserve.wire import tensorflow_pb2, tensorflow_serving_pb2
from sealserve.wire.tensors import to_numpy

SUMMARY = r"summary: cnum (\d+), batch (\d+), e2e time\(s\) [\d.]+, average latency\(ms\) [\d.]+, tps: [\d.]+"


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(resnet_client, arguments)


def shapes(replica):
    requests = map(tensorflow_serving_pb2.PredictRequest.FromString, replica.inputs)
    return {(name, to_numpy(t).shape, str(to_numpy(t).dtype)) for r in requests for name, t in r.inputs.items()}


def test_the_seeds_flags_measure_an_attested_replica(run, replica, policy_file):
    result = run("-batch", "2", "-cnum", "3", "-loop", "4", "-url", replica.target, "--policy", policy_file)
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if line.startswith("query: ")]
    assert len(lines) == 3 * 4
    pattern = r"query: attested channel, task \d+, batch 2, loop_idx \d+, latency\(ms\) [\d.]+, tps: [\d.]+"
    assert all(re.fullmatch(pattern, line) for line in lines)
    assert re.search(SUMMARY, result.output).groups() == ("3", "2")
    assert "SIMULATED - NO PROTECTION" in result.output
    # Five for warming up, on each connection; the model's own input, of the batch that was asked for.
    assert replica.predicted == 3 * (5 + 4)
    assert shapes(replica) == {("images", (2, 224, 224, 3), "uint8")}


def test_a_picture_is_sent_where_one_is_named(run, replica, policy_file, tmp_path):
    Image.new("RGB", (50, 40), "red").save(tmp_path / "red.png")
    result = run("-cnum", "1", "-loop", "1", "-img", "red.png", "-url", replica.target, "--policy", policy_file)
    assert result.exit_code == 0, result.output
    sent = to_numpy(tensorflow_serving_pb2.PredictRequest.FromString(replica.inputs[0]).inputs["images"])
    assert (sent[0, 100, 100] == (255, 0, 0)).all()


def test_a_model_with_another_input_gets_what_it_takes(run, start_good, policy_file):
    def metadata(request, context):
        spec = tensorflow_serving_pb2.SignatureDefMap()
        tensor = spec.signature_def["serving_default"].inputs["input"]
        tensor.dtype = tensorflow_pb2.DT_FLOAT
        for size in (-1, 3, 32, 32):
            tensor.tensor_shape.dim.add(size=size)
        response = tensorflow_serving_pb2.GetModelMetadataResponse()
        response.metadata["signature_def"].Pack(spec)
        return response

    replica = start_good(predict=lambda *_: tensorflow_serving_pb2.PredictResponse())
    replica.metadata = metadata
    result = run("-cnum", "1", "-loop", "1", "-url", replica.target, "--policy", policy_file)
    assert result.exit_code == 0, result.output
    assert shapes(replica) == {("input", (1, 3, 32, 32), "float32")}


def test_one_way_and_two_way_need_a_word_with_insecure_in_it(run, start_good, owner):
    one_way = start_good(credentials=owner.credentials())
    common = ("-cnum", "1", "-loop", "1", "--model", "classifier", "--server-name", owner.name)
    seeds = (*common, "-url", one_way.target, "-crt", str(owner.path("server.pem")))
    refused = run(*seeds)
    assert isinstance(refused.exception, InputError)
    assert "--insecure-without-evidence" in refused.exception.hint
    assert one_way.log == []
    result = run(*seeds, "--insecure-without-evidence")
    assert result.exit_code == 0, result.output
    assert "WITHOUT EVIDENCE" in result.output
    assert "query: unattested channel" in result.output
    assert "GetEvidence" not in one_way.log
    two_way = start_good(credentials=owner.credentials(two_way=True))
    files = ("-ca", "ca.pem", "-crt", "client.pem", "-key", "client.key")
    files = tuple(text if text[0] == "-" else str(owner.path(text)) for text in files)
    assert run(*common, "-url", two_way.target, *files, "--insecure-without-evidence").exit_code == 0
    assert two_way.predicted == 6


def test_certificates_of_the_wrong_authority_send_nothing(run, replica, owner):
    result = run(
        *("-url", replica.target, "-loop", "1", "-crt", str(owner.path("server.pem"))),
        *("--model", "classifier", "--insecure-without-evidence"),
    )
    assert isinstance(result.exception, TrustError)
    assert replica.log == []


def test_a_refused_replica_gets_no_picture(run, bad_replica, policy_file):
    result = run("-loop", "1", "-url", bad_replica.target, "--policy", policy_file)
    assert isinstance(result.exception, PolicyRefusedError)
    assert set(bad_replica.log) == {"GetEvidence"}


def test_nobody_there_is_one_error(run, policy_file):
    result = run("-loop", "1", "-url", f"127.0.0.1:{free_port()}", "--policy", policy_file)
    assert isinstance(result.exception, UnavailableError)


@pytest.mark.parametrize("arguments", [("-key", "x"), ("-img", "missing.png"), ()])
def test_what_is_missing_is_told(arguments, run, replica):
    result = run("-url", replica.target, "-loop", "1", *arguments)
    assert isinstance(result.exception, SealserveError)
    assert replica.log == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_endless_loop_ends_with_a_summary(number, replica, policy_file, tmp_path):
    command = (sys.executable, "-m", "sealserve", "resnet-client", "-loop", "0", "-cnum", "2", "-url", replica.target)
    process = subprocess.Popen(
        [*command, "--policy", policy_file],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        seen = []
        while not (seen and seen[-1].startswith("query: attested channel")):
            seen.append(process.stdout.readline())
            assert seen[-1], "it ended by itself"
        process.send_signal(number)
        rest, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0
    assert re.search(SUMMARY, rest)
    assert "loop_idx" not in rest
