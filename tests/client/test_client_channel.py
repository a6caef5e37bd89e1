"""A verified ``grpc.Channel``: stubs work on it as on any other, and no connection carries a request unchecked."""

from __future__ import annotations

import threading

import grpc
import numpy as np
import pytest
from client_parties import CLASSES, MARKER, SECRET_INPUT, ManInTheMiddle, free_port, write_policy

from sealserve.client.with_grpcio import VerifiedChannel, verified_channel
from sealserve.errors import PolicyRefusedError, TrustError
from sealserve.wire import tensorflow_serving_pb2 as pb
from sealserve.wire.tensors import from_numpy, to_numpy

PREDICT = "/tensorflow.serving.PredictionService/Predict"


def request(name: str = "classifier") -> pb.PredictRequest:
    message = pb.PredictRequest()
    message.model_spec.name = name
    message.inputs["images"].CopyFrom(from_numpy(SECRET_INPUT))
    return message


def stub(channel: grpc.Channel) -> grpc.UnaryUnaryMultiCallable:
    return channel.unary_unary(PREDICT, pb.PredictRequest.SerializeToString, pb.PredictResponse.FromString)


@pytest.mark.slow  # it imports TensorFlow
def test_a_stub_of_tensorflow_serving_works_on_it(replica, policy):
    predict_pb2 = pytest.importorskip("tensorflow_serving.apis.predict_pb2")
    service = pytest.importorskip("tensorflow_serving.apis.prediction_service_pb2_grpc")
    message = predict_pb2.PredictRequest.FromString(request().SerializeToString())
    with verified_channel(replica.target, policy) as channel:
        assert isinstance(channel, grpc.Channel)
        answer = service.PredictionServiceStub(channel).Predict(message, timeout=20)
    assert answer.model_spec.version.value == 3
    assert len(answer.outputs["scores"].float_val or answer.outputs["scores"].tensor_content) in {CLASSES, 4 * CLASSES}
    assert replica.log == ["GetEvidence", "Predict"]


def test_calls_and_futures_give_what_grpcio_gives(start_good, policy):
    def predict(message, context):
        seen.extend((m.key, m.value) for m in context.invocation_metadata() if m.key.startswith("x-"))
        context.send_initial_metadata((("x-first", "1"),))
        context.set_trailing_metadata((("x-last-bin", b"\0\xff"),))
        return replica.honest_predict(message, context)

    seen = []
    replica = start_good(predict=predict)
    with verified_channel(replica.target, policy) as channel:
        answer, call = stub(channel).with_call(request(), metadata=(("x-bytes-bin", b"\1\2\3"), ("x-text", "a b")))
        assert np.isfinite(to_numpy(answer.outputs["scores"])).all()
        assert call.code() is grpc.StatusCode.OK
        assert tuple(call.initial_metadata()) == (("x-first", "1"),)
        assert tuple(call.trailing_metadata()) == (("x-last-bin", b"\0\xff"),)
        assert sorted(seen) == [("x-bytes-bin", b"\1\2\3"), ("x-text", "a b")]
        future = stub(channel).future(request(), timeout=10)
        assert future.result(10).model_spec.version.value == 3
        assert future.code() is grpc.StatusCode.OK
        assert future.exception() is None
    assert replica.asked == 1


