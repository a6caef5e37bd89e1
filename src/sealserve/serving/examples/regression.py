"""A number for each Example; after TensorFlow Serving's ``regressor.cc``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

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
from sealserve.wire.tensorflow_serving_pb2 import Regression, RegressionResponse, RegressionResult
from sealserve.wire.tensors import MAX_BYTES

METHOD_NAME = "tensorflow/serving/regress"

_OUTPUTS = "outputs"


def regress(
    core: ModelServer,
    choice: ModelChoice,
    given: Input,
    *,
    signature: str = "",
    wanted: Callable[[], bool] = always,
    max_bytes: int = MAX_BYTES,
) -> RegressionResponse:
    """A number for each Example; parameters and errors are those of :func:`classify`."""
    with core.use(choice) as (version, loaded):
        name, result = regress_with(loaded, given, signature=signature, wanted=wanted, max_bytes=max_bytes)
    return RegressionResponse(result=result, model_spec=model_spec(choice.name, version, name))


def regress_with(
    loaded: LoadedModel,
    given: Input,
    *,
    signature: str = "",
    wanted: Callable[[], bool] = always,
    max_bytes: int = MAX_BYTES,
) -> tuple[str, RegressionResult]:
    """The same with a model version: the signature's name, and the result."""
    name, definition = find_signature(loaded, signature, "No signature was found with the name")
    outputs = regression_outputs(definition)
    examples = serialized_examples(given, max_bytes=max_bytes)
    return name, regression_result(run(loaded, name, examples, outputs, wanted), len(examples))


def regression_outputs(definition: SignatureDef) -> list[str]:
    """The signature's one output. :raises RequestError: it does not regress."""
    if len(definition.inputs) != 1:
        raise RequestError("Expected one input Tensor.")
    if len(definition.outputs) != 1:
        raise RequestError("Expected one output Tensor.")
    if INPUTS not in definition.inputs:
        raise RequestError(f"No regression inputs found in SignatureDef: {definition}")
    if _OUTPUTS not in definition.outputs:
        raise RequestError(f"No regression outputs found in SignatureDef: {definition}")
    return [_OUTPUTS]


def regression_result(outputs: Mapping[str, Array], count: int) -> RegressionResult:
    """The result for ``count`` Examples. :raises RequestError: the output's type or shape is not that of one."""
    array = outputs[_OUTPUTS]
    if array.ndim != 1 and not (array.ndim == 2 and array.shape[1] == 1):
        raise RequestError(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got " + shape_text(array)
        )
    if array.shape[0] != count:
        raise RequestError(f"Input batch size did not match output batch size: {count} vs. {array.shape[0]}")
    if type_text(array) != "DT_FLOAT":
        raise RequestError(f"Expected output Tensor of DT_FLOAT.  Got: {type_text(array)}")
    return RegressionResult(regressions=[Regression(value=value) for value in array.ravel().tolist()])
