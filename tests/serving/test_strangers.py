"""Strangers who mean harm, over TLS: whatever they hold, others are answered, and memory stays bounded."""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
import time

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from hostile import (
    PREDICT,
    ContinuationFrame,
    DataFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    Stranger,
)
from serving_models import load

from sealserve.models.saved_model import Signature, TensorSpec
from sealserve.serving.core import ModelServer
from sealserve.serving.heap import allocated_bytes
from sealserve.serving.limits import Limits
from sealserve.wire import tensorflow_serving_pb2 as serving_pb2
from sealserve.wire.tensorflow_pb2 import TensorProto
from sealserve.wire.tensors import from_numpy, to_numpy

CANCELLED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = "1", "8", "12", "13"


@pytest.fixture(scope="module")
def core(engine, half_plus_two):
    core = ModelServer()
    core.add_model("half", 1, load(engine, half_plus_two))
    return core


def request(count=1):
    message = serving_pb2.PredictRequest()
    message.model_spec.name = "half"
    message.inputs["x"].CopyFrom(from_numpy(np.ones(count, np.float32)))
    return message


def assert_answers(connection):
    assert to_numpy(connection.predict(request()).outputs["y"]).tolist() == [2.5]
    health(connection)


def health(connection):
    answer = connection.call(
        "/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest(), health_pb2.HealthCheckResponse
    )
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_headers_without_messages_on_all_streams_of_many_connections_keep_nobody_out(core, serve):
    connection = serve(core)
    strangers = [Stranger(connection.port) for _ in range(10)]
    for stranger in strangers:
        stranger.send(*[stranger.headers() for _ in range(100)])
    for _ in range(20):
        assert_answers(connection)
    # Those that held on longest went.
    assert strangers[0].status(1) == CANCELLED
    for stranger in strangers:
        stranger.socket.close()
    assert_answers(connection)


class Stuck:
    """Answers when it is let."""

    signatures = {"serving_default": Signature({"x": TensorSpec("x", 1, None)}, {}, "")}  # noqa: RUF012
    signature_definitions = {}  # noqa: RUF012

    def __init__(self):
        self.begun, self.go_on = threading.Semaphore(0), threading.Event()

    def predict(self, signature, inputs, output_filter=(), *, wanted=None):
        self.begun.release()
        self.go_on.wait(20)
        return {"y": inputs["x"]}


def test_health_is_told_while_all_work_is_taken_and_strangers_hold_all_they_may(serve):
    core, model = ModelServer(), Stuck()
    core.add_model("half", 1, model)
    connection = serve(core, limits=Limits(working=2, receiving=20))
    path = PREDICT.decode()
    busy = [connection.channel.unary_unary(path).future(request().SerializeToString(), timeout=20) for _ in range(2)]
    for _ in busy:
        assert model.begun.acquire(timeout=10)
    with Stranger(connection.port) as stranger:
        stranger.send(*[stranger.headers() for _ in range(50)])
        for _ in range(5):
            health(connection)
        late = stranger.headers()
        stranger.send(late, *stranger.message(late.stream_id, request().SerializeToString()))
        assert stranger.status(late.stream_id) == RESOURCE_EXHAUSTED
    model.go_on.set()
    for future in busy:
        future.result(20)


@pytest.mark.parametrize("bytes_at_a_time", [0, 1])
def test_a_message_that_does_not_come_in_time_is_not_waited_for(core, serve, bytes_at_a_time):
    connection = serve(core, limits=Limits(receive_seconds=0.5))
    with Stranger(connection.port) as stranger:
        headers = stranger.headers()
        stranger.send(headers, *stranger.message(headers.stream_id, b"", declared=1000))
        ended = []
        waiting = threading.Thread(target=lambda: ended.append(stranger.status(headers.stream_id)))
        if not bytes_at_a_time:
            waiting.start()
            waiting.join(20)
        else:
            deadline = time.monotonic() + 20
            while not ended and time.monotonic() < deadline:
                stranger.send(DataFrame(headers.stream_id, data=b"x"))
                status = stranger.status(headers.stream_id, seconds=0.05)
                if status != "closed":
                    ended.append(status)
        assert ended == [CANCELLED]
    assert_answers(connection)


def test_compressed_messages_are_refused_before_they_are_unpacked(core, serve):
    connection = serve(core)
    bomb = gzip.compress(bytes(64 << 20))
    before = allocated_bytes()
    for extra in ((), ((b"grpc-encoding", b"gzip"),), ((b"grpc-encoding", b"deflate"),)):
        with Stranger(connection.port) as stranger:
            headers = stranger.headers(PREDICT, *extra)
            stranger.send(headers, *stranger.message(headers.stream_id, bomb, compressed=True)[:3])
            if not extra:  # the message is judged when it is whole
                stranger.send(DataFrame(headers.stream_id, data=bomb[3 * 16384 - 5 :][:16384]))
            assert stranger.status(headers.stream_id) in {UNIMPLEMENTED, INTERNAL, RESOURCE_EXHAUSTED}
    assert before is None or allocated_bytes() - before < 16 << 20
    assert_answers(connection)


