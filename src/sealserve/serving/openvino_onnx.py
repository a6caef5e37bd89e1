"""ONNX models on OpenVINO: a version directory with ``model.onnx``.

Such a model has one signature, ``serving_default``, of the graph's own inputs and outputs. Weights must be in the file:
ONNX can refer to others by their names, which nobody would have verified. TensorFlow Lite models are not read:
OpenVINO 2026.4 takes them by a path that ends in ``.tflite`` only, and a file in memory has none (ADR 51).
"""

from __future__ import annotations

from typing import Any

from openvino.frontend import (
    FrontEndManager,
    GeneralFailure,
    InitializationFailure,
    NotImplementedFailure,
    OpConversionFailure,
    OpValidationFailure,
)

from sealserve.errors import ModelError
from sealserve.models.onnx_file import ONNX_FILE
from sealserve.models.saved_model import Signature, TensorSpec
from sealserve.serving.model_files import ModelFiles, path_of
from sealserve.wire.tensorflow_pb2 import SignatureDef, TensorInfo, TensorShapeProto
from sealserve.wire.tensors import TensorError, tensor_type

_FAILURES = (GeneralFailure, InitializationFailure, NotImplementedFailure, OpConversionFailure, OpValidationFailure)
_METHOD = "tensorflow/serving/predict"


def read_onnx(files: ModelFiles) -> tuple[Any, Signature, SignatureDef]:
    """OpenVINO's model, not compiled yet, and its signature, twice.

    :raises ModelError: an input or output has no name, or a type that TensorFlow does not have.
    :raises RuntimeError: OpenVINO cannot read it.
    """
    frontend = FrontEndManager().load_by_framework("onnx")
    try:
        model = frontend.convert(frontend.load(path_of(files[ONNX_FILE])))
    except _FAILURES as error:
        raise RuntimeError(str(error)) from error
    signature = Signature(_specs(model.inputs), _specs(model.outputs), _METHOD)
    if not signature.outputs:
        raise ModelError(f"OpenVINO finds no output in {ONNX_FILE}", hint="Export the ONNX model again.")
    definition = SignatureDef(
        inputs={alias: _info(spec) for alias, spec in signature.inputs.items()},
        outputs={alias: _info(spec) for alias, spec in signature.outputs.items()},
        method_name=_METHOD,
    )
    return model, signature, definition


def _specs(ports: Any) -> dict[str, TensorSpec]:
    specs = {}
    for port in ports:
        if not port.get_names():
            raise ModelError(f"an input or output of {ONNX_FILE} has no name", hint="Export the model again.")
        name, shape, kind = port.get_any_name(), port.get_partial_shape(), port.get_element_type()
        try:
            data_type = tensor_type(kind.to_dtype())
        except (TensorError, TypeError, RuntimeError) as error:
            raise ModelError(f"{name} of {ONNX_FILE} cannot be served: {error}") from error
        sizes = None if shape.rank.is_dynamic else tuple(-1 if one.is_dynamic else one.get_length() for one in shape)
        specs[name] = TensorSpec(name, data_type, sizes)
    return dict(sorted(specs.items()))


def _info(spec: TensorSpec) -> TensorInfo:
    shape = TensorShapeProto(unknown_rank=spec.shape is None)
    for size in spec.shape or ():
        shape.dim.add(size=size)
    return TensorInfo(name=spec.name, dtype=spec.data_type, tensor_shape=shape)  # type: ignore[arg-type]
