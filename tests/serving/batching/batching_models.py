"""A model in memory that says what it was asked, and can be held up."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np

from sealserve.models.saved_model import Signature, TensorSpec
from sealserve.serving.engine import always
from sealserve.serving.errors import RequestError
from sealserve.wire.tensorflow_pb2 import DataType

PREDICT = "tensorflow/serving/predict"


def spec(name, *shape):
    return TensorSpec(f"{name}:0", DataType.DT_FLOAT, shape)


class Doubling:
    """``y = 2 x``, ``z = 3 x``; a row that begins with a negative number is an error.

    :ivar runs: the inputs of each run.
    """

    platform = "openvino"
    signature_definitions: ClassVar = {}

    def __init__(self, *shape, answer=None, **outputs):
        shape = shape or (-1, -1)
        declared = {name: spec(name, *dims) for name, dims in (outputs or {"y": shape, "z": shape}).items()}
        self.signatures = {"serving_default": Signature({"x": spec("x", *shape)}, declared, PREDICT)}
        self.runs, self.closed, self._answer = [], 0, answer
        self.open = threading.Event()
        self.open.set()

    def predict(self, signature, inputs, output_filter=(), *, wanted=always):
        if signature not in self.signatures:
            raise RequestError("no such signature")
        x = inputs["x"]
        self.runs.append((x.copy(), wanted))
        assert self.open.wait(20)
        if x.size and np.any(x.reshape(x.shape[0] if x.ndim else 1, -1)[:, 0] < 0):
            raise RequestError(f"a negative number: {x.min()}")
        answer = self._answer(x) if self._answer else {"y": x * 2, "z": x * 3}
        return {name: answer[name] for name in (output_filter or answer)}

    def close(self):
        self.closed += 1


def rows(*numbers, width=1):
    return np.repeat(np.array(numbers, np.float32)[:, None], width, axis=1)


class Callers:
    """Requests at once, in threads of their own."""

    def __init__(self, model):
        self.model = model
        self._pool = ThreadPoolExecutor(64)

    def ask(self, x, output_filter=(), **settings):
        return self._pool.submit(self.model.predict, "serving_default", {"x": x}, output_filter, **settings)

    def hold(self, inner):
        """Keep the model busy with one request; returns its future."""
        inner.open.clear()
        first = self.ask(rows(0))
        until(lambda: inner.runs)
        return first

    def close(self):
        self._pool.shutdown(cancel_futures=True)


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)
