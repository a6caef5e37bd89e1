"""Models that take tf.Examples, without an engine: a function for each signature, from Examples to outputs."""

from __future__ import annotations

import numpy as np

from sealserve.models.saved_model import Signature, TensorSpec
from sealserve.serving.checks import check_inputs, select_outputs
from sealserve.serving.engine import always
from sealserve.serving.errors import SignatureNotFoundError
from sealserve.wire.tensorflow_pb2 import DataType, Example, SignatureDef


class FunctionModel:
    """A :class:`LoadedModel`; ``asked`` lists the signatures that ran.

    :param functions: by signature, from arrays to arrays by name.
    :param inputs: by signature, the inputs' types and shapes; ``inputs``, a vector of strings, for all others.
    :param outputs: by signature, the names of its outputs.
    """

    platform = "stub"

    def __init__(self, functions, outputs, inputs=None):
        one_string = {"inputs": TensorSpec("inputs:0", DataType.DT_STRING, (-1,))}
        self._functions = functions
        self.signatures = {
            name: Signature(
                (inputs or {}).get(name, one_string),
                {
                    output if isinstance(output, str) else output[0]: TensorSpec(
                        f"{output}:0", DataType.DT_FLOAT if isinstance(output, str) else output[1], None
                    )
                    for output in outputs[name]
                },
                "tensorflow/serving/predict",
            )
            for name in functions
        }
        self.signature_definitions = {name: _definition(one) for name, one in self.signatures.items()}
        self.asked = []

    def predict(self, signature, inputs, output_filter=(), *, wanted=always):
        if signature not in self.signatures:
            raise SignatureNotFoundError(f'Serving signature key "{signature}" not found.')
        names = select_outputs(self.signatures[signature], output_filter)
        check_inputs(self.signatures[signature], inputs)
        self.asked.append(signature)
        outputs = self._functions[signature](**inputs)
        return {name: outputs[name] for name in names}

    def close(self):
        pass


def _definition(signature):
    definition = SignatureDef(method_name=signature.method_name)
    for tensors, specs in ((definition.inputs, signature.inputs), (definition.outputs, signature.outputs)):
        for name, spec in specs.items():
            tensors[name].name, tensors[name].dtype = spec.name, spec.data_type
    return definition


def strings(*rows):
    """Labels as a model gives them: a matrix of ``bytes``."""
    array = np.empty((len(rows), len(rows[0])), dtype=object)
    array[:] = rows
    return array


def number_of(example):
    """The feature ``x`` of a serialized Example; -1 if it has none."""
    values = Example.FromString(example).features.feature["x"].float_list.value
    return values[0] if values else -1.0


def numbers(inputs):
    return np.array([number_of(one) for one in inputs], np.float32)


def sorting_model():
    """Classifies by the sign of ``x``, and regresses to twice ``x``."""

    def classify(inputs):
        x = numbers(inputs)
        return {"classes": strings(*[[b"minus", b"plus"]] * len(x)), "scores": np.stack([-x, x], axis=1)}

    def regress(inputs):
        return {"outputs": numbers(inputs) * 2}

    return FunctionModel(
        {"serving_default": classify, "classify": classify, "regress": regress},
        {
            "serving_default": ["classes", "scores"],
            "classify": ["classes", "scores"],
            "regress": ["outputs"],
        },
    )


def example(**features):
    """A float feature for each name."""
    made = Example()
    for name, value in features.items():
        made.features.feature[name].float_list.value.append(value)
    return made


def examples_input(message, *examples, context=None):
    """Fill a message's ``input``, TensorFlow's or ours."""
    if context is None:
        field = message.example_list
    else:
        field = message.example_list_with_context
        field.context.ParseFromString(context.SerializeToString())
    for one in examples:
        field.examples.add().ParseFromString(one.SerializeToString())
    return message


__all__ = ["FunctionModel", "example", "examples_input", "numbers", "sorting_model", "strings"]
