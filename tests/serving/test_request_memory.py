"""Small requests that ask for large inputs count with what they ask for."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from example_models import FunctionModel

from sealserve.models.saved_model import TensorSpec
from sealserve.serving.core import ModelServer
from sealserve.serving.limits import Limits
from sealserve.wire.tensorflow_pb2 import DataType
from sealserve.wire.tensorflow_serving_pb2 import PredictRequest, PredictResponse, RegressionResponse
from sealserve.wire.tensorflow_serving_serialized_pb2 import SerializedExamplesRequest

LIMITS = Limits(message_bytes=1 << 20, buffered_bytes=2 << 20)
PATH = "/tensorflow.serving.PredictionService/"


class Waiting:
    """A model that answers when it is told to."""

    def __init__(self):
        self.inside, self.leave = threading.Semaphore(0), threading.Event()
        floats = {"x": TensorSpec("x:0", DataType.DT_FLOAT, (-1,))}
        self.model = FunctionModel(
            {"fill": self._first, "regress": self._regress}, {"fill": ["y"], "regress": ["outputs"]}, {"fill": floats}
        )

    def _wait(self):
        self.inside.release()
        assert self.leave.wait(20)

    def _first(self, x):
        self._wait()
        return {"y": x[:1]}

    def _regress(self, inputs):
        self._wait()
        return {"outputs": np.array([len(one) for one in inputs], np.float32)}


def filled(elements=200_000):
    message = PredictRequest()
    message.model_spec.name, message.model_spec.signature_name = "m", "fill"
    tensor = message.inputs["x"]
    tensor.dtype = DataType.DT_FLOAT
    tensor.tensor_shape.dim.add(size=elements)
    tensor.float_val.append(1)
    return "Predict", message, PredictResponse


def merged(context=2000, examples=400):
    message = SerializedExamplesRequest()
    message.model_spec.name, message.model_spec.signature_name = "m", "regress"
    message.input.example_list_with_context.context = bytes(context)
    message.input.example_list_with_context.examples.extend([b""] * examples)
    return "Regress", message, RegressionResponse


@pytest.mark.parametrize("make", [filled, merged])
def test_only_as_many_are_in_work_as_there_is_memory_for(serve, make):
    waiting = Waiting()
    core = ModelServer()
    core.add_model("m", 1, waiting.model)
    connection = serve(core, limits=LIMITS)

    def ask(request):
        method, message, answer = request
        return connection.call(PATH + method, message, answer)

    with ThreadPoolExecutor(2) as callers:
        two = [callers.submit(ask, make()) for _ in range(2)]
        for _ in two:
            assert waiting.inside.acquire(timeout=20)
        with pytest.raises(grpc.RpcError) as info:
            ask(make())
        assert info.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        waiting.leave.set()
        for one in two:
            assert one.result()
    assert ask(make())


@pytest.mark.parametrize("request_", [filled(1 << 20), merged(2000, 1000), merged(1 << 18, 1000)])
def test_one_that_asks_for_more_than_any_may_have_is_malformed(serve, request_):
    core = ModelServer()
    core.add_model("m", 1, Waiting().model)
    connection = serve(core, limits=LIMITS)
    method, message, answer = request_
    with pytest.raises(grpc.RpcError) as info:
        connection.call(PATH + method, message, answer)
    assert info.value.code() == grpc.StatusCode.INVALID_ARGUMENT
