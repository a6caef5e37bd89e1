"""Several signatures of one model version on the same Examples; after TensorFlow Serving's ``multi_inference.cc``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from sealserve.serving.core import ModelServer
from sealserve.serving.engine import DEFAULT_SIGNATURE, Array, LoadedModel, RunsTogether, always
from sealserve.serving.errors import RequestError, UnsupportedError
from sealserve.serving.examples import classification, regression
from sealserve.serving.examples.input import INPUTS, find_signature, run, serialized_examples
from sealserve.serving.model_spec import model_choice
from sealserve.wire.tensorflow_serving_pb2 import (
    InferenceResult,
    InferenceTask,
    ModelSpec,
    MultiInferenceRequest,
    MultiInferenceResponse,
)
from sealserve.wire.tensorflow_serving_serialized_pb2 import SerializedMultiInferenceRequest
from sealserve.wire.tensors import MAX_BYTES

Request = MultiInferenceRequest | SerializedMultiInferenceRequest


class _Task(NamedTuple):
    model: str
    signature: str
    outputs: list[str]
    answer: Callable[[Mapping[str, Array], int], InferenceResult]


def multi_inference(
    core: ModelServer, request: Request, *, wanted: Callable[[], bool] = always, max_bytes: int = MAX_BYTES
) -> MultiInferenceResponse:
    """Classify and regress, with one version for all: the one that the first task names.

    Signatures that read the same tensor of the graph run together, where the engine can; others one after the other.

    :param max_bytes: see :func:`serialized_examples`.
    :raises RequestError: the model is not loaded, tasks are for several models or twice for one signature, a signature
        does not do what the task asks for, or the request does not fit it.
    """
    choice = model_choice(request.tasks[0].model_spec if request.tasks else ModelSpec())
    with core.use(choice) as (version, loaded):
        response = multi_inference_with(loaded, request, wanted=wanted, max_bytes=max_bytes)
    for result in response.results:
        result.model_spec.version.value = version
    return response


def multi_inference_with(
    loaded: LoadedModel, request: Request, *, wanted: Callable[[], bool] = always, max_bytes: int = MAX_BYTES
) -> MultiInferenceResponse:
    """The same with a model version; the answer does not say which."""
    tasks: list[_Task] = []
    for one in request.tasks:
        tasks.append(_check(loaded, one, tasks))
    examples = serialized_examples(request.input, max_bytes=max_bytes)
    response = MultiInferenceResponse()
    together = None
    if len(tasks) > 1 and isinstance(loaded, RunsTogether):
        together = loaded.predict_together(
            {task.signature: task.outputs for task in tasks}, {INPUTS: examples}, wanted=wanted
        )
    for task in tasks:
        if together is not None:
            outputs: Mapping[str, Array] = together[task.signature]
        else:
            outputs = run(loaded, task.signature, examples, task.outputs, wanted)
        result = response.results.add()
        result.CopyFrom(task.answer(outputs, len(examples)))
        result.model_spec.name, result.model_spec.signature_name = task.model, task.signature
    return response


def _check(loaded: LoadedModel, task: InferenceTask, before: Sequence[_Task]) -> _Task:
    model, name = task.model_spec.name, task.model_spec.signature_name or DEFAULT_SIGNATURE
    if not model:
        raise RequestError("Found ModelSpec with an empty model name.")
    if any(model != other.model for other in before):
        raise RequestError("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
    if any(name == other.signature for other in before):
        raise RequestError(f"Duplicate evaluation of signature: {name}")
    _, definition = find_signature(loaded, name, "Requested signature not found in model graph")
    match task.method_name:
        case classification.METHOD_NAME:
            return _Task(model, name, classification.classification_outputs(definition), _classified)
        case regression.METHOD_NAME:
            return _Task(model, name, regression.regression_outputs(definition), _regressed)
        case method:
            raise UnsupportedError(f"Unsupported signature method_name: {method}")


def _classified(outputs: Mapping[str, Array], count: int) -> InferenceResult:
    return InferenceResult(classification_result=classification.classification_result(outputs, count))


def _regressed(outputs: Mapping[str, Array], count: int) -> InferenceResult:
    return InferenceResult(regression_result=regression.regression_result(outputs, count))
