"""Batches through the engine and the server, from many callers at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from serving_models import load

from sealserve.serving.batching import BatchingModel, BatchingParameters
from sealserve.serving.core import ModelServer
from sealserve.wire import tensorflow_serving_pb2 as serving_pb2
from sealserve.wire.tensors import from_numpy, to_numpy


def test_callers_at_once_get_their_own_answers_in_fewer_runs(engine, half_plus_two, serve):
    loaded, runs = load(engine, half_plus_two), []
    predict = loaded.predict
    loaded.predict = lambda signature, inputs, *args, **settings: (
        runs.append(len(inputs["x"])) or predict(signature, inputs, *args, **settings)
    )
    parameters = BatchingParameters(16, 2000, num_batch_threads=1, allowed_batch_sizes=(4, 16))
    core = ModelServer()
    core.add_model("half", 1, BatchingModel(loaded, parameters))
    connection = serve(core)

    def ask(number):
        x = np.full(1 + number % 3, number, np.float32)
        request = serving_pb2.PredictRequest(inputs={"x": from_numpy(x)})
        request.model_spec.name = "half"
        return np.array_equal(to_numpy(connection.predict(request).outputs["y"]), x / 2 + 2)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(200)))
    assert set(runs) <= {4, 16}
    assert len(runs) < 200
