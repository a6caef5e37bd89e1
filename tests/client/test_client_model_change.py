"""A replica exchanges its model while clients ask, and their policies list models.

It names both models for as long as either may answer. That is no reason to refuse it for good, and none to be sent an
input before it is over.
"""

from __future__ import annotations

import time

import grpc
import pytest
from client_parties import DIGEST, SECRET_INPUT, exchange

from sealserve.client import Client, ModelNotAcceptedError, ModelNotServedError, RequestRefusedError
from sealserve.client.errors import MalformedReplyError, ModelChangedError, ModelChangingError
from sealserve.client.judgements import _CHANGE_PAUSES, DOUBT_SECONDS
from sealserve.wire import attestation_pb2, open_inference_pb2, tensorflow_serving_pb2

INPUTS = {"images": SECRET_INPUT}
NEW, NEWER = bytes(range(32)), bytes(range(1, 33))
pytestmark = [pytest.mark.usefixtures("both_clients"), pytest.mark.parametrize("protocol", ["grpc", "rest"])]


def claims(*models: tuple[int, bytes]) -> bytes:
    served = [attestation_pb2.ServedModel(name="classifier", version=v, digest=d) for v, d in models]
    return attestation_pb2.Claims(replica="replica-1", models=served).SerializeToString()


def change_after(replica, times: int, version: int = 4, digest: bytes = NEW) -> None:
    """The replica names both models so often, and then the new one, which answers."""
    honest, asked = replica.evidence, []

    def evidence(nonce):
        asked.append(nonce)
        if len(asked) > times:
            exchange(replica, version, digest)
        return honest(nonce)

    replica.claims = claims((3, DIGEST), (version, digest))
    replica.evidence = evidence


def test_a_client_that_pins_the_new_model_waits_for_the_end_of_a_change(replica, listed):
    change_after(replica, 3)
    with Client(replica.target, listed(NEW)) as client:
        answer = client.predict(INPUTS, model="classifier")
    assert (answer.model_version, answer.verified.claims.models[0].digest) == (4, NEW)
    assert replica.log == ["GetEvidence"] * 4 + ["Predict"]
    assert len(set(replica.nonces)) == 4


def test_a_client_that_pins_the_old_model_sends_nothing_during_and_after_a_change(replica, listed):
    change_after(replica, 2)
    with Client(replica.target, listed(DIGEST)) as client, pytest.raises(ModelNotAcceptedError) as caught:
        client.predict(INPUTS, model="classifier")
    assert not isinstance(caught.value, ModelChangingError)
    assert replica.log == ["GetEvidence"] * 3


def test_a_change_on_a_live_connection_is_waited_for(replica, listed):
    with Client(replica.target, listed(DIGEST), max_evidence_age=0.001) as client:
        assert client.predict(INPUTS, model="classifier").model_version == 3
        change_after(replica, 2)
        client.policy = listed(NEW)
        assert client.predict(INPUTS, model="classifier").model_version == 4
    assert replica.predicted == 2


def test_a_replica_that_goes_on_to_name_both_is_refused(replica, listed):
    replica.claims = claims((3, DIGEST), (4, NEW))
    with Client(replica.target, listed(NEW)) as client, pytest.raises(ModelChangingError) as caught:
        client.predict(INPUTS, model="classifier", timeout=20)
    assert caught.value.exit_code == 4
    assert replica.log == ["GetEvidence"] * (len(_CHANGE_PAUSES) + 1)


def test_no_client_waits_beyond_its_own_time(replica, listed):
    replica.claims = claims((3, DIGEST), (4, NEW))
    started = time.monotonic()
    with Client(replica.target, listed(NEW)) as client, pytest.raises(ModelNotAcceptedError):
        client.predict(INPUTS, model="classifier", timeout=0.4)
    assert time.monotonic() - started < sum(_CHANGE_PAUSES)
    assert replica.predicted == 0


def test_an_answer_that_a_second_change_has_overtaken_is_asked_for_again(replica, listed):
    with Client(replica.target, listed(DIGEST, NEW, NEWER)) as client:
        client.predict(INPUTS, model="classifier")
        exchange(replica, 4, NEW)
        overtaken = replica.predict

        def answer_and_change(message, context):
            response = overtaken(message, context)
            exchange(replica, 5, NEWER)
            return response

        replica.predict = answer_and_change
        assert client.predict(INPUTS, model="classifier").model_version == 5
    assert replica.predicted == 3


def test_a_replica_that_never_names_what_answers_gets_three_inputs_at_most(replica, listed):
    exchange(replica, 4, NEW)
    replica.claims = claims((3, DIGEST))
    with Client(replica.target, listed(DIGEST, NEW)) as client, pytest.raises(ModelChangedError) as caught:
        client.predict(INPUTS, model="classifier")
    assert "version 4" in caught.value.message
    assert replica.predicted == 3


