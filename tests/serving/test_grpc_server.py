"""The server over TLS: status codes and messages, limits, health, services of others, and stopping."""

from __future__ import annotations

import socket
import threading
import time

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from hypothesis import given
from hypothesis import strategies as st
from serving_models import load

from sealserve.errors import InputError, MachineError, SealserveError
from sealserve.models.saved_model import Signature, TensorSpec
from sealserve.secret import Secret
from sealserve.serving.core import ModelServer
from sealserve.serving.errors import RequestError
from sealserve.serving.grpc_server import create_server
from sealserve.serving.limits import Limits
from sealserve.serving.methods import Service, unary_method
from sealserve.serving.prediction_service import PredictionService
from sealserve.wire import tensorflow_serving_pb2 as serving_pb2
from sealserve.wire.attestation_pb2 import EvidenceRequest, EvidenceResponse
from sealserve.wire.tensorflow_pb2 import DataType, TensorProto, TensorShapeProto
from sealserve.wire.tensors import from_numpy, to_numpy


@pytest.fixture(scope="module")
def core(engine, half_plus_two, half_plus_three):
    core = ModelServer()
    core.add_model("half", 1, load(engine, half_plus_two))
    core.add_model("half", 2, load(engine, half_plus_three))
    return core


def request(array=(1.0,), *, name="half", version=None, label=None, signature="", output_filter=(), **extra):
    message = serving_pb2.PredictRequest(output_filter=output_filter)
    message.model_spec.name = name
    message.model_spec.signature_name = signature
    if version is not None:
        message.model_spec.version.value = version
    if label is not None:
        message.model_spec.version_label = label
    for alias, value in {"x": np.array(array, np.float32), **extra}.items():
        message.inputs[alias].CopyFrom(value if isinstance(value, TensorProto) else from_numpy(value))
    return message


def refused(call, *arguments, **settings):
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **settings)
    return caught.value.code().name, caught.value.details()


def test_the_highest_version_answers_and_says_so(core, serve):
    answer = serve(core).predict(request([1, 2]))
    assert to_numpy(answer.outputs["y"]).tolist() == [3.5, 4.0]
    assert answer.model_spec.version.value == 2
    assert answer.model_spec.name == "half"
    assert answer.model_spec.signature_name == "serving_default"


def test_a_version_is_chosen_by_its_number(core, serve):
    answer = serve(core).predict(request([1], version=1))
    assert to_numpy(answer.outputs["y"]).tolist() == [2.5]
    assert answer.model_spec.version.value == 1


def test_answers_have_typed_values_as_tensorflow_servings_do(core, serve):
    answer = serve(core).predict(request([1, 2]))
    assert list(answer.outputs["y"].float_val) == [3.5, 4.0]
    assert answer.outputs["y"].tensor_content == b""


SHAPE = TensorShapeProto(dim=[TensorShapeProto.Dim(size=-1)])
HUGE = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1 << 40)])


