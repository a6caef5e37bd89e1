"""The engine ``openvino``: SavedModels on OpenVINO, without TensorFlow.

OpenVINO computes in bfloat16 by itself where the CPU has it, which moves answers visibly; here float32 is the default.
"""

from __future__ import annotations

import logging

import openvino

from sealserve.errors import ModelError
from sealserve.logs import event, get_logger
from sealserve.models.saved_model import DEFAULT_SIGNATURE, SAVED_MODEL_FILE, Signature
from sealserve.serving.engine import LoadedModel
from sealserve.serving.frozen_graph import FrozenSignature, write_frozen_graph
from sealserve.serving.model_files import ModelFiles, memory_file, path_of, seal
from sealserve.serving.openvino_errors import USE_TENSORFLOW, explain_conversion_error
from sealserve.serving.openvino_limits import narrowed
from sealserve.serving.openvino_model import CompiledSignature, OpenVinoModel, require_same_type
from sealserve.serving.openvino_onnx import ONNX_FILE, read_onnx
from sealserve.serving.saved_model_files import definitions, parse, read
from sealserve.serving.variables import Variables
from sealserve.wire.tensorflow_pb2 import DataType, MetaGraphDef

_DEVICE = "CPU"

_log = get_logger(__name__)


class OpenVinoEngine:
    """Loads models with OpenVINO.

    :param precision: in which the model computes. With ``f32`` answers agree with TensorFlow's within 1e-4.
    :param threads: CPU threads for one request; all cores if not given.
    :param parallel_requests: how many requests may be in the engine at once; OpenVINO's own choice if not given.
    """

    name = "openvino"

    def __init__(
        self, *, precision: str = "f32", threads: int | None = None, parallel_requests: int | None = None
    ) -> None:
        self._core = openvino.Core()
        self._parallel_requests = parallel_requests
        self._properties: dict[str, str | int] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
        if threads is not None:
            self._properties["INFERENCE_NUM_THREADS"] = threads

    def load(self, files: ModelFiles) -> LoadedModel:
        """Load one version; see :meth:`Engine.load`.

        A signature other than the first that OpenVINO cannot run does not stop the others: asking for it gives its
        reason. The first is ``serving_default``, where the model has it.
        """
        if ONNX_FILE in files and SAVED_MODEL_FILE not in files:
            return self._load_onnx(files)
        meta_graph, signatures = parse(read(files))
        variables = Variables(meta_graph.graph_def, files)
        compiled: dict[str, CompiledSignature] = {}
        refused: dict[str, ModelError] = {}
        names = sorted(signatures, key=lambda name: (name != DEFAULT_SIGNATURE, name))
        for name in names:
            try:
                compiled[name] = self._compile(meta_graph, name, signatures[name], variables)
            except ModelError as error:
                if name == names[0]:
                    raise
                event(_log, logging.WARNING, "signature-not-usable", signature=name, reason=error)
                refused[name] = error
        return OpenVinoModel(compiled, refused, definitions(meta_graph))

    def _load_onnx(self, files: ModelFiles) -> LoadedModel:
        try:
            model, signature, definition = read_onnx(files)
            compiled = self._core.compile_model(model, _DEVICE, self._properties)
            names = {alias: alias for alias in (*signature.inputs, *signature.outputs)}
            one = CompiledSignature(
                compiled,
                DEFAULT_SIGNATURE,
                signature,
                inputs=names,
                outputs=names,
                parallel=self._parallel_requests,
            )
        except (RuntimeError, ValueError, TypeError) as error:
            raise explain_conversion_error(error, DEFAULT_SIGNATURE, hint="Export the ONNX model again.") from error
        return OpenVinoModel({DEFAULT_SIGNATURE: one}, {}, {DEFAULT_SIGNATURE: definition})

    def _compile(
        self, meta_graph: MetaGraphDef, name: str, signature: Signature, variables: Variables
    ) -> CompiledSignature:
        with memory_file("graph") as file:
            tensors = write_frozen_graph(meta_graph, name, variables, file)
            seal(file)
            try:
                model = self._core.read_model(path_of(file))
                _refuse_casts(model, name, signature, tensors)
                compiled = self._core.compile_model(model, _DEVICE, self._properties)
                # Not before: a conversion that fails names the operations, which says more.
                _refuse_strings(name, signature)
                if narrow := narrowed(signature):
                    event(_log, logging.WARNING, "computed-in-narrower-types", signature=name, tensors=narrow)
                return CompiledSignature(
                    compiled,
                    name,
                    signature,
                    inputs=tensors.inputs,
                    outputs=tensors.outputs,
                    parallel=self._parallel_requests,
                )
            except (RuntimeError, ValueError, TypeError) as error:
                raise explain_conversion_error(error, name) from error


def _refuse_casts(model: openvino.Model, name: str, signature: Signature, tensors: FrozenSignature) -> None:
    """The frozen graph casts outputs to the types that the signature says; the graph must have them already."""
    for alias, tensor in tensors.outputs.items():
        for port in model.outputs:
            cast = port.get_node().input_value(0).get_node()
            if tensor not in port.get_names() or cast.get_type_name() != "Convert":
                continue
            if cast.input_value(0).get_element_type() != openvino.Type.dynamic:
                require_same_type(cast.input_value(0), signature.outputs[alias], alias, name)


def _refuse_strings(name: str, signature: Signature) -> None:
    for alias, spec in (*signature.inputs.items(), *signature.outputs.items()):
        if spec.data_type == DataType.DT_STRING:
            raise ModelError(
                f"OpenVINO cannot run the signature {name}: {alias} is a string tensor",
                hint=f"{USE_TENSORFLOW}; or export a signature of numbers, and turn strings into them in the client.",
            )