def refusal(connection, path, data):
    """How a request is refused: the code and the message."""
    with pytest.raises(grpc.RpcError) as caught:
        connection.call(path, data, serving_pb2.PredictResponse)
    return caught.value.code(), caught.value.details()


def test_a_small_request_that_would_take_much_once_parsed_is_refused_before(core, serve):
    connection = serve(core)
    numbers = TensorProto(int64_val=[1] * (20 << 20))
    large = serving_pb2.PredictRequest(inputs={"x": numbers})
    del numbers
    bombs = [b"\x12\x00" * (4 << 20), b"\x1a\x00" * (4 << 20), large.SerializeToString()]
    del large
    before = allocated_bytes()
    for bomb, says in zip(bombs, ["entries of maps", "fields", "lists of numbers"], strict=True):
        code, text = refusal(connection, PREDICT.decode(), bomb)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert says in text
    assert before is None or allocated_bytes() - before < 64 << 20
    assert_answers(connection)


@pytest.mark.parametrize(
    "path", ["/grpc.health.v1.Health/Check", "/tensorflow.serving.PredictionService/GetModelMetadata"]
)
def test_requests_of_small_methods_are_small(core, serve, path):
    code, text = refusal(serve(core), path, b"\x7a\x80\x40" + bytes(8192))
    assert (code, text) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "a request of this method has at most 8192 bytes, and this one 8195",
    )


def test_errors_do_not_repeat_what_is_long(core, serve):
    connection = serve(core)
    long = "%" * (1 << 20)
    named, unknown, filtered = request(), request(), request()
    named.model_spec.name = long
    unknown.inputs[long].CopyFrom(unknown.inputs["x"])
    filtered.output_filter.append(long)
    for message in (named, unknown, filtered):
        code, text = refusal(connection, PREDICT.decode(), message.SerializeToString())
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert 10 < len(text) <= 500
    health = health_pb2.HealthCheckRequest(service="é" * 4000).SerializeToString()
    code, text = refusal(connection, "/grpc.health.v1.Health/Check", health)
    assert (code, len(text)) == (grpc.StatusCode.NOT_FOUND, 500)


def test_a_slow_upload_is_not_kept_out_by_headers_on_many_connections(core, serve):
    connection = serve(core, limits=Limits(receiving=20))
    with Stranger(connection.port) as slow, contextlib.ExitStack() as strangers:
        headers, data = slow.headers(), request().SerializeToString()
        slow.send(headers)
        for _ in range(10):
            stranger = strangers.enter_context(Stranger(connection.port))
            stranger.send(*[stranger.headers() for _ in range(90)])
            assert stranger.status(1) == CANCELLED
        slow.send(*slow.message(headers.stream_id, data))
        assert slow.status(headers.stream_id) == "0"


def test_a_message_that_says_it_is_too_large_is_refused_before_it_comes(core, serve):
    connection = serve(core, limits=Limits(message_bytes=1 << 20))
    with Stranger(connection.port) as stranger:
        headers = stranger.headers()
        stranger.send(headers, *stranger.message(headers.stream_id, b"x", declared=(1 << 20) + 1))
        assert stranger.status(headers.stream_id) == RESOURCE_EXHAUSTED
    assert_answers(connection)


def test_requests_that_are_reset_at_once_keep_nobody_out(core, serve):
    connection = serve(core)
    with Stranger(connection.port) as stranger:
        for _ in range(100):
            frames = []
            for _ in range(50):
                headers = stranger.headers()
                frames += [headers, RstStreamFrame(headers.stream_id, error_code=8)]
            if not stranger.send(*frames):
                break
        assert_answers(connection)
    assert_answers(connection)


def test_headers_without_end_and_endless_pings_end_the_connection_alone(core, serve):
    connection = serve(core)
    with Stranger(connection.port) as stranger:
        stranger.send(HeadersFrame(1, data=stranger.header_block()))
        more = ContinuationFrame(1, data=b"\x00\x03a-b\x7f\x81\x7f" + b"y" * 256)
        assert not all(stranger.send(more) for _ in range(20000))
    with Stranger(connection.port) as stranger:
        pings = [PingFrame(0, opaque_data=b"12345678")] * 100
        assert not all(stranger.send(*pings) for _ in range(100)) or stranger.status(-1).startswith("goaway")
    assert_answers(connection)


