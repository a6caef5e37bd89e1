"""Requests in parts are the messages that protobuf writes, and header blocks are what HPACK reads."""

from __future__ import annotations

import importlib.util

import hpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealserve.client.deadline import Deadline
from sealserve.client.errors import ConnectionLostError, DeadlinePassedError, NotProcessedError, TargetUnreachableError
from sealserve.client.frames import FrameReader, frame
from sealserve.client.headers import check_metadata, header_block, read_metadata_value
from sealserve.client.http2 import UnaryProtocol
from sealserve.client.messages import predict_request, read_outputs
from sealserve.client.retries import Retries
from sealserve.errors import InputError
from sealserve.wire.bfloat16 import narrow, widen
from sealserve.wire.tensorflow_pb2 import DataType
from sealserve.wire.tensorflow_serving_pb2 import PredictRequest, PredictResponse
from sealserve.wire.tensors import to_numpy


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=20),
        st.tuples(st.sampled_from(["u1", "<f4", ">i4", "<f2", "?", "<c8", "<i8"]), st.integers(0, 20_000)).map(
            lambda kind: (np.arange(kind[1]) % 2).astype(kind[0])
        ),
        max_size=4,
    )
)
@settings(max_examples=60, deadline=None)
def test_a_request_in_parts_is_the_message(inputs):
    parts = predict_request(inputs, model="m", signature="s", version=7, outputs=["o"])
    message = PredictRequest.FromString(b"".join(parts))
    assert (message.model_spec.name, message.model_spec.version.value) == ("m", 7)
    assert (message.model_spec.signature_name, list(message.output_filter)) == ("s", ["o"])
    assert set(message.inputs) == set(inputs)
    for name, array in inputs.items():
        read = to_numpy(message.inputs[name])
        np.testing.assert_array_equal(read, array)
        assert read.dtype == array.dtype.newbyteorder("<")


@pytest.mark.parametrize("count", [3, 20_000])
def test_bfloat16_is_sent_as_it_is_and_read_as_float32(count):
    numbers = np.arange(count, dtype=np.float32) / 4
    arrays = {"ours": narrow(numbers)}
    if importlib.util.find_spec("ml_dtypes"):
        arrays["theirs"] = numbers.astype(importlib.import_module("ml_dtypes").bfloat16)
    parts = predict_request(arrays, model="m", signature="s", version=None, outputs=[])
    sent = PredictRequest.FromString(b"".join(parts)).inputs
    outputs = read_outputs(PredictResponse(outputs=sent), 1 << 20)
    assert outputs.keys() == arrays.keys()
    for name, array in outputs.items():
        assert sent[name].dtype == DataType.DT_BFLOAT16
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, widen(narrow(numbers)))


def test_a_large_array_is_not_copied_and_odd_layouts_are_right():
    array = np.arange(60_000, dtype=np.uint8).reshape(20, 3000)
    parts = predict_request({"x": array}, model="m", signature="s", version=None, outputs=[])
    assert np.shares_memory(np.frombuffer(parts[-1], np.uint8), array)
    for odd in (array.T, array[::2, ::-1], np.asfortranarray(array)):
        whole = b"".join(predict_request({"x": odd}, model="m", signature="s", version=None, outputs=[]))
        np.testing.assert_array_equal(to_numpy(PredictRequest.FromString(whole).inputs["x"]), odd)


_names = st.from_regex(r"\Ax[0-9a-z_.-]{0,20}\Z").filter(lambda name: not name.endswith("-bin"))
_metadata = st.one_of(
    st.tuples(_names, st.from_regex(r"\A[ -~]{0,300}\Z")),
    st.tuples(_names.map(lambda name: name + "-bin"), st.binary(max_size=100)),
)


@given(st.lists(_metadata, max_size=5), st.floats(0.001, 1e6))
@settings(max_examples=150, deadline=None)
def test_headers_are_read_as_they_were_written(metadata, seconds):
    block = header_block("/a.B/C", "name", seconds, tuple(metadata))
    read = [(bytes(n).decode(), bytes(v)) for n, v in hpack.Decoder().decode(block, raw=True)]
    assert read[:4] == [(":method", b"POST"), (":scheme", b"https"), (":path", b"/a.B/C"), (":authority", b"name")]
    names = {name for name, _ in read[: len(read) - len(metadata)]}
    assert {"te", "content-type", "user-agent", "grpc-timeout"} <= names
    back = [(n, read_metadata_value(n, v)) for n, v in read[len(read) - len(metadata) :]]
    assert back == [(n, v) for n, v in metadata]


