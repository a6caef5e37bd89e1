"""Models without an engine."""

from __future__ import annotations

import threading

import numpy as np

from sealserve.serving.engine import Signature, TensorSpec
from sealserve.wire.tensorflow_pb2 import DataType, SignatureDef, TensorInfo, TensorShapeProto


def definition(inputs, outputs, method="tensorflow/serving/predict"):
    """A signature. :param inputs: ``DataType`` by name; the shapes are unknown."""

    def infos(types):
        return {
            name: TensorInfo(name=f"{name}:0", dtype=kind, tensor_shape=TensorShapeProto(unknown_rank=True))
            for name, kind in types.items()
        }

    return SignatureDef(inputs=infos(inputs), outputs=infos(outputs), method_name=method)


class FakeModel:
    """Answers with ``answer(signature, inputs)``."""

    platform = "fake"

    def __init__(self, definitions, answer):
        self.signature_definitions = definitions
        self.signatures = {
            name: Signature(
                {key: TensorSpec(info.name, info.dtype, None) for key, info in one.inputs.items()},
                {key: TensorSpec(info.name, info.dtype, None) for key, info in one.outputs.items()},
                one.method_name,
            )
            for name, one in definitions.items()
        }
        self._answer = answer
        self.requests = []
        self.go = threading.Event()
        self.go.set()

    def predict(self, signature, inputs, output_filter=(), *, wanted=lambda: True):
        self.requests.append(inputs)
        self.go.wait(20)
        self.was_wanted = wanted()
        return self._answer(signature, inputs)

    def close(self):
        pass


TYPES = {
    "f": DataType.DT_FLOAT,
    "d": DataType.DT_DOUBLE,
    "i": DataType.DT_INT32,
    "l": DataType.DT_INT64,
    "b": DataType.DT_BOOL,
    "s": DataType.DT_STRING,
    "u": DataType.DT_UINT8,
}


class EchoModel(FakeModel):
    """``y = x`` for float32, and for other types under signatures of their own."""

    def __init__(self):
        definitions = {"serving_default": definition({"x": DataType.DT_FLOAT}, {"y": DataType.DT_FLOAT})}
        for name, kind in TYPES.items():
            definitions[name] = definition({"x": kind}, {"y": kind})
        definitions["two"] = definition(
            {"a": DataType.DT_FLOAT, "tag": DataType.DT_STRING}, {"a": DataType.DT_FLOAT, "tag": DataType.DT_STRING}
        )
        super().__init__(definitions, self._echo)

    @staticmethod
    def _echo(signature, inputs):
        if signature == "two":
            return dict(inputs)
        return {"y": np.array(inputs["x"])}