def test_headers_that_are_too_large_are_refused(core, serve):
    connection = serve(core, limits=Limits(header_bytes=4096))
    with Stranger(connection.port) as stranger:
        headers = stranger.headers(PREDICT, (b"x-large", b"x" * 8000))
        stranger.send(headers)
        assert stranger.status(headers.stream_id) == RESOURCE_EXHAUSTED
    assert_answers(connection)


def test_more_connections_than_allowed_are_closed_and_those_that_are_open_are_answered(core, serve):
    connection = serve(core, limits=Limits(connections=10))
    assert_answers(connection)
    strangers = []
    with contextlib.suppress(OSError):
        while len(strangers) < 20:
            strangers.append(Stranger(connection.port))
    assert len(strangers) < 10
    assert_answers(connection)
    for stranger in strangers:
        stranger.socket.close()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            with Stranger(connection.port) as again:
                headers = again.headers()
                again.send(headers, *again.message(headers.stream_id, request().SerializeToString()))
                assert again.status(headers.stream_id) == "0"
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail("closed connections are not counted off")


def test_a_connection_that_does_not_speak_tls_is_closed(core, serve):
    connection = serve(core, limits=Limits(handshake_seconds=0.5))
    with socket.create_connection(("127.0.0.1", connection.port)) as silent:
        silent.settimeout(20)
        assert silent.recv(1) == b""


def test_a_connection_without_requests_is_closed(core, serve):
    connection = serve(core, limits=Limits(idle_seconds=0.5))
    with Stranger(connection.port) as stranger:
        assert stranger.status(1, seconds=20).startswith("goaway")


@pytest.mark.parametrize(
    "hostile",
    [
        (b"/\xff\xfe/x", (), UNIMPLEMENTED),
        (PREDICT, ((b"x-name", b"\xff\xfe"),), "0"),
        (PREDICT, ((b"x-bin", b"!!!"),), INTERNAL),
        (PREDICT, ((b"grpc-timeout", b"\xff"),), INTERNAL),
    ],
)
def test_what_is_not_text_in_headers_ends_nothing_and_fills_no_log(core, serve, caplog, hostile):
    path, extra, status = hostile
    connection = serve(core)
    with Stranger(connection.port) as stranger:
        headers = stranger.headers(path, *extra)
        stranger.send(headers, *stranger.message(headers.stream_id, request().SerializeToString()))
        assert stranger.status(headers.stream_id) == status
    assert_answers(connection)
    assert caplog.records == []


def test_an_answer_that_is_not_fetched_is_not_kept(core, serve):
    connection = serve(core, limits=Limits(answer_seconds=0.5))
    with Stranger(connection.port, settings={4: 0}) as stranger:  # it lets the server send nothing
        headers = stranger.headers()
        stranger.send(headers, *stranger.message(headers.stream_id, request(10000).SerializeToString()))
        assert stranger.status(headers.stream_id, seconds=20) == CANCELLED
    assert_answers(connection)


def test_a_request_without_a_message_is_refused_and_of_two_the_first_counts(core, serve):
    connection = serve(core)
    with Stranger(connection.port) as stranger:
        none = stranger.headers(flags=("END_STREAM",))
        stranger.send(none)
        assert stranger.status(none.stream_id) == UNIMPLEMENTED
        two = stranger.headers()
        data = stranger.message(two.stream_id, request().SerializeToString())
        data[-1].flags.discard("END_STREAM")
        stranger.send(two, *data, *stranger.message(two.stream_id, b"\xff"))
        assert stranger.status(two.stream_id) == "0"


def test_memory_is_given_back_when_messages_that_never_end_take_too_much(core, serve):
    if allocated_bytes() is None:
        pytest.skip("this C library does not tell how much memory is allocated")
    size = 8 << 20
    connection = serve(core, limits=Limits(message_bytes=size, buffered_bytes=size, receive_seconds=1000))
    strangers = [Stranger(connection.port) for _ in range(8)]

    def upload(stranger):
        headers = stranger.headers()
        stranger.send(headers, *stranger.message(headers.stream_id, b"", declared=size))
        ended.append(stranger.upload(headers.stream_id, size - 1))

    ended: list[str] = []
    uploads = [threading.Thread(target=upload, args=(stranger,), daemon=True) for stranger in strangers]
    for thread in uploads:
        thread.start()
    deadline = time.monotonic() + 30
    while len(ended) < 6 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ended[:6] == [CANCELLED] * 6
    assert_answers(connection)
    for stranger in strangers:
        stranger.socket.close()