def test_errors_are_those_of_grpcio(replica, policy):
    with verified_channel(replica.target, policy) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            stub(channel)(request("other"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert "Servable not found for request: other" in caught.value.details()
        failed = stub(channel).future(request("other"))
        assert failed.exception(10).code() is failed.code() is grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/no.Service/Method")(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_stream("/grpc.health.v1.Health/Watch", None, None)(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(ValueError, match="closed"):
        stub(channel)(request())


def test_interceptors_work_on_it(replica, policy):
    class Names(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation, details, message):
            methods.append(details.method)
            return continuation(details, message)

    methods = []
    with verified_channel(replica.target, policy) as channel:
        stub(grpc.intercept_channel(channel, Names()))(request(), timeout=10)
    assert methods == [PREDICT]


def test_readiness_is_verification(replica, bad_replica, policy):
    with verified_channel(replica.target, policy) as channel:
        grpc.channel_ready_future(channel).result(10)
    with verified_channel(bad_replica.target, policy) as channel, pytest.raises(grpc.FutureTimeoutError):
        grpc.channel_ready_future(channel).result(0.5)
    assert replica.log == bad_replica.log == ["GetEvidence"]


def refuse(target, policy) -> TrustError:
    with verified_channel(target, policy) as channel, pytest.raises(grpc.RpcError) as caught:
        stub(channel)(request(), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert isinstance(caught.value.__cause__, TrustError)
    assert dict(caught.value.trailing_metadata())["sealserve-reason"] == caught.value.__cause__.reason
    return caught.value.__cause__


def test_a_bad_replica_and_a_man_in_the_middle_get_nothing(replica, bad_replica, bad_identity, policy):
    assert isinstance(refuse(bad_replica.target, policy), PolicyRefusedError)
    with ManInTheMiddle(bad_identity, replica.target) as attacker:
        refuse(attacker.target, policy)
        assert MARKER not in attacker.plaintext
    assert replica.predicted == bad_replica.predicted == 0


def test_a_replica_that_is_swapped_under_a_channel_gets_nothing(replica, bad_replica, balance, policy):
    balancer = balance(replica.target)
    with verified_channel(balancer.target, policy) as channel:
        stub(channel)(request(), timeout=10)
        balancer.targets = [bad_replica.target]
        balancer.cut()
        for _ in range(2):
            with pytest.raises(grpc.RpcError) as caught:
                stub(channel)(request(), timeout=10)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert (replica.predicted, bad_replica.predicted) == (1, 0)


def test_an_answer_that_the_evidence_does_not_name_is_withheld(start_good, platform, tmp_path):
    from client_parties import DIGEST

    listed = write_policy(tmp_path / "policy.yaml", platform, f"models: ['{DIGEST.hex()}']\n")
    replica = start_good(models=(("classifier", 1, DIGEST),))  # and it answers as version 3
    assert isinstance(refuse(replica.target, listed), PolicyRefusedError)
    assert replica.predicted == 3, "as often as of `predict`"


def test_a_status_that_a_replica_gives_is_told_and_not_repeated(start_good, policy):
    replica = start_good(predict=lambda _, context: context.abort(grpc.StatusCode.UNAVAILABLE, "busy"))
    with verified_channel(replica.target, policy) as channel, pytest.raises(grpc.RpcError) as caught:
        stub(channel)(request(), timeout=10)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNAVAILABLE, "busy")
    assert replica.predicted == 1


def test_an_inference_whose_replica_dies_is_repeated_and_what_may_not_run_twice_is_not(dying, second_replica, policy):
    dead, start_balancer = dying
    with verified_channel(start_balancer(), policy) as channel:
        assert stub(channel)(request(), timeout=10).model_spec.version.value == 3
    assert (dead.predicted, second_replica.predicted) == (1, 1)
    with verified_channel(start_balancer(), policy) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/a.B/Once")(request().SerializeToString(), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert (dead.predicted, second_replica.predicted) == (2, 1)


def test_deadlines_and_dead_targets_have_their_codes(start_good, policy):
    release = threading.Event()
    replica = start_good(predict=lambda *_: release.wait(20))
    try:
        with verified_channel(replica.target, policy) as channel:
            for timeout in (0.5, 0, -1):
                with pytest.raises(grpc.RpcError) as caught:
                    stub(channel)(request(), timeout=timeout)
                assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            cancelled = stub(channel).future(request(), timeout=2)
            assert cancelled.cancel()
            assert cancelled.code() is grpc.StatusCode.CANCELLED
            with pytest.raises(grpc.FutureCancelledError):
                cancelled.result()
    finally:
        release.set()
    with verified_channel(f"127.0.0.1:{free_port()}", policy) as channel, pytest.raises(grpc.RpcError) as caught:
        stub(channel)(request(), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    "metadata",
    [
        (("x", "a\r\nb: c"),),
        (("x", "snow \N{SNOWMAN}"),),
        (("X", "1"),),
        ((":path", "/other"),),
        (("grpc-timeout", "1H"),),
        (("te", "x"),),
        (("x y", "1"),),
        (("x-bin", "text"),),
        (("x", b"\xff"),),
        (("x", "y" * 20_000),),
    ],
)
def test_metadata_that_could_be_taken_for_something_else_is_refused(metadata, replica, policy):
    with verified_channel(replica.target, policy) as channel, pytest.raises(grpc.RpcError) as caught:
        stub(channel)(request(), metadata=metadata, timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert replica.predicted == 0


def test_a_channel_needs_a_client_with_a_policy(replica):
    from sealserve.errors import InputError

    with pytest.raises(InputError, match="policy"):
        verified_channel(replica.target, None)
    assert issubclass(VerifiedChannel, grpc.Channel)
