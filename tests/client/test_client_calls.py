"""A client and honest replicas: real gRPC servers, real TLS, evidence of a simulated platform."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from client_parties import CLASSES, MARKER, SECRET_INPUT, Replica, Scripted, free_port

from sealserve.client import (
    Client,
    DeadlinePassedError,
    MalformedReplyError,
    ModelNotServedError,
    RequestRefusedError,
    ServerFaultError,
    TargetUnreachableError,
    attest,
)
from sealserve.client.attestation import EvidenceQuestion
from sealserve.client.errors import ConnectionLostError
from sealserve.client.protocols import GRPC
from sealserve.client.reply import Reply
from sealserve.client.status import Code
from sealserve.errors import InputError, UnavailableError
from sealserve.wire import tensorflow_serving_pb2
from sealserve.wire.not_begun import NOT_BEGUN, STOPPING
from sealserve.wire.tensors import from_numpy

INPUTS = {"images": SECRET_INPUT}
pytestmark = pytest.mark.usefixtures("both_clients")


def test_a_call_returns_the_outputs_and_who_answered(replica, policy):
    with Client(replica.target, policy) as client:
        answer = client.predict(INPUTS, model="classifier")
    expected = np.arange(CLASSES, dtype=np.float32)[np.newaxis] + int(SECRET_INPUT.sum())
    np.testing.assert_array_equal(answer.outputs["scores"], expected)
    assert answer.model_version == 3
    assert answer.replica == "replica-1"
    assert answer.verified.spki_digest == replica.identity.spki_digest
    assert answer.evidence.simulated
    assert answer.seconds > 0


def test_evidence_is_asked_for_before_the_first_input_and_not_again(replica, policy):
    with Client(replica.target, policy) as client:
        for _ in range(3):
            client.predict(INPUTS, model="classifier")
    assert replica.log == ["GetEvidence", "Predict", "Predict", "Predict"]


def test_every_question_has_a_fresh_nonce(replica, policy):
    first, second = attest(replica.target, policy), attest(replica.target, policy)
    assert first.nonce != second.nonce
    assert replica.nonces == [first.nonce, second.nonce]


def test_a_call_asks_for_what_it_was_told(start_good, policy):
    seen = []

    def predict(request, context):
        seen.append(request)
        return replica.honest_predict(request, context)

    replica = start_good(predict=predict)
    with Client(replica.target, policy) as client:
        client.predict(INPUTS, model="classifier", signature="other", version=7, outputs=["scores"])
        client.predict(INPUTS, model="classifier")
    assert seen[0].model_spec.signature_name == "other"
    assert seen[0].model_spec.version.value == 7
    assert list(seen[0].output_filter) == ["scores"]
    assert seen[1].model_spec.signature_name == "serving_default"
    assert not seen[1].model_spec.HasField("version")


def test_the_server_learns_the_deadline(start_good, policy):
    left = []

    def predict(request, context):
        left.append(context.time_remaining())
        return replica.honest_predict(request, context)

    replica = start_good(predict=predict)
    with Client(replica.target, policy) as client:
        client.predict(INPUTS, model="classifier", timeout=25)
    assert 0 < left[0] <= 25


def test_large_inputs_and_outputs_pass(start_good, policy):
    def echo(request, context):
        response = replica.honest_predict(request, context)
        response.outputs["echo"].CopyFrom(request.inputs["images"])
        return response

    replica = start_good(predict=echo)
    array = np.random.default_rng(1).integers(0, 256, 20 << 20, dtype=np.uint8)
    with Client(replica.target, policy) as client:
        np.testing.assert_array_equal(client.predict({"images": array}, model="classifier").outputs["echo"], array)


def test_the_signatures_are_told(replica, policy):
    with Client(replica.target, policy) as client:
        metadata = client.metadata("classifier")
    signature = metadata.signature("serving_default")
    assert metadata.version == 3
    assert signature.inputs["images"].dtype == "uint8"
    assert signature.inputs["images"].shape == (None, 224, 224, 3)
    assert str(signature.outputs["scores"]) == "scores: float ?x10"
    with pytest.raises(ModelNotServedError, match="'nothing'"):
        metadata.signature("nothing")


def test_a_second_client_lands_on_the_other_replica(replica, second_replica, balance, policy):
    balancer = balance(replica.target, second_replica.target)
    answered = []
    for _ in range(2):
        with Client(balancer.target, policy) as client:
            answered.append(client.predict(INPUTS, model="classifier").replica)
    assert answered == ["replica-1", "replica-2"]
    # One connection each: checking and calling share it, so the balancer cannot come between them.
    assert balancer.accepted == 2
    assert MARKER not in balancer.seen


def test_dropped_connections_let_the_balancer_choose_anew(replica, second_replica, balance, policy):
    balancer = balance(replica.target, second_replica.target)
    answered = []
    with Client(balancer.target, policy) as client:
        for _ in range(4):
            answered.append(client.predict(INPUTS, model="classifier").replica)
            client.drop_connections()
    assert answered == ["replica-1", "replica-2"] * 2
    # A key that was checked is known again on a new connection.
    assert (replica.asked, second_replica.asked) == (1, 1)


def test_a_connection_in_use_is_dropped_when_its_call_ends(start_good, second_replica, balance, policy):
    def drop(request, context):
        client.drop_connections()
        return first.honest_predict(request, context)

    first = start_good(predict=drop)
    balancer = balance(first.target, second_replica.target)
    with Client(balancer.target, policy) as client:
        assert client.predict(INPUTS, model="classifier").replica == "replica-1"
        assert client.predict(INPUTS, model="classifier").replica == "replica-2"


def test_many_threads_share_a_client_and_its_connections(replica, second_replica, balance, policy):
    balancer = balance(replica.target, second_replica.target)
    with Client(balancer.target, policy, max_connections=3) as client, ThreadPoolExecutor(12) as threads:
        inputs = [np.full((1, 5), n, dtype=np.uint8) for n in range(60)]
        answers = list(threads.map(lambda x: client.predict({"images": x}, model="classifier"), inputs))
    assert [int(answer.outputs["scores"][0, 0]) for answer in answers] == [5 * n for n in range(60)]
    assert {answer.replica for answer in answers} == {"replica-1", "replica-2"}
    assert balancer.accepted <= 3


@pytest.mark.usefixtures("both_clients")
def test_a_server_that_stops_costs_nothing_however_often_it_refuses(start_good, second_replica, balance, policy):
    def refuse(_, context):
        context.set_trailing_metadata(((NOT_BEGUN, STOPPING),))
        context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")

    stopping = start_good(predict=refuse)
    stopping.others = second_replica.others = ["Once"]
    balancer = balance(*[stopping.target] * 5, second_replica.target)
    request = tensorflow_serving_pb2.PredictRequest(model_spec={"name": "classifier"})
    request.inputs["images"].CopyFrom(from_numpy(SECRET_INPUT))
    with Client(balancer.target, policy) as client:
        assert client.predict(INPUTS, model="classifier", timeout=10).replica == "replica-2"
        assert (stopping.predicted, balancer.accepted) == (5, 6), "each try has a connection of its own"
        client.drop_connections()
        # Also what may not run twice: it has not begun.
        assert client.call("/a.B/Once", request.SerializeToString(), timeout=10).status == Code.OK
    assert (stopping.predicted, second_replica.predicted) == (10, 2)


@pytest.mark.parametrize("method", ["/tensorflow.serving.PredictionService/Predict", "/a.B/Once"])
def test_a_call_whose_server_dies_is_repeated_if_it_is_an_inference(dying, second_replica, policy, method):
    dead, start_balancer = dying
    request = tensorflow_serving_pb2.PredictRequest(model_spec={"name": "classifier"})
    request.inputs["images"].CopyFrom(from_numpy(SECRET_INPUT))
    with Client(start_balancer(), policy) as client:
        if method == "/a.B/Once":
            with pytest.raises(ConnectionLostError):
                client.call(method, request.SerializeToString(), timeout=10)
        else:
            assert client.call(method, request.SerializeToString(), timeout=10).status == Code.OK
    assert (dead.predicted, second_replica.predicted) == (1, 0 if method == "/a.B/Once" else 1)


def test_the_words_of_the_server_reach_the_user(replica, policy):
    with Client(replica.target, policy) as client:
        with pytest.raises(ModelNotServedError, match="Servable not found for request: other"):
            client.predict(INPUTS, model="other")
        with pytest.raises(RequestRefusedError, match="input images is missing: \N{SNOWMAN}"):
            client.predict({"pictures": SECRET_INPUT}, model="classifier")
        client.predict(INPUTS, model="classifier")
    # A refusal is an answer: the connection goes on.
    assert replica.asked == 1


def test_words_of_the_server_cannot_steer_a_terminal(start_good, policy):
    replica = start_good(
        predict=lambda _, context: context.abort(grpc.StatusCode.INVALID_ARGUMENT, "\x1b[2J" + "x" * 5000),
    )
    with Client(replica.target, policy) as client, pytest.raises(RequestRefusedError) as caught:
        client.predict(INPUTS, model="classifier")
    assert "\x1b" not in caught.value.message
    assert len(caught.value.message) <= 2000


def test_a_fault_of_the_server_is_not_repeated(start_good, policy):
    def predict(request, context):
        raise RuntimeError("boom")

    replica = start_good(predict=predict)
    with Client(replica.target, policy) as client, pytest.raises(ServerFaultError, match="UNKNOWN"):
        client.predict(INPUTS, model="classifier")
    assert replica.predicted == 1


def test_a_reply_that_is_too_large_is_refused(replica, policy):
    with (
        Client(replica.target, policy, max_reply_bytes=20) as client,
        pytest.raises(MalformedReplyError, match="20 bytes"),
    ):
        client.predict(INPUTS, model="classifier")


def test_a_slow_server_ends_with_the_deadline(start_good, policy):
    release = threading.Event()
    replica = start_good(predict=lambda *_: release.wait(30))
    try:
        with Client(replica.target, policy) as client, pytest.raises(DeadlinePassedError):
            client.predict(INPUTS, model="classifier", timeout=0.5)
    finally:
        release.set()


def test_nobody_listening_is_told_soon(policy):
    started = time.monotonic()
    with Client(f"127.0.0.1:{free_port()}", policy) as client, pytest.raises(TargetUnreachableError) as caught:
        client.predict(INPUTS, model="classifier", timeout=60)
    assert caught.value.exit_code == 5
    assert caught.value.hint
    assert time.monotonic() - started < 30


def test_a_server_without_tls_is_told_as_such(policy):
    with Scripted(None, b"HTTP/1.1 400 Bad Request\r\n\r\n") as server, pytest.raises(TargetUnreachableError):
        attest(server.target, policy)


def test_a_name_that_does_not_resolve_is_unreachable(policy):
    with pytest.raises(TargetUnreachableError):
        attest("nothing.invalid:1", policy)


@pytest.mark.parametrize("target", ["", "host", ":1", "127.0.0.1:0", "127.0.0.1:65536", "::1:80", "http://a:1"])
def test_what_is_no_target_is_refused(target, policy):
    with pytest.raises(InputError):
        Client(target, policy)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_what_is_no_timeout_is_refused(timeout, replica, policy):
    with pytest.raises(InputError), Client(replica.target, policy) as client:
        client.predict(INPUTS, model="classifier", timeout=timeout)
    assert replica.log == []


def test_a_client_without_a_policy_does_not_exist(replica):
    with pytest.raises(InputError, match="policy"):
        Client(replica.target, None)  # type: ignore[arg-type]


def test_a_closed_client_does_not_connect_again(replica, policy):
    client = Client(replica.target, policy)
    client.predict(INPUTS, model="classifier")
    client.close()
    with pytest.raises(InputError, match="closed"):
        client.predict(INPUTS, model="classifier")
    assert replica.predicted == 1


def test_an_array_without_a_counterpart_is_refused_before_connecting(replica, policy):
    with Client(replica.target, policy) as client, pytest.raises(InputError):
        client.predict({"images": np.array(["2020"], dtype="datetime64[Y]")}, model="classifier")
    assert replica.log == []


def test_a_forked_child_does_not_use_its_parents_connections(replica, policy, monkeypatch):
    with Client(replica.target, policy) as client:
        client.predict(INPUTS, model="classifier")
        monkeypatch.setattr("os.getpid", lambda: -1)
        client.predict(INPUTS, model="classifier")
        monkeypatch.undo()
    # The key is known, the connection is new.
    assert replica.log == ["GetEvidence", "Predict", "Predict"]


def test_verifying_sends_nothing_else(replica, policy):
    with Client(replica.target, policy) as client:
        assert client.verify().name == "replica-1"
    assert replica.log == ["GetEvidence"]


def test_an_unavailable_replica_that_is_the_only_one_is_unavailable(start_good, policy):
    replica: Replica = start_good(
        predict=lambda _, context: context.abort(grpc.StatusCode.UNAVAILABLE, "draining"),
    )
    with Client(replica.target, policy) as client, pytest.raises(UnavailableError, match="draining"):
        client.predict(INPUTS, model="classifier")
    assert replica.predicted == 3


@pytest.mark.parametrize("status", [Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.CANCELLED])
def test_a_replica_without_room_for_the_question_is_unavailable_and_not_refused(status):
    with pytest.raises(UnavailableError):
        EvidenceQuestion(GRPC).read(Reply(status, "full", b""), None)
