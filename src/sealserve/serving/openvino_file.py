"""Models of one file on OpenVINO: a version directory with ``model.onnx`` or ``model.tflite``.

An ONNX model has one signature, ``serving_default``, of the graph's own inputs and outputs. Weights must be in the
file: ONNX can refer to others by their names, which nobody would have verified. A TensorFlow Lite model has the first
of its signatures whose tensors are all there in OpenVINO's model, or else one of its tensors' names.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import openvino
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
from sealserve.models.saved_model import DEFAULT_SIGNATURE, SAVED_MODEL_FILE, Signature, TensorSpec
from sealserve.serving.model_files import ModelFiles, path_of
from sealserve.serving.openvino_types import data_type_of
from sealserve.serving.saved_model_files import TFLITE_FILE
from sealserve.serving.tflite_signatures import read_signatures
from sealserve.wire.tensorflow_pb2 import SignatureDef, TensorInfo, TensorShapeProto

_FAILURES = (GeneralFailure, InitializationFailure, NotImplementedFailure, OpConversionFailure, OpValidationFailure)
_METHOD = "tensorflow/serving/predict"


@dataclass(frozen=True)
class FileModel:
    """OpenVINO's model, not compiled yet, and its one signature.

    :ivar name: the signature's. :ivar inputs: names of OpenVINO's tensors, by the signature's; so ``outputs``.
    """

    model: Any
    name: str
    signature: Signature
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]

    def definition(self) -> SignatureDef:
        """The signature, for the model's metadata."""
        return SignatureDef(
            inputs={alias: _info(spec) for alias, spec in self.signature.inputs.items()},
            outputs={alias: _info(spec) for alias, spec in self.signature.outputs.items()},
            method_name=_METHOD,
        )


def model_file(files: ModelFiles) -> str | None:
    """The name of a version's only file, if it is a model of one."""
    return next((name for name in (ONNX_FILE, TFLITE_FILE) if name in files and SAVED_MODEL_FILE not in files), None)


def read_model_file(files: ModelFiles, name: str) -> FileModel:
    """Read a model of one file.

    :raises ModelError: it is malformed, or an input or output has no name or a type that TensorFlow does not have.
    :raises RuntimeError: OpenVINO cannot read it.
    """
    model = _convert(files[name], name)
    inputs, outputs = _by_name(model.inputs, name), _by_name(model.outputs, name)
    if not outputs:
        raise ModelError(f"OpenVINO finds no output in {name}", hint="Export the model again.")
    key = DEFAULT_SIGNATURE
    in_names, out_names = (
        {port.get_any_name(): port.get_any_name() for port in ports} for ports in (model.inputs, model.outputs)
    )
    if name == TFLITE_FILE:
        for found in _lite_signatures(files[name]):
            all_there = set(found.inputs.values()) <= inputs.keys() and set(found.outputs.values()) <= outputs.keys()
            if all_there and len(found.inputs) == len(model.inputs):
                key, in_names, out_names = found.name, dict(found.inputs), dict(found.outputs)
                break
    signature = Signature(
        {alias: _spec(inputs[tensor], tensor, name) for alias, tensor in sorted(in_names.items())},
        {alias: _spec(outputs[tensor], tensor, name) for alias, tensor in sorted(out_names.items())},
        _METHOD,
    )
    return FileModel(model, key, signature, in_names, out_names)


def _convert(file: BinaryIO, name: str) -> Any:
    frontend = FrontEndManager().load_by_framework(name.rpartition(".")[2])
    path: Any = path_of(file)
    if name == TFLITE_FILE:
        # OpenVINO 2026.4 takes these by a path that ends in .tflite and by nothing else. A file in memory has none, and
        # a link of that name would be one that somebody else can exchange (ADR 4). OpenVINO looks at all of the string,
        # and the system's call that opens it at what is before the zero.
        path = openvino.OVAny(f"{path}\0.tflite")
    try:
        return frontend.convert(frontend.load(path))
    except _FAILURES as error:
        raise RuntimeError(str(error)) from error


def _lite_signatures(file: BinaryIO) -> Any:
    with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as data:
        return read_signatures(data)


def _by_name(ports: Any, name: str) -> dict[str, Any]:
    """Ports by all of their names."""
    for port in ports:
        if not port.get_names():
            raise ModelError(f"an input or output of {name} has no name", hint="Export the model again.")
    return {one: port for port in ports for one in port.get_names()}


def _spec(port: Any, tensor: str, name: str) -> TensorSpec:
    shape, kind = port.get_partial_shape(), port.get_element_type()
    data_type = data_type_of(kind)
    if data_type is None:
        raise ModelError(
            f"{tensor} of {name} cannot be served: it is {kind.get_type_name()}",
            hint="Export the model again, with a cast to or from another type.",
        )
    sizes = None if shape.rank.is_dynamic else tuple(-1 if one.is_dynamic else one.get_length() for one in shape)
    return TensorSpec(tensor, data_type, sizes)


def _info(spec: TensorSpec) -> TensorInfo:
    shape = TensorShapeProto(unknown_rank=spec.shape is None)
    for size in spec.shape or ():
        shape.dim.add(size=size)
    return TensorInfo(name=spec.name, dtype=spec.data_type, tensor_shape=shape)  # type: ignore[arg-type]
