"""Classes and scores for each Example; after TensorFlow Serving's ``classifier.cc``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import repeat

from sealserve.serving.core import ModelChoice, ModelServer
from sealserve.serving.engine import Array, LoadedModel, always
from sealserve.serving.errors import RequestError
from sealserve.serving.examples.input import (
    INPUTS,
    Input,
    find_signature,
    run,
    serialized_examples,
    shape_text,
    type_text,
)
from sealserve.serving.model_spec import model_spec
from sealserve.wire.tensorflow_pb2 import SignatureDef
from sealserve.wire.tensorflow_serving_pb2 import Class, ClassificationResponse, ClassificationResult, Classifications
from sealserve.wire.tensors import MAX_BYTES

METHOD_NAME = "tensorflow/serving/classify"

_CLASSES, _SCORES = "classes", "scores"


def classify(
    core: ModelServer,
    choice: ModelChoice,
    given: Input,
    *,
    signature: str = "",
    wanted: Callable[[], bool] = always,
    max_bytes: int = MAX_BYTES,
) -> ClassificationResponse:
    """Classify Examples.

    :param signature: ``serving_default`` if empty.
    :param wanted: see :meth:`LoadedModel.predict`.
    :param max_bytes: see :func:`serialized_examples`.
    :raises RequestError: the model is not loaded, its signature does not classify, or the request does not fit it.
    """
    with core.use(choice) as (version, loaded):
        name, result = classify_with(loaded, given, signature=signature, wanted=wanted, max_bytes=max_bytes)
    return ClassificationResponse(result=result, model_spec=model_spec(choice.name, version, name))


def classify_with(
    loaded: LoadedModel,
    given: Input,
    *,
    signature: str = "",
    wanted: Callable[[], bool] = always,
    max_bytes: int = MAX_BYTES,
) -> tuple[str, ClassificationResult]:
    """The same with a model version: the signature's name, and the result."""
    name, definition = find_signature(loaded, signature, "No signature was found with the name")
    outputs = classification_outputs(definition)
    examples = serialized_examples(given, max_bytes=max_bytes)
    return name, classification_result(run(loaded, name, examples, outputs, wanted), len(examples))


def classification_outputs(definition: SignatureDef) -> list[str]:
    """Those of ``classes`` and ``scores`` that a signature has. :raises RequestError: it does not classify."""
    if len(definition.inputs) != 1:
        raise RequestError("Expected one input Tensor.")
    if len(definition.outputs) not in {1, 2}:
        raise RequestError(f"Expected one or two output Tensors, found {len(definition.outputs)}")
    if INPUTS not in definition.inputs:
        raise RequestError(f"No classification inputs found in SignatureDef: {definition}")
    outputs = [name for name in (_CLASSES, _SCORES) if name in definition.outputs]
    if not outputs:
        raise RequestError(
            "Expected classification signature outputs to contain at least one of "
            f'"{_CLASSES}" or "{_SCORES}". Signature was: {definition}'
        )
    return outputs


def classification_result(outputs: Mapping[str, Array], count: int) -> ClassificationResult:
    """The result for ``count`` Examples. :raises RequestError: the outputs' types or shapes are not those of one."""
    classes, scores = outputs.get(_CLASSES), outputs.get(_SCORES)
    if classes is not None:
        _check(classes, "classes", "DT_STRING", count)
    if scores is not None:
        _check(scores, "scores", "DT_FLOAT", count)
    if classes is not None and scores is not None and classes.shape[1] != scores.shape[1]:
        raise RequestError(
            f"Tensors class and score should match in dim_size(1). Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    labels = repeat(repeat("")) if classes is None else map(_texts, classes.tolist())
    values = repeat(repeat(0.0)) if scores is None else scores.tolist()
    return ClassificationResult(
        classifications=[
            Classifications(classes=[Class(label=label, score=score) for label, score in zip(*row, strict=False)])
            for row in zip(labels, values, strict=False)
        ]
    )


def _check(array: Array, name: str, dtype: str, count: int) -> None:
    if array.ndim != 2:
        raise RequestError(f"Expected Tensor shape: [batch_size num_classes] but got {shape_text(array)}")
    if type_text(array) != dtype:
        raise RequestError(f"Expected {name} Tensor of {dtype}. Got: {type_text(array)}")
    if array.shape[0] != count:
        raise RequestError(f"Expected {name} output batch size of {count}. Got: {array.shape[0]}")


def _texts(labels: list[bytes]) -> list[str]:
    try:
        return [label.decode() for label in labels]
    except UnicodeDecodeError as error:
        raise RequestError("a class that the model names is not UTF-8, which the answer's field has to be") from error
