"""Reflection describes every service to grpcio-reflection's own client; and a stream holds no more than a request."""

from __future__ import annotations

import threading
import time

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from hypothesis import given
from hypothesis import strategies as st

from sealserve.serving import open_inference
from sealserve.serving.core import ModelServer
from sealserve.serving.limits import Limits
from sealserve.serving.methods import Conversation, Service
from sealserve.serving.reflection import SERVICE_NAMES, reflection_services
from sealserve.wire.tensorflow_serving_pb2 import PredictRequest

SERVICES = (
    "tensorflow.serving.PredictionService",
    "tensorflow.serving.ModelService",
    "inference.GRPCInferenceService",
    "grpc.health.v1.Health",
)
Request = reflection_pb2.ServerReflectionRequest


@pytest.fixture
def start(serve):
    def start(**settings):
        core = ModelServer()
        services = [open_inference.service(core, max_bytes=1 << 20), *reflection_services(SERVICES)]
        return serve(core, extra_services=services, **settings)

    return start


@pytest.fixture
def connection(start):
    return start()


def stream(connection, requests, version=1, timeout=20):
    call = connection.channel.stream_stream(
        f"/{SERVICE_NAMES[version]}/ServerReflectionInfo",
        request_serializer=Request.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    return call(requests, timeout=timeout)


def test_grpcios_client_learns_every_service_and_message(connection):
    database = ProtoReflectionDescriptorDatabase(connection.channel)
    assert set(database.get_services()) == {*SERVICES, *SERVICE_NAMES}
    pool = DescriptorPool(database)
    methods = {name: [method.name for method in pool.FindServiceByName(name).methods] for name in SERVICES}
    assert methods["tensorflow.serving.PredictionService"] == [
        "Classify",
        "Regress",
        "Predict",
        "MultiInference",
        "GetModelMetadata",
    ]
    assert methods["tensorflow.serving.ModelService"] == ["GetModelStatus", "HandleReloadConfigRequest"]
    assert "ModelInfer" in methods["inference.GRPCInferenceService"]
    assert "Check" in methods["grpc.health.v1.Health"]
    for name in SERVICE_NAMES:
        (method,) = pool.FindServiceByName(name).methods
        assert method.name == "ServerReflectionInfo"
        assert method.input_type.file.package == name.removesuffix(".ServerReflection")
    learned = message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.serving.PredictRequest"))
    ours = PredictRequest(output_filter=["y"])
    ours.model_spec.name = "m"
    assert learned.FromString(ours.SerializeToString()).model_spec.name == "m"


@pytest.mark.parametrize("version", [0, 1])
def test_one_stream_answers_several_requests_in_order(connection, version):
    requests = [
        Request(list_services="", host="h"),
        Request(file_by_filename="tensorflow_serving.proto"),
        Request(file_containing_symbol="tensorflow.serving.ModelSpec"),
        Request(file_containing_symbol="no.such.Symbol"),
        Request(file_by_filename="../secret"),
        Request(file_containing_extension={"containing_type": "tensorflow.serving.ModelSpec", "extension_number": 5}),
        Request(all_extension_numbers_of_type="tensorflow.serving.ModelSpec"),
        Request(),
    ]
    answers = list(stream(connection, iter(requests), version))
    assert [answer.original_request for answer in answers] == requests
    assert [answer.WhichOneof("message_response") for answer in answers] == [
        "list_services_response",
        "file_descriptor_response",
        "file_descriptor_response",
        "error_response",
        "error_response",
        "error_response",
        "all_extension_numbers_response",
        "error_response",
    ]
    assert [answer.error_response.error_code for answer in answers][-5:] == [5, 5, 5, 0, 3]
    assert answers[0].valid_host == "h"


def test_a_stream_without_a_message_ends_well(connection):
    assert list(stream(connection, iter(()))) == []


class Talk:
    """A client that sends when it is told to."""

    def __init__(self, connection, **settings):
        self._next = threading.Semaphore(0)
        self.answers = stream(connection, self._requests(), **settings)

    def _requests(self):
        while True:
            self._next.acquire()
            yield Request(list_services="")

    def ask(self):
        self._next.release()
        return next(self.answers)

    def end(self):
        with pytest.raises(grpc.RpcError) as info:
            next(self.answers)
        return info.value.code().name


def test_a_stream_that_is_silent_ends(start):
    connection = start(limits=Limits(receive_seconds=0.5))
    talk = Talk(connection)
    assert talk.ask().list_services_response.service
    assert talk.end() == "CANCELLED"


def test_silent_streams_make_room_for_newcomers(start):
    connection = start(limits=Limits(receiving=3))
    talks = []
    for _ in range(6):
        talks.append(Talk(connection))
        talks[-1].ask()
    # Which is the oldest depends on when each came to wait for its next message.
    for _ in range(200):
        silent = [talk for talk in talks if talk.answers.is_active()]
        if len(silent) <= 3:
            break
        time.sleep(0.05)
    assert len(silent) == 3
    assert [talk.end() for talk in talks if talk not in silent] == ["CANCELLED"] * 3
    for talk in silent:
        talk.ask()


def test_a_stream_ends_after_its_number_of_messages(serve):
    echo = Conversation(lambda request: request, Request, most_messages=3)
    connection = serve(ModelServer(), extra_services=[Service("x.Echo", {"Say": echo})])
    call = connection.channel.stream_stream("/x.Echo/Say")
    assert len(list(call(iter([b""] * 10), timeout=20))) == 3


def status_of(connection, *data):
    call = connection.channel.stream_stream(f"/{SERVICE_NAMES[0]}/ServerReflectionInfo")
    with pytest.raises(grpc.RpcError) as info:
        list(call(iter(data), timeout=20))
    return info.value.code().name


def test_messages_that_are_large_or_malformed_end_the_stream(connection):
    assert status_of(connection, b"\xff") == "INVALID_ARGUMENT"
    assert status_of(connection, bytes(9000)) == "INVALID_ARGUMENT"
    assert status_of(connection, Request(list_services="x" * 9000).SerializeToString()) == "INVALID_ARGUMENT"


def test_only_a_few_streams_are_answered_at_a_time(serve):
    inside, leave = threading.Semaphore(0), threading.Event()

    def slow(request):
        inside.release()
        leave.wait(20)
        return request

    slow_method = Conversation(slow, Request, most_streams=2)
    connection = serve(ModelServer(), extra_services=[Service("x.Slow", {"Say": slow_method})])
    call = connection.channel.stream_stream("/x.Slow/Say")
    two = [call(iter([b""]), timeout=20) for _ in range(2)]
    for _ in two:
        assert inside.acquire(timeout=20)
    with pytest.raises(grpc.RpcError) as info:
        list(call(iter([b""]), timeout=20))
    assert info.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    leave.set()
    assert [list(answers) for answers in two] == [[b""], [b""]]
    assert list(call(iter([b""]), timeout=20)) == [b""]


def test_streams_whose_answers_nobody_fetches_leave_their_places(serve):
    from hostile import Stranger

    big = Conversation(lambda _: PredictRequest(output_filter=["x" * 100_000]), Request, most_streams=2)
    connection = serve(
        ModelServer(), extra_services=[Service("x.Big", {"Say": big})], limits=Limits(answer_seconds=0.5, receiving=8)
    )
    with Stranger(connection.port, settings={4: 0}) as stranger:  # a window of nothing: no answer can be sent
        for _ in range(4):
            headers = stranger.headers(b"/x.Big/Say")
            stranger.send(headers, *stranger.message(headers.stream_id, b""))
        call = connection.channel.stream_stream("/x.Big/Say")
        for _ in range(40):
            try:
                assert len(list(call(iter([b""]), timeout=20))) == 1
                break
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED  # noqa: PT017
                time.sleep(0.1)
        else:
            pytest.fail("the places were never free again")


@given(st.binary(max_size=200))
def test_any_message_is_answered_or_is_none(data):
    (method,) = reflection_services(SERVICES)[0].methods.values()
    try:
        request = Request.FromString(data)
    except Exception:  # noqa: BLE001 - the parser's own
        return
    assert method.function(request).WhichOneof("message_response")