@given(st.text(max_size=10), st.one_of(st.text(max_size=10), st.binary(max_size=10)))
@settings(max_examples=300, deadline=None)
def test_metadata_is_sent_as_one_header_or_not_at_all(name, value):
    try:
        block = header_block("/a.B/C", "name", 1.0, ((name, value),))
    except InputError:
        return
    read = hpack.Decoder().decode(block, raw=True)
    assert len(read) == 9
    assert not any(c in bytes(v) for _, v in read for c in b"\r\n\0")


@pytest.mark.parametrize("method", ["", "a/b", "/a", "/a/b/c", "/a b/c", "/a/b\r\n", "/a/\N{SNOWMAN}"])
def test_what_is_no_method_is_refused(method):
    with pytest.raises(InputError):
        header_block(method, "name", 1.0)


def test_names_of_the_protocols_are_refused():
    for name in (":path", "te", "host", "content-length", "grpc-timeout", "grpc-encoding", "user-agent", "X"):
        with pytest.raises(InputError):
            check_metadata(((name, "1"),))


@given(st.lists(st.tuples(st.integers(0, 9), st.binary(max_size=40)), max_size=6), st.data())
@settings(max_examples=100, deadline=None)
def test_frames_are_the_same_however_they_are_cut(frames, data):
    sent = frame(4, b"") + b"".join(frame(kind, payload, stream=1) for kind, payload in frames)
    reader, position, read = FrameReader(1 << 14), 0, []
    while position < len(sent):
        size = data.draw(st.integers(1, 30))
        read += [(kind, payload) for kind, _, _, payload in reader.feed(sent[position : position + size])]
        position += size
    assert read == [(4, b""), *frames]


def test_a_message_stays_within_the_windows_that_the_server_gives():
    http = UnaryProtocol()
    http.begin(header_block("/a.B/C", "name", 1.0), [bytes(200_000)], max_reply=100)
    reader, sizes = FrameReader(1 << 24), []

    def read() -> None:
        while data := http.outgoing():
            sizes.extend(len(p) for kind, _, _, p in reader.feed(data) if kind == 0)

    preface = http.outgoing()
    sizes += [len(p) for kind, _, _, p in reader.feed(preface[24:]) if kind == 0]
    read()
    assert sum(sizes) == 65535
    assert max(sizes) == 1 << 14
    assert not http.has_more_to_send
    http.feed(frame(4, b"\0\4\0\2\0\0" + b"\0\5\0\1\0\0"))  # a window of 131072, frames of 65536
    read()
    assert sum(sizes) == 65535  # the connection's own window is still closed
    http.feed(frame(8, (1 << 20).to_bytes(4, "big")))
    read()
    assert sum(sizes) == 131072
    http.feed(frame(8, (1 << 20).to_bytes(4, "big"), stream=1))
    read()
    assert sum(sizes) == 200_005
    assert max(sizes) == 1 << 16


class TestRetries:
    def test_what_may_have_begun_is_not_repeated_unless_it_may_be(self):
        lost = ConnectionLostError("lost")
        with pytest.raises(ConnectionLostError):
            Retries(Deadline(10), repeatable=False).pause_after(lost, sent=True, reached=True)
        assert Retries(Deadline(10), repeatable=True).pause_after(lost, sent=True, reached=True) > 0

    def test_what_certainly_has_not_begun_is_repeated(self):
        retries = Retries(Deadline(10), repeatable=False)
        for _ in range(5):
            assert 0 < retries.pause_after(NotProcessedError("no"), sent=True, reached=True) <= 1
            assert 0 < retries.pause_after(TargetUnreachableError("no"), sent=False, reached=True) <= 1

    def test_an_input_that_fells_servers_is_not_sent_for_ever(self):
        retries = Retries(Deadline(10), repeatable=True)
        for _ in range(2):
            retries.pause_after(ConnectionLostError("lost"), sent=True, reached=True)
        with pytest.raises(ConnectionLostError):
            retries.pause_after(ConnectionLostError("lost"), sent=True, reached=True)

    def test_a_target_that_never_answered_is_given_up(self):
        retries = Retries(Deadline(10), repeatable=True)
        for _ in range(2):
            retries.pause_after(TargetUnreachableError("no"), sent=False, reached=False)
        with pytest.raises(TargetUnreachableError):
            retries.pause_after(TargetUnreachableError("no"), sent=False, reached=False)

    def test_the_deadline_ends_it_with_the_error_that_says_more(self):
        deadline = Deadline(1e-6)
        with pytest.raises(DeadlinePassedError):
            deadline.remaining("x")
        with pytest.raises(TargetUnreachableError):
            Retries(deadline, repeatable=True).pause_after(TargetUnreachableError("no"), sent=False, reached=True)
