"""What only asyncio has: many calls at once in one thread, and calls that are cancelled at any moment."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest
from client_parties import DIGEST, SECRET_INPUT, exchange

from sealserve.client import Client, ModelNotAcceptedError
from sealserve.client.aio import AsyncClient
from sealserve.client.with_grpcio import verified_channel
from sealserve.errors import InputError

INPUTS = {"images": SECRET_INPUT}


async def ask(client, count):
    inputs = [np.full((1, 5), n % 256, dtype=np.uint8) for n in range(count)]
    return await asyncio.gather(*(client.predict({"images": x}, model="classifier") for x in inputs))


def test_many_calls_at_once_share_few_connections(replica, second_replica, balance, policy):
    async def main():
        async with AsyncClient(balancer.target, policy, max_connections=4) as client:
            return await ask(client, 200)

    balancer = balance(replica.target, second_replica.target)
    answers = asyncio.run(main())
    assert [int(answer.outputs["scores"][0, 0]) for answer in answers] == [5 * n for n in range(200)]
    assert {answer.replica for answer in answers} == {"replica-1", "replica-2"}
    assert balancer.accepted <= 4


def test_a_cancelled_call_leaves_the_client_usable(start_good, policy):
    entered, release = threading.Semaphore(0), threading.Event()

    def predict(message, context):
        entered.release()
        release.wait(20)
        return replica.honest_predict(message, context)

    replica = start_good(predict=predict)

    async def main():
        async with AsyncClient(replica.target, policy, max_connections=2) as client:
            calls = [asyncio.create_task(client.predict(INPUTS, model="classifier")) for _ in range(5)]
            for _ in range(2):
                assert await asyncio.to_thread(entered.acquire, timeout=10)
            for call in calls:
                call.cancel()
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
            release.set()
            # Both slots are free again, and no answer of a cancelled call is taken for that of another.
            return await ask(client, 4)

    answers = asyncio.run(main())
    assert [int(answer.outputs["scores"][0, 0]) for answer in answers] == [0, 5, 10, 15]


@pytest.mark.parametrize("pause", [0, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016])
def test_cancelling_at_any_moment_leaks_nothing(pause, replica, policy):
    async def main():
        async with AsyncClient(replica.target, policy, max_connections=1) as client:
            for _ in range(3):
                call = asyncio.create_task(client.predict(INPUTS, model="classifier"))
                await asyncio.sleep(pause)
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)
            return await client.predict(INPUTS, model="classifier", timeout=10)

    assert asyncio.run(main()).replica == "replica-1"


def test_a_closed_client_is_closed(replica, policy):
    async def main():
        client = AsyncClient(replica.target, policy)
        await client.predict(INPUTS, model="classifier")
        await client.close()
        await client.predict(INPUTS, model="classifier")

    with pytest.raises(InputError, match="closed"):
        asyncio.run(main())
    assert replica.predicted == 1


# --- replicas that exchange their model: claims change on a live connection ---------------------------------------


@pytest.mark.usefixtures("both_clients")
def test_a_new_model_that_the_policy_lists_goes_on(replica, listed):
    with Client(replica.target, listed(DIGEST, bytes(32))) as client:
        assert client.predict(INPUTS, model="classifier").verified.claims.models[0].version == 3
        exchange(replica, 4, bytes(32))
        answer = client.predict(INPUTS, model="classifier")
        assert (answer.model_version, answer.verified.claims.models[0].version) == (4, 4)
        client.predict(INPUTS, model="classifier")
    # It asked again when it saw the new version, on the same connection, and once only.
    assert replica.log == ["GetEvidence", "Predict", "Predict", "GetEvidence", "Predict"]


@pytest.mark.usefixtures("both_clients")
def test_a_new_model_that_the_policy_does_not_list_ends_it(replica, listed):
    with Client(replica.target, listed(DIGEST)) as client:
        client.predict(INPUTS, model="classifier")
        exchange(replica, 4, bytes(32))
        for _ in range(2):
            with pytest.raises(ModelNotAcceptedError):
                client.predict(INPUTS, model="classifier")
    # The one that was under way when the model changed, and no other.
    assert replica.predicted == 2


@pytest.mark.usefixtures("both_clients")
def test_raw_calls_are_held_to_it_as_well(replica, listed):
    from client_parties import tensorflow_serving_pb2

    message = tensorflow_serving_pb2.PredictRequest(model_spec={"name": "classifier"})
    from sealserve.wire.tensors import from_numpy

    message.inputs["images"].CopyFrom(from_numpy(SECRET_INPUT))
    method = "/tensorflow.serving.PredictionService/Predict"
    with Client(replica.target, listed(DIGEST)) as client:
        assert client.call(method, message.SerializeToString()).status == 0
        exchange(replica, 4, bytes(32))
        with pytest.raises(ModelNotAcceptedError):
            client.call(method, message.SerializeToString())


def test_a_channel_is_held_to_it_as_well(replica, listed):
    with verified_channel(replica.target, listed(DIGEST)) as channel:
        assert channel.unary_unary("/tensorflow.serving.PredictionService/GetModelMetadata")(b"")
    assert replica.asked == 1