@pytest.mark.parametrize(
    ("message", "code", "says"),
    [
        (serving_pb2.PredictRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (request(name=""), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        (request(name="x"), "NOT_FOUND", "Servable not found for request: Latest(x)"),
        (request(version=9), "NOT_FOUND", "Servable not found for request: Specific(half, 9)"),
        (request(label="a"), "INVALID_ARGUMENT", "Unrecognized servable version label: a"),
        (request(signature="a"), "FAILED_PRECONDITION", 'Serving signature key "a" not found.'),
        (request(z=np.zeros(1)), "INVALID_ARGUMENT", "Sent extra: {z}. Missing but required: {}."),
        (request(x=np.zeros(1)), "INVALID_ARGUMENT", "Expects arg[0] to be float but double is provided"),
        (request([[1]]), "INVALID_ARGUMENT", "Incompatible shape for input x"),
        (request(output_filter=["z"]), "INVALID_ARGUMENT", "output tensor alias not found in signature: z"),
        (request(output_filter=["y", "y"]), "INVALID_ARGUMENT", "duplicate output tensor alias: y"),
        (
            request(x=TensorProto(dtype=DataType.DT_FLOAT, tensor_shape=SHAPE)),
            "INVALID_ARGUMENT",
            "tensor parsing error: x",
        ),
        (
            request(x=TensorProto(dtype=DataType.DT_FLOAT, tensor_shape=HUGE, float_val=[1])),
            "INVALID_ARGUMENT",
            "tensor parsing error: x",
        ),
        (b"\xff\xff", "INVALID_ARGUMENT", "the request is no tensorflow.serving.PredictRequest"),
    ],
)
def test_what_cannot_be_answered_is_explained_as_tensorflow_serving_does(core, serve, message, code, says):
    got = refused(serve(core).predict, message)
    assert got[0] == code
    assert says in got[1]


def test_metadata_lists_the_signatures(core, serve):
    message = serving_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    message.model_spec.name = "half"
    answer = serve(core).metadata(message)
    assert answer.model_spec.version.value == 2
    assert answer.metadata["signature_def"].type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    signatures = serving_pb2.SignatureDefMap.FromString(answer.metadata["signature_def"].value)
    assert signatures.signature_def["serving_default"].inputs["x"].name == "x:0"


def test_metadata_of_another_kind_is_refused(core, serve):
    connection = serve(core)
    message = serving_pb2.GetModelMetadataRequest()
    assert refused(connection.metadata, message) == ("INVALID_ARGUMENT", "Missing ModelSpec")
    message.model_spec.name = "half"
    assert refused(connection.metadata, message)[1].endswith("must specify at least one metadata_field")
    message.metadata_field.append("weights")
    assert refused(connection.metadata, message) == ("INVALID_ARGUMENT", "Metadata field weights is not supported")
    message.metadata_field[:] = ["signature_def"]
    message.model_spec.name = "x"
    assert refused(connection.metadata, message) == ("NOT_FOUND", "Servable not found for request: Latest(x)")


@pytest.mark.parametrize("path", ["PredictionService/Other", "ModelService/GetModelStatus"])
def test_methods_that_are_not_there_are_unimplemented(core, serve, path):
    connection = serve(core)
    assert refused(connection.call, f"/tensorflow.serving.{path}", b"", EvidenceResponse)[0] == "UNIMPLEMENTED"


def test_a_request_over_the_limit_is_refused_and_one_below_is_not(core, serve):
    connection = serve(core, limits=Limits(message_bytes=1 << 16))
    assert refused(connection.predict, request(np.zeros(1 << 15)))[0] == "RESOURCE_EXHAUSTED"
    connection.predict(request(np.zeros(1 << 13)))


def test_a_message_larger_than_grpcs_own_limit_passes(core, serve):
    array = np.arange(3 << 20, dtype=np.float32)  # 12 MiB; gRPC's own limit is 4
    assert np.array_equal(to_numpy(serve(core).predict(request(array)).outputs["y"]), array / 2 + 3)


def health_of(connection, service=""):
    message = health_pb2.HealthCheckRequest(service=service)
    answer = connection.call("/grpc.health.v1.Health/Check", message, health_pb2.HealthCheckResponse)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def test_health_is_told_of_the_server_and_its_services(core, serve):
    connection = serve(core)
    assert health_of(connection) == "SERVING"
    assert health_of(connection, "tensorflow.serving.PredictionService") == "SERVING"
    connection.server.set_serving(False)
    assert health_of(connection) == "NOT_SERVING"
    assert refused(health_of, connection, "other.Service")[0] == "NOT_FOUND"


def test_a_service_of_an_upper_room_is_served_beside_the_models(core, serve):
    def get_evidence(message, context):
        if message.nonce == b"abort":
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        if message.nonce == b"refuse":
            raise RequestError("no such nonce")
        if message.nonce == b"fail":
            raise SealserveError("the quoting device is gone")
        if message.nonce == b"defect":
            raise KeyError("a private detail")
        return EvidenceResponse(quote=message.nonce[::-1])

    method = unary_method(get_evidence, EvidenceRequest)
    connection = serve(core, extra_services=[Service("sealserve.v1.Attestation", {"GetEvidence": method})])
    path = "/sealserve.v1.Attestation/GetEvidence"

    def call(nonce):
        return connection.call(path, EvidenceRequest(nonce=nonce), EvidenceResponse)

    assert call(b"abc").quote == b"cba"
    assert health_of(connection, "sealserve.v1.Attestation") == "SERVING"
    assert refused(call, b"abort") == ("UNAVAILABLE", "not now")
    assert refused(call, b"refuse") == ("INVALID_ARGUMENT", "no such nonce")
    assert refused(call, b"fail") == ("INTERNAL", "the quoting device is gone")
    assert refused(call, b"defect") == ("INTERNAL", "an error inside the server; its log has more")
    assert to_numpy(connection.predict(request()).outputs["y"]).tolist() == [3.5]


class Slow:
    """Answers when it is let."""

    signatures = {"serving_default": Signature({"x": TensorSpec("x", 1, None)}, {}, "")}  # noqa: RUF012
    signature_definitions = {}  # noqa: RUF012

    def __init__(self):
        self.begun, self.go_on, self.still_wanted = threading.Event(), threading.Event(), None

    def predict(self, signature, inputs, output_filter=(), *, wanted=None):
        self.begun.set()
        self.go_on.wait(20)
        deadline = time.monotonic() + 10
        while (still := wanted()) and self.patient and time.monotonic() < deadline:
            time.sleep(0.01)
        self.still_wanted = still
        return {"y": inputs["x"]}

    patient = False


def slow_core():
    core, model = ModelServer(), Slow()
    core.add_model("half", 1, model)
    return core, model


def test_requests_in_flight_finish_before_the_server_stops(serve):
    core, model = slow_core()
    connection = serve(core)
    path = "/tensorflow.serving.PredictionService/Predict"
    future = connection.channel.unary_unary(path).future(request().SerializeToString(), timeout=20)
    assert model.begun.wait(10)
    stopping = threading.Thread(target=connection.server.stop, args=(10,))
    stopping.start()
    model.go_on.set()
    answer = serving_pb2.PredictResponse.FromString(future.result(20))
    stopping.join(20)
    assert not stopping.is_alive()
    assert to_numpy(answer.outputs["y"]).tolist() == [1.0]
    assert refused(connection.predict, request(), timeout=5)[0] in {"UNAVAILABLE", "DEADLINE_EXCEEDED"}


def test_an_engine_learns_that_the_caller_is_gone(serve):
    core, model = slow_core()
    model.patient = True
    connection = serve(core)
    model.go_on.set()
    assert refused(connection.predict, request(), timeout=0.3)[0] == "DEADLINE_EXCEEDED"
    for _ in range(500):
        if model.still_wanted is not None:
            break
        time.sleep(0.02)
    assert model.still_wanted is False


def test_more_requests_than_allowed_are_turned_away_at_once(serve):
    core, model = slow_core()
    connection = serve(core, limits=Limits(working=1))
    path = "/tensorflow.serving.PredictionService/Predict"
    future = connection.channel.unary_unary(path).future(request().SerializeToString(), timeout=20)
    assert model.begun.wait(10)
    assert refused(connection.predict, request())[0] == "RESOURCE_EXHAUSTED"
    model.go_on.set()
    future.result(20)


def test_a_caller_without_tls_gets_no_answer(core, serve):
    connection = serve(core)
    with grpc.insecure_channel(f"127.0.0.1:{connection.port}") as channel:
        call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        assert refused(call, request().SerializeToString(), timeout=5)[0] in {"UNAVAILABLE", "DEADLINE_EXCEEDED"}


def test_a_taken_port_is_a_machine_error(core, certificate):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(MachineError, match="cannot listen on"):
            create_server(core, address=address, private_key_pem=certificate.key, certificate_pem=certificate.pem)


def test_a_port_that_a_supervisor_keeps_can_be_shared(core, serve, certificate):
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        kept.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{kept.getsockname()[1]}"
        settings = {"address": address, "private_key_pem": certificate.key, "certificate_pem": certificate.pem}
        with pytest.raises(MachineError):
            create_server(core, reuse_port=False, **settings)
        server, port = create_server(core, **settings)
        assert port == kept.getsockname()[1]
        server.stop(0)


@pytest.mark.parametrize("broken", ["key", "certificate"])
def test_a_key_or_certificate_that_is_no_pem_is_an_input_error(core, certificate, broken):
    key = Secret(b"no key") if broken == "key" else certificate.key
    pem = b"no certificate" if broken == "certificate" else certificate.pem
    with pytest.raises(InputError, match="PEM"):
        create_server(core, address="127.0.0.1:0", private_key_pem=key, certificate_pem=pem)


class Context:
    """What the prediction service uses of gRPC's context."""

    def is_active(self):
        return True

    def time_remaining(self):
        return None


tensors = st.builds(
    lambda data_type, shape, content, values: TensorProto(
        dtype=data_type,
        tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in shape]),
        tensor_content=content,
        float_val=values,
    ),
    st.sampled_from([0, 1, 2, 7, 14, 23, 101]),
    st.lists(st.sampled_from([-1, 0, 1, 2, 1 << 20, 1 << 62]), max_size=3),
    st.binary(max_size=8),
    st.lists(st.floats(width=32), max_size=2),
)


@given(
    inputs=st.dictionaries(st.sampled_from(["x", "z", ""]), tensors, max_size=2),
    version=st.none() | st.integers(-2, 3),
    output_filter=st.lists(st.sampled_from(["y", "z"]), max_size=2),
)
def test_any_request_is_answered_or_refused_as_a_request(core, inputs, version, output_filter):
    message = request(version=version, output_filter=output_filter)
    message.inputs.clear()
    for name, tensor in inputs.items():
        message.inputs[name].CopyFrom(tensor)
    try:
        answer = PredictionService(core, max_bytes=1 << 16).predict(message, Context())
    except RequestError:
        return
    assert list(answer.outputs) == ["y"]
