"""``ModelInfer`` on the data plane."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sealserve.serving.core import ModelChoice, ModelServer
from sealserve.serving.engine import DEFAULT_SIGNATURE, Array, LoadedModel, TensorSpec, always
from sealserve.serving.errors import RequestError, UnsupportedError
from sealserve.serving.open_inference.contents import read_contents, write_contents
from sealserve.serving.open_inference.datatypes import require_name
from sealserve.serving.open_inference.raw import Raw, read_raw, write_raw
from sealserve.wire.bfloat16 import BFLOAT16, widen
from sealserve.wire.open_inference_pb2 import InferParameter, ModelInferRequest, ModelInferResponse
from sealserve.wire.tensorflow_pb2 import DataType
from sealserve.wire.tensors import TensorError, tensor_type

SIGNATURE_PARAMETER = "signature_name"
"""The parameter of a request that names the model's signature; the protocol itself knows of one only."""

_MOST_NAME = 1024  # characters of a model's name or version: errors repeat them

# What would change the answer's meaning. Other parameters are hints, such as priorities, or REST's own.
_REFUSED = ("shared_memory_", "sequence_", "classification")

# Datatypes of which an array is no view of the raw contents, and how many times their size reading takes at most. Many
# short strings take more, but there are at most 100,000.
_COPIED = {"BOOL": 1, "BYTES": 2}


_ALWAYS_RAW = frozenset({"FP16", "BF16"})  # the protocol has no field for them


def model_choice(name: str, version: str) -> ModelChoice:
    """Which model a request is for.

    :param version: a number; empty for the highest; anything else is a label.
    :raises RequestError: name or version have more than 1024 characters.
    """
    if max(len(name), len(version)) > _MOST_NAME:
        raise RequestError(f"the model's name or version has more than {_MOST_NAME} characters")
    if not version:
        return ModelChoice(name)
    if version.isascii() and version.isdigit():
        # As many digits as TensorFlow Serving's versions have (int64); Python refuses to read very long numbers.
        return ModelChoice(name, version=int(version)) if len(version) < 20 else ModelChoice(name, label=version)
    return ModelChoice(name, label=version)


def infer(
    core: ModelServer,
    request: ModelInferRequest,
    raw: Sequence[Raw] | None = None,
    *,
    take: Callable[[int], None] | None = None,
    wanted: Callable[[], bool] = always,
) -> ModelInferResponse:
    """Answer one request.

    Answers have raw contents if the request has them, or if one of the outputs is FP16 or BF16, for which the protocol
    has no other; and typed ones otherwise. The parameter ``signature_name`` chooses the model's signature. Parameters
    that ask for shared memory, sequences or classification are refused; others are ignored.

    :param raw: in place of the request's ``raw_input_contents``, for who has them elsewhere.
    :param take: told of bytes before they are copied; may refuse them.
    :param wanted: see :meth:`LoadedModel.predict`.
    :raises RequestError: the model is not loaded, or the request does not fit it.
    """
    choice = model_choice(request.model_name, request.model_version)
    with core.use(choice) as (version, loaded):
        signature = find_signature(loaded, _signature_of(request.parameters))
        contents = request.raw_input_contents if raw is None else raw
        declared = loaded.signatures.get(signature)
        inputs = _read_inputs(request, contents, take)
        for name, array in inputs.items():
            # A model of FP32 holds every value of BF16.
            if array.dtype == BFLOAT16 and declared is not None and _is_float(declared.inputs.get(name)):
                if take is not None:
                    take(2 * array.nbytes)
                inputs[name] = widen(array)
        if not inputs and declared is not None and declared.inputs:
            raise RequestError(f"the request has no inputs; the signature has {', '.join(sorted(declared.inputs))}")
        for output in request.outputs:
            _refuse(output.parameters)
        outputs = loaded.predict(signature, inputs, [output.name for output in request.outputs], wanted=wanted)
    response = ModelInferResponse(model_name=choice.name, model_version=str(version), id=request.id)
    _write_outputs(response, outputs, raw=bool(contents))
    return response


def find_signature(loaded: LoadedModel, name: str = "") -> str:
    """The signature of that name; if it is empty, ``serving_default``, or the only one that the model has."""
    if name or DEFAULT_SIGNATURE in loaded.signature_definitions or len(loaded.signatures) != 1:
        return name or DEFAULT_SIGNATURE
    return next(iter(loaded.signatures))


def _signature_of(parameters: Mapping[str, InferParameter]) -> str:
    _refuse(parameters)
    if SIGNATURE_PARAMETER not in parameters:
        return ""
    parameter = parameters[SIGNATURE_PARAMETER]
    if parameter.WhichOneof("parameter_choice") != "string_param":
        raise RequestError(f"the parameter {SIGNATURE_PARAMETER} is no string")
    return parameter.string_param


def _refuse(parameters: Mapping[str, InferParameter]) -> None:
    for name in parameters:
        if name.startswith(_REFUSED):
            raise UnsupportedError(f"the parameter {name[:80]} is not supported")


def _read_inputs(
    request: ModelInferRequest, raw: Sequence[Raw], take: Callable[[int], None] | None
) -> dict[str, Array]:
    if raw and len(raw) != len(request.inputs):
        raise RequestError(
            f"raw_input_contents has {len(raw)} entries for {len(request.inputs)} inputs: it needs one for each"
        )
    inputs: dict[str, Array] = {}
    for index, given in enumerate(request.inputs):
        name = given.name
        if name in inputs:
            raise RequestError(f"the input {name} is there twice")
        _refuse(given.parameters)
        if not raw:
            inputs[name] = read_contents(given.datatype, given.shape, given.contents, tensor=name)
        elif given.HasField("contents"):
            raise RequestError(f"input {name} has contents, and the request raw_input_contents: use one of them")
        else:
            if take is not None and given.datatype in _COPIED:
                take(_COPIED[given.datatype] * len(raw[index]))
            inputs[name] = _aligned(read_raw(given.datatype, given.shape, raw[index], tensor=name), take)
    return inputs


def _is_float(spec: TensorSpec | None) -> bool:
    return spec is not None and spec.data_type == DataType.DT_FLOAT


def _aligned(array: Array, take: Callable[[int], None] | None) -> Array:
    """Within a body, an array may begin anywhere; engines read aligned ones."""
    if array.flags.aligned:
        return array
    if take is not None:
        take(array.nbytes)
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def _write_outputs(response: ModelInferResponse, outputs: Mapping[str, Array], *, raw: bool) -> None:
    names = {name: _datatype_of(array, name) for name, array in outputs.items()}
    raw = raw or not _ALWAYS_RAW.isdisjoint(names.values())
    for name, array in outputs.items():
        response.outputs.add(name=name, datatype=names[name], shape=array.shape)
        if raw:
            response.raw_output_contents.append(write_raw(array))
        else:
            response.outputs[-1].contents.CopyFrom(write_contents(array, names[name]))


def _datatype_of(array: Array, tensor: str) -> str:
    try:
        return require_name(tensor_type(array.dtype), tensor)
    except TensorError as error:
        raise RequestError(f"output {tensor}: {error.message}") from error
