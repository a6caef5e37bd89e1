"""REST on attested connections: what is sent, what lying servers come to, and what may be repeated."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from client_parties import DIGEST, MARKER, SECRET_INPUT, ManInTheMiddle, write_policy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from sealserve.client import Client, EvidenceMissingError, ModelNotAcceptedError, RequestRefusedError
from sealserve.client.deadline import Deadline
from sealserve.client.errors import ConnectionLostError, MalformedReplyError, NotProcessedError
from sealserve.client.rest.http1 import RestProtocol
from sealserve.client.rest.reply import RestReply
from sealserve.client.rest.request import RestRequest
from sealserve.client.rest.tensors import HEADER_LENGTH, infer_request, read_infer
from sealserve.client.with_grpcio import verified_channel
from sealserve.errors import InputError, SealserveError, TrustError, UnavailableError
from sealserve.evidence.errors import EvidenceBindingError
from sealserve.serving.open_inference.raw import read_raw
from sealserve.serving.rest.kserve_tensors import read_infer as server_reads
from sealserve.serving.rest.kserve_tensors import write_infer
from sealserve.wire.not_begun import NOT_BEGUN, STOPPING
from sealserve.wire.open_inference_pb2 import ModelInferResponse

INPUTS = {"images": SECRET_INPUT}
JSON = (("content-type", "application/json"),)
PREDICT = "/v1/models/classifier:predict"


@pytest.fixture
def protocol() -> str:
    return "rest"


@pytest.fixture
def replica(both_clients, start_good):
    return start_good()


def test_the_question_for_evidence_is_all_that_an_attacker_reads(replica, bad_identity, policy):
    with ManInTheMiddle(bad_identity, replica.target) as attacker:
        with Client(attacker.target, policy) as client, pytest.raises(EvidenceBindingError):
            client.predict(INPUTS, model="classifier")
        head, _, body = bytes(attacker.plaintext).partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/attestation:evidence HTTP/1.1\r\n")
    assert b"classifier" not in head
    assert set(json.loads(body)) == {"nonce"}


def test_a_recording_of_the_wire_is_far_smaller_than_the_input_that_was_not_sent(bad_replica, balance, policy):
    balancer = balance(bad_replica.target)
    large = np.tile(SECRET_INPUT, (2000, 1))
    with Client(balancer.target, policy) as client, pytest.raises(TrustError):
        client.predict({"images": large}, model="classifier")
    assert MARKER not in balancer.seen
    assert len(balancer.seen) < 20_000 < large.nbytes  # both directions together, with the certificate and the quote
    assert bad_replica.requests == ["POST /v1/attestation:evidence HTTP/1.1"]


def test_outputs_metadata_and_errors_are_those_of_grpc(replica, policy):
    with Client(replica.target, policy) as client:
        answer = client.predict(INPUTS, model="classifier", version=3, outputs=["scores"])
        assert answer.model_version == 3
        assert answer.replica == "replica-1"
        assert answer.outputs["scores"].dtype == np.float32
        assert answer.outputs["scores"].shape == (1, 10)
        signature = client.metadata("classifier").signature("serving_default")
        assert str(signature.inputs["images"]) == "images: uint8 ?x224x224x3"
        with pytest.raises(RequestRefusedError, match="Servable not found"):
            client.predict(INPUTS, model="other")
        with pytest.raises(RequestRefusedError, match="input images is missing: \N{SNOWMAN}"):
            client.predict({"x": 1}, model="classifier")
    assert replica.requests[1] == "POST /v2/models/classifier/versions/3/infer HTTP/1.1"
    assert replica.asked == 1


def test_any_request_is_passed_as_it_is(replica, policy):
    with Client(replica.target, policy) as client:
        reply = client.request("POST", PREDICT, b'{"instances": [1]}', headers=JSON)
        assert (reply.status, reply.json()) == (200, {"predictions": [1.0]})
        assert reply.header("sealserve-model-version") == "3"
        assert client.request("GET", "/v1/nothing").status == 404
        assert client.request("HEAD", "/v1/nothing").body == b""
    assert replica.inputs == [b'{"instances": [1]}']


def test_each_protocol_refuses_the_calls_and_the_ports_of_the_other(replica, policy):
    with Client(replica.target, policy) as client, pytest.raises(InputError, match="speaks REST"):
        client.call("/a.B/C", b"")
    with Client(replica.target.removeprefix("https://"), policy) as client:
        with pytest.raises(EvidenceMissingError, match="HTTP/2"):
            client.predict(INPUTS, model="classifier")
        with pytest.raises(InputError, match="speaks gRPC"):
            client.request("GET", "/")
    with pytest.raises(InputError, match="speaks REST"):
        verified_channel(replica.target, policy)
    assert replica.log == []


@pytest.mark.parametrize("target", ["http://127.0.0.1:8501", "https://127.0.0.1", "https://h:1/v1", "ftp://h:1"])
def test_a_target_of_another_form_is_refused(target, policy):
    with pytest.raises(InputError):
        Client(target, policy)


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("DELETE", "/", ()),
        ("GET / HTTP/1.1\r\nx: y\r\n\r\nGET", "/", ()),
        ("GET", "no-slash", ()),
        ("GET", "/a b", ()),
        ("GET", "/a\r\nx: y", ()),
        ("GET", "/a#b", ()),
        ("GET", "/\N{SNOWMAN}", ()),
        ("GET", "/", (("x", "a\r\nb: c"),)),
        ("GET", "/", (("x: y\r\nb", "c"),)),
        ("GET", "/", (("Transfer-Encoding", "chunked"),)),
        ("GET", "/", (("Content-Length", "5"),)),
        ("GET", "/", (("Connection", "upgrade"),)),
        ("GET", "/", (("x", "y" * 9000),)),
        ("GET", "/" + "a" * 9000, ()),
    ],
)
def test_what_could_become_another_request_is_not_sent(method, path, headers):
    with pytest.raises(InputError):
        RestRequest(method, path, [], headers)


# --- lying servers ----------------------------------------------------------------------------------------------------

LIES = {
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "another coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "no length": b"HTTP/1.1 200 OK\r\n\r\n{}",
    "large headers": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 40_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "headers without end": b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 20_000,
    "announced too large": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
    "too large": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + (b"10000\r\n" + b"a" * 65536 + b"\r\n") * 4,
    "small chunks without end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 200_000,
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "chunk with a bare line feed": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na0\r\n\r\n",
    "informational without end": b"HTTP/1.1 100 Continue\r\n\r\n" * 100,
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "compressed": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    "compressed, and said twice": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Encoding: identity\r\n"
    b"Content-Length: 3\r\n\r\nabc",
    "control characters": b"HTTP/1.1 200 OK\r\nContent-Type: a\x1b[31m\r\nContent-Length: 0\r\n\r\n",
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "HTTP/2": bytes.fromhex("000000040000000000") * 10 + b"\r\n\r\n",
}


def ask(*arriving: bytes, method: str = "GET", max_reply: int = 1000) -> tuple[RestReply, RestProtocol]:
    http = RestProtocol()
    RestRequest(method, "/", [], (), max_reply).begin(http, "x", Deadline(5))
    http.outgoing()
    for data in arriving:
        if not http.over:
            http.feed(data)
    assert http.over
    return http.finish(), http


def test_a_server_that_stops_says_what_it_did_not_begin_with():
    refusal = b"HTTP/1.1 503 Service Unavailable\r\n%sContent-Length: 0\r\n\r\n"
    with pytest.raises(NotProcessedError, match="stopping"):
        ask(refusal % f"{NOT_BEGUN}: {STOPPING}\r\n".encode())
    assert ask(refusal % b"")[0].status == 503
    other = b"HTTP/1.1 500 Internal Server Error\r\n%s: %s\r\nContent-Length: 0\r\n\r\n"
    assert ask(other % (NOT_BEGUN.encode(), STOPPING.encode()))[0].status == 500


@pytest.mark.parametrize("lie", LIES)
def test_an_answer_that_breaks_a_rule_is_refused(lie):
    with pytest.raises(MalformedReplyError):
        ask(LIES[lie])


def test_an_answer_in_tiny_pieces_costs_no_more_than_a_few_times_its_bytes():
    with pytest.raises(MalformedReplyError, match="far more"):
        ask(*[LIES["small chunks without end"][i : i + 65536] for i in range(0, 1_200_000, 65536)], max_reply=250_000)


@pytest.mark.parametrize("lie", ["length and chunks", "no length", "too large", "headers without end"])
def test_a_lying_replica_gets_an_error_and_its_connection_is_closed(lie, replica, policy):
    with Client(replica.target, policy, max_reply_bytes=1000) as client:
        replica.raw = LIES[lie]
        with pytest.raises(MalformedReplyError):
            client.request("POST", PREDICT, b"{}", timeout=10)
        replica.raw = None
        assert client.request("POST", PREDICT, b"{}").status == 200


def test_an_answer_behind_an_answer_is_nobodys(replica, policy):
    first = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst"
    smuggled = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"
    with Client(replica.target, policy) as client:
        replica.raw = first + smuggled
        assert client.request("POST", PREDICT, b"{}").body == b"first"
        replica.raw = None
        assert client.request("POST", PREDICT, b"{}").json() == {"predictions": [1.0]}
    reply, http = ask(first + smuggled)
    assert (reply.body, http.reusable) == (b"first", False)
    reply, http = ask(first)
    assert http.reusable
    with pytest.raises(MalformedReplyError):
        http.feed(smuggled)


def test_an_answer_is_read_however_it_is_cut():
    whole = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
    whole += b"3\r\nabc\r\n4\r\ndefg\r\n0\r\nTrailer: x\r\n\r\n"
    for size in (1, 2, 3, 7, 1000):
        reply, http = ask(*[whole[i : i + size] for i in range(0, len(whole), size)])
        assert (reply.status, reply.body, reply.header("x")) == (200, b"abcdefg", "1")
        assert http.reusable


def test_answers_without_a_body_need_no_length():
    assert ask(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", method="HEAD")[0].body == b""
    assert ask(b"HTTP/1.1 204 No Content\r\n\r\n")[0].status == 204


def test_a_connection_that_ends_is_not_used_again():
    assert not ask(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")[1].reusable
    assert not ask(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")[1].reusable


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_whatever_arrives_is_an_answer_or_an_error_of_ours(data):
    http = RestProtocol()
    RestRequest("POST", "/", [b"body"]).begin(http, "x", Deadline(5))
    http.outgoing()
    for part in (data, b"HTTP/1.1 200 OK\r\n" + data):
        try:
            http.feed(part)
        except SealserveError:
            return
    assert http.over in {True, False}


# --- tensors ----------------------------------------------------------------------------------------------------------

NUMBERS = [np.bool_, *(f"{kind}{size}" for kind in "ui" for size in (1, 2, 4, 8)), "f2", "f4", "f8", ">f4", ">i8"]


def through(array: np.ndarray) -> np.ndarray:
    """To the server and back, each side with its own code."""
    request = infer_request({"x": array}, model="m", signature="s", version=None, outputs=["x"], max_reply=1 << 20)
    head = dict(request.headers)[HEADER_LENGTH]
    asked, contents, wishes = server_reads("m", "", b"".join(bytes(part) for part in request.body), int(head))
    tensor = asked.inputs[0]
    read_raw(tensor.datatype, tensor.shape, contents[0], tensor="x")
    answer = ModelInferResponse(model_name="m", model_version="7")
    answer.outputs.add(name="x", datatype=tensor.datatype, shape=tensor.shape)
    answer.raw_output_contents.append(bytes(contents[0]))
    content, length = write_infer(answer, wishes)
    model, version, arrays = read_infer(RestReply(200, ((HEADER_LENGTH, str(length)),), content))
    assert (model, version) == ("m", 7)
    return arrays["x"]


@given(
    st.sampled_from(NUMBERS).flatmap(
        lambda kind: hypothesis_numpy.arrays(kind, hypothesis_numpy.array_shapes(min_dims=0, min_side=0, max_side=4))
    )
)
@settings(max_examples=200, deadline=None)
def test_numbers_come_back_as_they_were_with_nan_and_infinity(array):
    back = through(array)
    assert back.dtype == array.dtype.newbyteorder("<")
    np.testing.assert_array_equal(back, array)


def test_strings_and_bytes_come_back():
    values = np.array([b"\xff\x00", b"", "caf\N{LATIN SMALL LETTER E WITH ACUTE}".encode()], dtype=object)
    assert through(values).tolist() == values.tolist()
    assert through(np.array(["a", "bc"])).tolist() == [b"a", b"bc"]


def test_an_array_that_is_not_contiguous_is_sent_in_order():
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T[::2]
    np.testing.assert_array_equal(through(array), array)


def test_a_large_array_is_not_copied_into_the_request():
    array = np.zeros(1 << 16, np.float32)
    request = infer_request({"x": array}, model="m", signature="s", version=None, outputs=[], max_reply=1)
    assert np.shares_memory(np.frombuffer(request.body[1], np.uint8), array)


def test_types_that_the_protocol_lacks_are_told():
    for array in (np.zeros(1, np.complex64), np.array([object()])):
        with pytest.raises(InputError):
            infer_request({"x": array}, model="m", signature="", version=None, outputs=[], max_reply=1)


def test_outputs_in_json_are_read_with_nan_and_infinity():
    text = b'{"model_name":"m","model_version":"1","outputs":[{"name":"y","datatype":"FP32","shape":[3],'
    text += b'"data":[NaN,Infinity,-Infinity]},{"name":"s","datatype":"BYTES","shape":[1,1],"data":[["a"]]}]}'
    arrays = read_infer(RestReply(200, (), text))[2]
    assert math.isnan(arrays["y"][0])
    assert arrays["y"][1:].tolist() == [math.inf, -math.inf]
    assert arrays["s"].tolist() == [[b"a"]]


@pytest.mark.parametrize(
    "output",
    [
        "1",
        '{"name":"y","datatype":"FP32","shape":[2],"parameters":{"binary_data_size":4}}',
        '{"name":"y","datatype":"FP32","shape":[99999999999],"parameters":{"binary_data_size":4}}',
        '{"name":"y","datatype":"FP32","shape":[-1],"parameters":{"binary_data_size":4}}',
        '{"name":"y","datatype":"FP32","shape":[true],"parameters":{"binary_data_size":4}}',
        '{"name":"y","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":5}}',
        '{"name":"y","datatype":"FP32","shape":[0],"parameters":{"binary_data_size":0}}',
        '{"name":"y","datatype":"FP99","shape":[1],"parameters":{"binary_data_size":4}}',
        '{"name":"y","datatype":"BYTES","shape":[1000000],"parameters":{"binary_data_size":4}}',
        '{"name":"y","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":4}}',
        '{"name":"y","datatype":"FP32","shape":[1]}',
        '{"name":"y","datatype":"INT8","shape":[1],"data":[300]}',
        '{"name":"y","datatype":"FP32","shape":[2],"data":[1]}',
        '{"name":3,"datatype":"FP32","shape":[1],"data":[1]}',
        '{"name":"y","datatype":"FP32","shape":[]}',
        '{"name":"y","datatype":"FP32","shape":[1],"data":[null]}',
        '{"name":"y","datatype":"FP32","shape":[1],"data":["1"]}',
        '{"name":"y","datatype":"INT32","shape":[1],"data":[1.7]}',
        '{"name":"y","datatype":"BOOL","shape":[1],"data":[{}]}',
    ],
)
def test_a_malformed_output_is_told(output):
    text = f'{{"model_name":"m","model_version":"1","outputs":[{output}]}}'.encode()
    with pytest.raises(MalformedReplyError):
        read_infer(RestReply(200, ((HEADER_LENGTH, str(len(text))),), text + b"\xff\xff\xff\x7f"))


@pytest.mark.parametrize("datatype", ["FP32", "BOOL", "BYTES"])
def test_a_shape_beyond_what_numpy_counts_is_told(datatype):
    shape = [0, 2147483647, 2147483647, 2147483647]
    output = {"name": "y", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": 0}}
    text = json.dumps({"model_name": "m", "model_version": "1", "outputs": [output]}).encode()
    with pytest.raises(MalformedReplyError):
        read_infer(RestReply(200, ((HEADER_LENGTH, str(len(text))),), text))


def test_numbers_beyond_what_python_reads_are_told():
    text = b'{"model_name":"m","model_version":"%s","outputs":[]}'
    with pytest.raises(MalformedReplyError):
        read_infer(RestReply(200, (), text % (b"9" * 5000)))
    with pytest.raises(MalformedReplyError):
        read_infer(RestReply(200, ((HEADER_LENGTH, "0" * 5000),), text % b"1"))


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b"[" * 100_000, b'{"outputs":[]}', b'{"outputs":{}}', b"\xff", b'{"model_name":"m"}']
)
def test_a_malformed_answer_is_told(text):
    with pytest.raises(MalformedReplyError):
        read_infer(RestReply(200, (), text))


# --- over time --------------------------------------------------------------------------------------------------------


def test_an_inference_is_sent_again_and_another_post_is_not(replica, second_replica, balance, policy):
    replica.raw = b""  # answers nothing
    balancer = balance(replica.target, second_replica.target)
    balancer.targets = [replica.target]
    with Client(balancer.target, policy) as client:
        with pytest.raises(UnavailableError):
            client.request("POST", "/v1/something", b"{}", timeout=1)
        assert replica.requests.count("POST /v1/something HTTP/1.1") == 1


def test_a_connection_that_breaks_within_an_answer_is_tried_again_elsewhere(replica, second_replica, balance, policy):
    balancer = balance(replica.target, second_replica.target)
    replica.dies = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"
    with Client(balancer.target, policy) as client:
        assert client.predict(INPUTS, model="classifier", timeout=20).replica == "replica-2"
        balancer.targets = [replica.target]
        client.drop_connections()
        with pytest.raises(ConnectionLostError):
            client.request("POST", "/v1/something", b"{}", timeout=5)


def test_a_replica_that_ends_the_connection_after_its_evidence_is_asked_on_another(replica, policy):
    replica.closes_after_evidence = True
    with Client(replica.target, policy) as client:
        assert client.predict(INPUTS, model="classifier").replica == "replica-1"
        assert client.request("POST", "/v1/something", b"{}").status == 404
    assert replica.log == ["GetEvidence", "Predict"]  # its key is known on the next connection


def test_an_idle_connection_is_given_up_before_the_server_closes_it(replica, policy, monkeypatch):
    with Client(replica.target, policy) as client:
        client.predict(INPUTS, model="classifier")
        monkeypatch.setattr("sealserve.client.rest.http1.IDLE_SECONDS", 0.0)
        assert client.predict(INPUTS, model="classifier").replica == "replica-1"
    assert replica.predicted == 2


# --- lists of models --------------------------------------------------------------------------------------------------


def test_an_answer_must_say_its_version_where_models_are_listed(start_good, policy, platform, tmp_path, both_clients):
    listed = write_policy(tmp_path / "policy.yaml", platform, f"models: ['{DIGEST.hex()}']\n")
    replica = start_good()
    with Client(replica.target, listed) as client:
        assert client.request("POST", PREDICT, b"{}").status == 200
        assert client.predict(INPUTS, model="classifier").model_version == 3
        replica.tells_version = False
        with pytest.raises(ModelNotAcceptedError):
            client.request("POST", PREDICT, b"{}")
        with pytest.raises(ModelNotAcceptedError):
            client.request("POST", "/v1/models/other:predict", b"{}")
    with Client(replica.target, policy) as client:
        assert client.request("POST", PREDICT, b"{}").status == 200


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v1/models/m:predict", "m"),
        ("/V1/models/m/versions/3:CLASSIFY", "m"),
        ("/v1/models/m%2Fn/labels/x:regress?a=b", "m/n"),
        ("/v2/models/m/versions/3/infer", "m"),
        ("/v2/models/m/infer//", "m"),
        ("/v1/models/m", None),
        ("/v1/models/m/metadata", None),
        ("/v2/models/m", None),
        ("/v1/attestation:evidence", None),
    ],
)
def test_the_model_is_read_from_the_path_as_the_server_reads_it(path, model):
    assert RestRequest("POST", path).model == model
    assert re.match("/", path)
