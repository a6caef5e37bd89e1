"""A replica process answers every protocol, and all of them end in the TLS key that its evidence binds."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography import x509
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from replica_parties import Place, Process

from sealserve.client import attest
from sealserve.client.receipt_files import read_receipt_file
from sealserve.client.receipt_report import judge_receipt
from sealserve.ratls import spki_digest
from sealserve.serving.rest.server import METRICS_PATH
from sealserve.wire.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from sealserve.wire.tensorflow_serving_pb2 import GetModelStatusRequest, GetModelStatusResponse

NAME = "replica.sealserve.internal"
MODEL_SERVICE = "/tensorflow.serving.ModelService"
INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass
class Running:
    place: Place
    process: Process
    grpc: int
    rest: int
    metrics: int

    def channel(self) -> grpc.Channel:
        """Plain gRPC that knows the server by the certificate it was seen to have."""
        roots = ssl.get_server_certificate(("127.0.0.1", self.grpc)).encode()
        options = [("grpc.ssl_target_name_override", NAME)]
        return grpc.secure_channel(f"127.0.0.1:{self.grpc}", grpc.ssl_channel_credentials(roots), options)

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any, bytes]:
        """Status, JSON (None for other text), and SHA-256 of the key of the TLS session that both came through."""
        status, text, is_json, key = self._exchange(self.rest, method, path, body)
        return status, json.loads(text) if is_json else None, key

    def told(self, path: str = METRICS_PATH, *, port: int | None = None) -> tuple[int, str]:
        """Status and text, of the port for metrics if no other is named."""
        status, text, *_ = self._exchange(port or self.metrics, "GET", path, None)
        return status, text.decode()

    @staticmethod
    def _exchange(port: int, method: str, path: str, body: Any) -> tuple[int, bytes, bool, bytes]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
            stream = context.wrap_socket(raw, server_hostname=NAME)
            key = spki_digest(x509.load_der_x509_certificate(stream.getpeercert(binary_form=True) or b""))
            connection = http.client.HTTPConnection("127.0.0.1")
            connection.sock = stream
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            is_json = answer.headers.get_content_type() == "application/json"
            text = answer.read()
            connection.close()
        return answer.status, text, is_json, key


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    place = Place(tmp_path_factory.mktemp("doors") / "place")
    doors = ("--rest-listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0")
    with place.broker(), place.replica(*doors) as process:
        ready = process.until("replica-ready")
        yield Running(place, process, ready["port"], ready["rest_port"], process.until("metrics-listening")["port"])
        assert process.stop() == 0


def test_rest_answers_with_the_key_that_the_evidence_binds(running: Running) -> None:
    verified = attest(f"127.0.0.1:{running.grpc}", running.place.client_policy())
    status, answer, key = running.ask("POST", "/v1/models/m:predict", {"instances": [1, 2.5]})
    assert (status, answer) == (200, {"predictions": [2.0, 5.0]})
    assert key == verified.spki_digest
    assert not verified.claims.shared_tls_key


def test_a_replica_gives_receipts_that_are_proof_without_it(running: Running, tmp_path: Path) -> None:
    with running.place.client(running.process) as client:
        answer = client.predict({"x": np.array([1, 2.5], np.float32)}, model="m", receipt=True)
        infer = ModelInferRequest(model_name="m")
        infer.inputs.add(name="x", datatype="FP32", shape=[1]).contents.fp32_contents.append(3)
        reply = client.call(INFER, infer.SerializeToString(), receipt=True)
    assert answer.receipt is not None
    assert reply.receipt is not None
    assert answer.outputs["y"].tolist() == [2.0, 5.0]
    assert {answer.receipt.statement.digest, reply.receipt.statement.digest} == {running.place.first}
    for number, receipt in enumerate((answer.receipt, reply.receipt)):
        path = tmp_path / f"{number}.json"
        receipt.save(path, messages=True)
        report = judge_receipt(read_receipt_file(path), running.place.client_policy())
        assert report.accepted, report.error


def test_rest_tells_status_and_readiness(running: Running) -> None:
    status, answer, _ = running.ask("GET", "/v1/models/m")
    assert status == 200
    (version,) = answer["model_version_status"]
    assert (version["version"], version["state"]) == ("1", "AVAILABLE")
    assert running.ask("GET", "/readyz")[0] == 200
    assert running.ask("GET", "/v1/models/other")[0] == 404


def test_rest_without_tls_is_not_answered(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.rest), timeout=20) as plain:
        plain.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP/" not in plain.recv(100)


def test_metrics_count_requests_and_attestations_at_a_port_of_their_own(running: Running) -> None:
    def count(name: str) -> float:
        status, text = running.told()
        assert status == 200
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))

    answered = ':tensorflow:serving:request_count{model_name="m",status="OK"}'
    evidence = "sealserve_replica_attestation_seconds_count"
    before = count(answered), count(evidence)
    assert running.ask("POST", "/v1/models/m:predict", {"instances": [1]})[0] == 200
    attest(f"127.0.0.1:{running.grpc}", running.place.client_policy())
    assert (count(answered), count(evidence)) == (before[0] + 1, before[1] + 1)
    text = running.told()[1]
    for line in (
        'sealserve_replica_state{state="serving"} 1.0',
        'sealserve_replica_state{state="waiting"} 0.0',
        'sealserve_replica_tee{tee="simulated"} 1.0',
        'sealserve_replica_requests_in_flight{API="GRPC"} 0.0',
        'sealserve_replica_requests_limit{API="GRPC"} 64.0',
        'sealserve_model_state{model_name="m",version="1"} 30.0',
    ):
        assert line in text.splitlines()
    assert count('sealserve_replica_grants_total{outcome="granted"}') >= 1
    assert "certificate_expiry" not in text  # its own does not end


def test_nothing_else_is_behind_that_port_and_metrics_are_behind_no_other(running: Running) -> None:
    assert [running.told(path)[0] for path in ("/", "/readyz", "/v1/models/m")] == [404] * 3
    assert running.told(METRICS_PATH, port=running.rest)[0] == 404
    with socket.create_connection(("127.0.0.1", running.metrics), timeout=20) as plain:
        plain.sendall(f"GET {METRICS_PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b"HTTP/" not in plain.recv(100)


def test_metrics_have_no_name_that_a_caller_chose(running: Running) -> None:
    for name in ("chosen-1", "m:chosen"):
        assert running.ask("POST", f"/v1/models/{name}:predict", {"instances": [1]})[0] in {400, 404}
    infer = ModelInferRequest(model_name="chosen-2", id="chosen")
    with running.channel() as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary(INFER)(infer.SerializeToString(), timeout=20, metadata=[("chosen", "chosen")])
    text = running.told()[1]
    assert "chosen" not in text
    assert running.place.first.hex() not in text
    assert ':tensorflow:serving:request_count{model_name="",status="NOT_FOUND"}' in text


def test_the_model_service_tells_status_and_takes_no_configuration_from_callers(running: Running) -> None:
    request = GetModelStatusRequest()
    request.model_spec.name = "m"
    with running.channel() as channel:
        reply = channel.unary_unary(f"{MODEL_SERVICE}/GetModelStatus")(request.SerializeToString(), timeout=20)
        (version,) = GetModelStatusResponse.FromString(reply).model_version_status
        assert (version.version, version.status.error_code) == (1, 0)
        with pytest.raises(grpc.RpcError):
            channel.unary_unary(f"{MODEL_SERVICE}/HandleReloadConfigRequest")(b"", timeout=20)
        reply = channel.unary_unary(f"{MODEL_SERVICE}/GetModelStatus")(request.SerializeToString(), timeout=20)
        assert len(GetModelStatusResponse.FromString(reply).model_version_status) == 1


def test_reflection_lists_every_service(running: Running) -> None:
    with running.channel() as channel:
        listed = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert {
        "tensorflow.serving.PredictionService",
        "tensorflow.serving.ModelService",
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
    } <= listed
    assert any("Attestation" in name for name in listed)


def test_the_open_inference_protocol_infers(running: Running) -> None:
    request = ModelInferRequest(model_name="m", id="7")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[2])
    tensor.contents.fp32_contents.extend([1, 2.5])
    with running.channel() as channel:
        reply = ModelInferResponse.FromString(channel.unary_unary(INFER)(request.SerializeToString(), timeout=20))
    (output,) = reply.outputs
    assert (reply.id, output.name, list(output.shape)) == ("7", "y", [2])
    values = output.contents.fp32_contents or np.frombuffer(reply.raw_output_contents[0], np.float32)
    assert list(values) == [2, 5]


def test_without_the_option_there_is_no_rest(tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    with place.broker(), place.replica() as process:
        assert process.until("replica-ready")["rest_port"] is None
        assert process.stop() == 0
