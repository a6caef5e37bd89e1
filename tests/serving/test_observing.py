"""Whoever counts requests is told of each, with its status; names that callers make up are not told."""

from __future__ import annotations

import grpc
import pytest
from example_models import example, examples_input, sorting_model

from sealserve.serving.core import ModelServer
from sealserve.serving.observing import observed
from sealserve.wire.tensorflow_serving_pb2 import (
    ClassificationRequest,
    ClassificationResponse,
    MultiInferenceRequest,
    MultiInferenceResponse,
    PredictRequest,
    PredictResponse,
    RegressionRequest,
    RegressionResponse,
)

PATH = "/tensorflow.serving.PredictionService/"


class Seen:
    def __init__(self):
        self.requests = []

    def request(self, model, method, api, status, seconds):
        assert seconds >= 0
        self.requests.append((model, method, api, status))


@pytest.fixture
def core():
    core = ModelServer()
    core.add_model("sort", 1, sorting_model())
    core.observer = Seen()
    return core


def test_each_method_is_told_with_its_status(core, serve):
    connection = serve(core)
    classify, regress, multi = ClassificationRequest(), RegressionRequest(), MultiInferenceRequest()
    for message in (classify, regress):
        message.model_spec.name = "sort"
        examples_input(message.input, example(x=1))
    regress.model_spec.signature_name = "regress"
    task = multi.tasks.add(method_name="tensorflow/serving/classify")
    task.model_spec.name = "sort"
    multi.input.CopyFrom(classify.input)
    connection.call(PATH + "Classify", classify, ClassificationResponse)
    connection.call(PATH + "Regress", regress, RegressionResponse)
    connection.call(PATH + "MultiInference", multi, MultiInferenceResponse)
    predict = PredictRequest()
    for name in ("sort", "a stranger's"):
        predict.model_spec.name = name
        with pytest.raises(grpc.RpcError):
            connection.call(PATH + "Predict", predict, PredictResponse)
    assert core.observer.requests == [
        ("sort", "Classify", "GRPC", "OK"),
        ("sort", "Regress", "GRPC", "OK"),
        ("sort", "MultiInference", "GRPC", "OK"),
        ("sort", "Predict", "GRPC", "INVALID_ARGUMENT"),
        ("", "Predict", "GRPC", "NOT_FOUND"),
    ]


def test_what_nobody_foresaw_is_internal(core):
    with pytest.raises(ZeroDivisionError), observed(core, "sort", "Predict", "REST"):
        raise ZeroDivisionError
    assert core.observer.requests == [("sort", "Predict", "REST", "INTERNAL")]


def test_a_server_without_an_observer_works():
    with observed(ModelServer(), "sort", "Predict"):
        pass