def test_errors_of_a_replica_that_exchanged_its_model_end_in_one_question(replica, listed):
    """An error names no model, so it does not show by itself that another one answers."""
    now = [0.0]
    with Client(replica.target, listed(DIGEST), clock=lambda: now[0]) as client:

        def fail(_, context):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "another model's words")

        replica.predict = fail
        for _ in range(3):
            with pytest.raises(RequestRefusedError):
                client.predict(INPUTS, model="classifier")
        assert (replica.asked, replica.predicted) == (1, 3)
        now[0] += DOUBT_SECONDS
        for _ in range(3):
            with pytest.raises(RequestRefusedError):
                client.predict(INPUTS, model="classifier")
        assert (replica.asked, replica.predicted) == (2, 6), "one question in that time, and the same model is accepted"
        replica.claims = claims((4, NEW))
        now[0] += DOUBT_SECONDS
        with pytest.raises(RequestRefusedError):
            client.predict(INPUTS, model="classifier")
        for _ in range(2):
            with pytest.raises(ModelNotAcceptedError):
                client.predict(INPUTS, model="classifier")
    assert replica.predicted == 7


def test_errors_cause_no_question_where_any_model_is_accepted(replica, policy):
    now = [0.0]
    with Client(replica.target, policy, clock=lambda: now[0]) as client:
        for _ in range(3):
            with pytest.raises(ModelNotServedError):
                client.predict(INPUTS, model="other")
            now[0] += DOUBT_SECONDS
    assert replica.asked == 1


def test_evidence_that_was_asked_for_earlier_does_not_replace_newer(replica, policy, protocol):
    from sealserve.addresses import Address
    from sealserve.client import attest
    from sealserve.client.judgements import Judgements

    first, second = (attest(replica.target, policy) for _ in range(2))
    judgements = Judgements(Address("a", 1), max_age=1000, clock=lambda: 100.0)
    judgements.accept(second, policy, asked_at=90.0)
    judgements.accept(first, policy, asked_at=80.0)
    assert judgements.find(first.spki_digest, policy) is second


def test_evidence_that_was_asked_for_before_a_refusal_is_not_kept(replica, policy, protocol):
    from sealserve.addresses import Address
    from sealserve.client import attest
    from sealserve.client.judgements import Judgements

    replica_then = attest(replica.target, policy)
    key, refusal = replica_then.spki_digest, ModelNotAcceptedError("another model")
    judgements = Judgements(Address("a", 1), max_age=1000, clock=lambda: 100.0)
    judgements.accept(replica_then, policy, asked_at=80.0)
    judgements.refuse(key, refusal, asked_at=90.0)
    assert judgements.find(key, policy) is None
    judgements.accept(replica_then, policy, asked_at=85.0)  # its answer was slower
    assert judgements.find(key, policy) is None
    judgements.accept(replica_then, policy, asked_at=95.0)
    judgements.refuse(key, refusal, asked_at=92.0)
    assert judgements.find(key, policy) is replica_then
    judgements.forget(key)
    judgements.accept(replica_then, policy, asked_at=99.0)
    assert judgements.find(key, policy) is None
    judgements.accept(replica_then, policy, asked_at=100.0)
    assert judgements.find(key, policy) is replica_then


SPEC = tensorflow_serving_pb2.ModelSpec(name="classifier", version={"value": 4})
ANSWERS = {
    "/tensorflow.serving.PredictionService/Classify": tensorflow_serving_pb2.ClassificationResponse(model_spec=SPEC),
    "/tensorflow.serving.PredictionService/Regress": tensorflow_serving_pb2.RegressionResponse(model_spec=SPEC),
    "/tensorflow.serving.PredictionService/MultiInference": tensorflow_serving_pb2.MultiInferenceResponse(
        results=[{"model_spec": SPEC}]
    ),
    "/inference.GRPCInferenceService/ModelInfer": open_inference_pb2.ModelInferResponse(
        model_name="classifier", model_version="4"
    ),
}


@pytest.mark.parametrize("method", ANSWERS)
def test_an_answer_of_any_method_is_withheld_when_its_model_is_not_listed(replica, listed, protocol, method):
    if protocol == "rest":
        pytest.skip("methods are gRPC's")
    replica.predict = lambda request, context: ANSWERS[method]
    replica.others = [method.rpartition("/")[2]]
    with Client(replica.target, listed(DIGEST)) as client:
        client.verify()
        replica.claims = claims((4, NEW))  # exchanged since the last question
        for _ in range(2):
            with pytest.raises(ModelNotAcceptedError):
                client.call(method, b"\x12\x00")
    assert replica.predicted == 1


def test_an_answer_whose_version_cannot_be_read_is_withheld(replica, listed, protocol):
    if protocol == "rest":
        pytest.skip("methods are gRPC's")
    replica.predict = lambda request, context: open_inference_pb2.ModelInferResponse(
        model_name="classifier", model_version="9" * 5000
    )
    replica.others = ["ModelInfer"]
    with Client(replica.target, listed(DIGEST)) as client, pytest.raises(MalformedReplyError):
        client.call("/inference.GRPCInferenceService/ModelInfer", b"")
