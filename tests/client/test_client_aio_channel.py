"""A verified ``grpc.aio.Channel``: asyncio stubs work on it, and no connection carries a request unchecked."""

from __future__ import annotations

import asyncio
import threading

import grpc
import grpc.aio
import pytest
from client_parties import MARKER, SECRET_INPUT, ManInTheMiddle, free_port

from sealserve.client.with_grpcio import verified_aio_channel
from sealserve.errors import InputError, PolicyRefusedError, TrustError
from sealserve.evidence.errors import EvidenceBindingError
from sealserve.wire import tensorflow_serving_pb2 as pb
from sealserve.wire.tensors import from_numpy

PREDICT = "/tensorflow.serving.PredictionService/Predict"


def request(name: str = "classifier") -> pb.PredictRequest:
    message = pb.PredictRequest()
    message.model_spec.name = name
    message.inputs["images"].CopyFrom(from_numpy(SECRET_INPUT))
    return message


def stub(channel: grpc.aio.Channel) -> grpc.aio.UnaryUnaryMultiCallable:
    return channel.unary_unary(PREDICT, pb.PredictRequest.SerializeToString, pb.PredictResponse.FromString)


@pytest.mark.slow  # it imports TensorFlow
def test_a_stub_of_tensorflow_serving_works_on_it(replica, policy):
    predict_pb2 = pytest.importorskip("tensorflow_serving.apis.predict_pb2")
    service = pytest.importorskip("tensorflow_serving.apis.prediction_service_pb2_grpc")
    message = predict_pb2.PredictRequest.FromString(request().SerializeToString())

    async def ask():
        async with verified_aio_channel(replica.target, policy) as channel:
            return await service.PredictionServiceStub(channel).Predict(message, timeout=20)

    assert asyncio.run(ask()).model_spec.version.value == 3


def test_calls_give_what_grpcio_gives(start_good, policy):
    def predict(message, context):
        seen.extend((m.key, m.value) for m in context.invocation_metadata() if m.key.startswith("x-"))
        context.send_initial_metadata((("x-first", "1"),))
        context.set_trailing_metadata((("x-last-bin", b"\0\xff"),))
        return replica.honest_predict(message, context)

    async def ask():
        async with verified_aio_channel(replica.target, policy) as channel:
            assert isinstance(channel, grpc.aio.Channel)
            call = stub(channel)(request(), timeout=10, metadata=grpc.aio.Metadata(("x-text", "a b")))
            over = asyncio.Event()
            call.add_done_callback(lambda _: over.set())
            assert (await call).model_spec.version.value == 3
            await over.wait()
            assert call.done()
            assert await call.code() is grpc.StatusCode.OK
            assert (await call.initial_metadata())["x-first"] == "1"
            assert (await call.trailing_metadata())["x-last-bin"] == b"\0\xff"
            many = await asyncio.gather(*(stub(channel)(request()) for _ in range(10)))
            assert [one.model_spec.version.value for one in many] == [3] * 10
        with pytest.raises(grpc.aio.UsageError):
            stub(channel)(request())

    seen: list[tuple[str, str]] = []
    replica = start_good(predict=predict)
    asyncio.run(ask())
    assert seen[0] == ("x-text", "a b")


def test_errors_are_those_of_grpcio(replica, policy):
    async def ask():
        async with verified_aio_channel(replica.target, policy) as channel:
            call = stub(channel)(request("other"))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is await call.code() is grpc.StatusCode.NOT_FOUND
            assert "Servable not found" in await call.details()
            with pytest.raises(grpc.RpcError) as caught:
                await stub(channel)(request(), timeout=0)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_stream("/grpc.health.v1.Health/Watch", None, None)(b"")
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    asyncio.run(ask())


@pytest.mark.parametrize("attacker", ["measurement", "relay"])
def test_a_refused_replica_is_unauthenticated_and_gets_nothing(attacker, replica, bad_replica, bad_identity, policy):
    async def ask(target):
        async with verified_aio_channel(target, policy) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub(channel)(request(), timeout=10)
            with pytest.raises(TrustError):
                await channel.channel_ready()
        return caught.value

    if attacker == "measurement":
        error = asyncio.run(ask(bad_replica.target))
        assert isinstance(error.__cause__, PolicyRefusedError)
    else:
        with ManInTheMiddle(bad_identity, replica.target) as middle:
            error = asyncio.run(ask(middle.target))
            assert MARKER not in middle.plaintext
        assert isinstance(error.__cause__, EvidenceBindingError)
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert error.trailing_metadata()["sealserve-reason"] == error.__cause__.reason
    assert replica.predicted == bad_replica.predicted == 0


def test_a_call_that_is_cancelled_is_over_and_the_next_one_goes_on(start_good, policy):
    begun, free = threading.Event(), threading.Event()

    def predict(message, context):
        begun.set()
        if replica.predicted == 1:
            free.wait(10)
        return replica.honest_predict(message, context)

    async def ask():
        async with verified_aio_channel(replica.target, policy) as channel:
            call = stub(channel)(request())
            await asyncio.to_thread(begun.wait, 10)
            assert call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert call.cancelled()
            assert await call.code() is grpc.StatusCode.CANCELLED
            free.set()
            await stub(channel)(request(), timeout=10)

    replica = start_good(predict=predict)
    asyncio.run(ask())


def test_readiness_is_verification(replica, policy):
    async def ask():
        async with verified_aio_channel(replica.target, policy) as channel:
            assert channel.get_state() is grpc.ChannelConnectivity.IDLE
            assert channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.IDLE
            await asyncio.wait_for(channel.wait_for_state_change(grpc.ChannelConnectivity.IDLE), 10)
            assert channel.get_state() is grpc.ChannelConnectivity.READY
            await channel.channel_ready()
        async with verified_aio_channel(f"127.0.0.1:{free_port()}", policy) as channel:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(channel.channel_ready(), 0.5)

    asyncio.run(ask())
    assert replica.log == ["GetEvidence"]


def test_what_it_cannot_do_is_told_when_it_is_made(policy):
    async def make(target, **options):
        verified_aio_channel(target, policy, **options)

    with pytest.raises(InputError, match="REST"):
        asyncio.run(make("https://127.0.0.1:1"))
    with pytest.raises(InputError, match="interceptors"):
        asyncio.run(make("127.0.0.1:1", interceptors=[object()]))
