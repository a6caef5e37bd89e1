"""Does a request fit a signature? Asked before an engine sees it, because engines convert types and shapes silently.

The messages are those of TensorFlow Serving (``tensorflow_serving/servables/tensorflow/predict_util.cc``) and, for
types, of TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sealserve.errors import ModelError
from sealserve.serving.engine import Array, Signature, TensorSpec
from sealserve.serving.errors import RequestError
from sealserve.wire.tensors import TensorError, numpy_type, tensor_type, type_name


def require_known_types(name: str, signature: Signature) -> None:
    """:raises ModelError: a signature has a tensor of a type that no request can have."""
    for alias, spec in (*signature.inputs.items(), *signature.outputs.items()):
        try:
            numpy_type(spec.data_type)
        except TensorError as error:
            raise ModelError(
                f"the signature {name} cannot be served: {alias}: {error.message}",
                hint="Export a signature that casts it, such as from int8 or to float.",
            ) from error


def check_inputs(signature: Signature, inputs: Mapping[str, Array]) -> None:
    """:raises RequestError: inputs are missing or superfluous, or one has another type or shape than declared."""
    if len(inputs) != len(signature.inputs):
        given, declared = set(inputs), set(signature.inputs)
        raise RequestError(
            f"input size does not match signature: {len(given)}!={len(declared)} "
            f"len({_names(given)}) != len({_names(declared)}). "
            f"Sent extra: {_names(given - declared)}. Missing but required: {_names(declared - given)}."
        )
    if all(name in signature.inputs and _fits(signature.inputs[name], array) for name, array in inputs.items()):
        return
    for name in inputs:
        if name not in signature.inputs:
            raise RequestError(
                f"input tensor alias not found in signature: {name}. "
                f"Inputs expected to be in the set {_names(signature.inputs)}."
            )
    for index, name in enumerate(sorted(inputs)):
        _check_type(index, name, signature.inputs[name], inputs[name])
        _check_shape(name, signature.inputs[name], inputs[name])


def select_outputs(signature: Signature, output_filter: Sequence[str]) -> list[str]:
    """The outputs to give, in the order asked for; all if ``output_filter`` is empty.

    :raises RequestError: a name is unknown or comes twice.
    """
    seen: set[str] = set()
    for name in output_filter:
        if name not in signature.outputs:
            raise RequestError(
                f"output tensor alias not found in signature: {name} "
                f"Outputs expected to be in the set {_names(signature.outputs)}."
            )
        if name in seen:
            raise RequestError(f"duplicate output tensor alias: {name}")
        seen.add(name)
    return list(output_filter) or list(signature.outputs)


def _fits(spec: TensorSpec, array: Array) -> bool:
    """Whether there is nothing to complain of: of every request, so it is quick."""
    try:
        if tensor_type(array.dtype) != spec.data_type:
            return False
    except TensorError:
        return False
    return spec.shape is None or _has_shape(spec.shape, array.shape)


def _has_shape(declared: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    if len(declared) != len(shape):
        return False
    for one, size in zip(declared, shape, strict=True):  # noqa: SIM110 - a third of the time of all() takes
        if one not in (-1, size):
            return False
    return True


def _check_type(index: int, name: str, spec: TensorSpec, array: Array) -> None:
    try:
        given = tensor_type(array.dtype)
    except TensorError as error:
        raise RequestError(f"input {name}: {error.message}") from error
    if given != spec.data_type:
        raise RequestError(
            f"Expects arg[{index}] to be {spec.dtype} but {type_name(given)} is provided (input {name})",
            hint=f"Send {name} as {spec}.",
        )


def _check_shape(name: str, spec: TensorSpec, array: Array) -> None:
    if spec.shape is not None and not _has_shape(spec.shape, array.shape):
        raise RequestError(
            f"Incompatible shape for input {name}: the signature declares {spec}, "
            f"but a tensor of shape {list(array.shape)} is provided"
        )


def _names(names: Iterable[str]) -> str:
    return f"{{{','.join(sorted(names))}}}"
