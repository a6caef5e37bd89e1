"""tf.Examples as a model takes them: one tensor of strings, each a serialized Example.

Nothing here parses an Example: a batch of them has more features than a request may have fields, and takes many times
its size once parsed. The model's own operations read them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from sealserve.serving.engine import DEFAULT_SIGNATURE, Array, LoadedModel
from sealserve.serving.errors import RequestError
from sealserve.wire import tensorflow_serving_pb2
from sealserve.wire.tensorflow_pb2 import SignatureDef
from sealserve.wire.tensorflow_serving_serialized_pb2 import SerializedInput
from sealserve.wire.tensors import MAX_BYTES

_NAMES = {"float16": "half", "float32": "float", "float64": "double"}

Input = tensorflow_serving_pb2.Input | SerializedInput
"""A request's ``input``, with its Examples parsed or as they came."""

INPUTS = "inputs"
"""The one input of a signature that classifies or regresses."""


def serialized_examples(given: Input, *, max_bytes: int = MAX_BYTES) -> Array:
    """The Examples of a request as a vector of strings, the context's features under each one's own.

    :param max_bytes: of all strings together: each has the context once more.
    :raises RequestError: there is none, or they are larger.
    """
    if isinstance(given, tensorflow_serving_pb2.Input):
        given = SerializedInput.FromString(given.SerializeToString())
    context, examples = b"", given.example_list.examples
    if given.WhichOneof("kind") == "example_list_with_context":
        context, examples = given.example_list_with_context.context, given.example_list_with_context.examples
    if not examples:
        raise RequestError("Input is empty.")
    if context and merged_bytes(given) > max_bytes:
        raise RequestError(
            f"the context of {len(context)} bytes with each of {len(examples)} examples takes more than "
            f"{max_bytes} bytes"
        )
    # Two messages after each other are one with the fields of both; of a feature that is in both, the last counts.
    array = np.empty(len(examples), dtype=object)
    array[:] = [context + example for example in examples] if context else list(examples)
    return array


def merged_bytes(given: SerializedInput) -> int:
    """What the Examples take with the context in each; 0 without a context: then they take what they came with."""
    shared = len(given.example_list_with_context.context)
    examples = given.example_list_with_context.examples
    return shared * len(examples) + sum(map(len, examples)) if shared else 0


def find_signature(loaded: LoadedModel, name: str, missing: str) -> tuple[str, SignatureDef]:
    """A signature and its name.

    :param name: ``serving_default`` if empty.
    :param missing: what to say if there is none of that name, before the name.
    :raises RequestError: there is none.
    """
    name = name or DEFAULT_SIGNATURE
    definition = loaded.signature_definitions.get(name)
    if definition is None:
        raise RequestError(f"{missing}: {name}")
    return name, definition


def run(
    loaded: LoadedModel, signature: str, examples: Array, outputs: list[str], wanted: Callable[[], bool]
) -> Mapping[str, Array]:
    """The model's answer to Examples. :raises RequestError: the model cannot be run on them."""
    return loaded.predict(signature, {INPUTS: examples}, outputs, wanted=wanted)


def shape_text(array: Array) -> str:
    """A shape as TensorFlow writes it: ``[2,3]``."""
    return f"[{','.join(map(str, array.shape))}]"


def type_text(array: Array) -> str:
    """A type as TensorFlow writes it: ``DT_FLOAT``."""
    return f"DT_{'STRING' if array.dtype.kind in 'OSU' else _NAMES.get(array.dtype.name, array.dtype.name).upper()}"
