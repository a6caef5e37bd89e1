"""The engine ``openvino``: SavedModels on OpenVINO, without TensorFlow.

OpenVINO computes in bfloat16 by itself where the CPU has it, which moves answers visibly; here float32 is the default.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Literal

import openvino

from sealserve.errors import ModelError
from sealserve.logs import event, get_logger
from sealserve.models.saved_model import DEFAULT_SIGNATURE, SAVED_MODEL_FILE, Signature, parse_saved_model
from sealserve.serving.engine import LoadedModel
from sealserve.serving.frozen_graph import FrozenSignature, write_frozen_graph
from sealserve.serving.model_files import ModelFiles, memory_file, path_of, seal
from sealserve.serving.openvino_errors import explain_conversion_error
from sealserve.serving.openvino_limits import narrowed
from sealserve.serving.openvino_model import CompiledSignature, OpenVinoModel, require_same_type
from sealserve.serving.variables import Variables
from sealserve.wire.tensorflow_pb2 import DataType, MetaGraphDef, SignatureDef

Precision = Literal["f32", "bf16", "f16"]

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
        self, *, precision: Precision = "f32", threads: int | None = None, parallel_requests: int | None = None
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
        meta_graph, signatures = _read(files)
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
        return OpenVinoModel(compiled, refused, _definitions(meta_graph))

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


def _read(files: ModelFiles) -> tuple[MetaGraphDef, Mapping[str, Signature]]:
    if SAVED_MODEL_FILE not in files:
        raise ModelError(
            f"the model is no SavedModel: it has no {SAVED_MODEL_FILE}",
            hint="A model version is a directory that TensorFlow's `tf.saved_model.save` or Keras's `export` wrote.",
        )
    file = files[SAVED_MODEL_FILE]
    file.seek(0)
    return parse_saved_model(file.read(), "the model version")


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
                hint="The model needs an engine with TensorFlow's own operations, such as TensorFlow Serving; "
                "or export a signature of numbers, and turn strings into them in the client.",
            )


def _definitions(meta_graph: MetaGraphDef) -> dict[str, SignatureDef]:
    """Copies: a reference into the message would keep the whole graph, weights and all, in memory."""
    definitions = {}
    for name, definition in meta_graph.signature_def.items():
        definitions[name] = SignatureDef()
        definitions[name].CopyFrom(definition)
    return definitions
