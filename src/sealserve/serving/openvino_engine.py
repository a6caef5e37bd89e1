"""The engine ``openvino``: SavedModels on OpenVINO, without TensorFlow.

OpenVINO computes in bfloat16 by itself where the CPU has it, which moves answers visibly; here float32 is the default.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import openvino

from sealserve.errors import ModelError
from sealserve.logs import event, get_logger
from sealserve.models.saved_model import DEFAULT_SIGNATURE, SAVED_MODEL_FILE, Signature
from sealserve.serving.checks import require_known_types
from sealserve.serving.engine import LoadedModel
from sealserve.serving.frozen_graph import FrozenGraph, freeze
from sealserve.serving.heap import give_back
from sealserve.serving.model_files import MemoryFiles, ModelFiles
from sealserve.serving.openvino_errors import USE_TENSORFLOW, explain_conversion_error
from sealserve.serving.openvino_file import model_file, read_model_file
from sealserve.serving.openvino_graph import is_light, read_graph
from sealserve.serving.openvino_limits import narrowed
from sealserve.serving.openvino_model import CompiledSignature, OpenVinoModel, Requests, require_same_type
from sealserve.serving.same_graph import Descriptions
from sealserve.serving.saved_model_files import definitions, parse, read
from sealserve.serving.string_signature import Runs, StringSignature
from sealserve.serving.weights import Weights
from sealserve.wire.tensorflow_pb2 import DataType

_DEVICE = "CPU"
_THREADS = "INFERENCE_NUM_THREADS"

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
        self._properties: dict[str, str | int] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
            # A request's thread would move to OpenVINO's core for each run, and wait for whoever is there, such as
            # gRPC's threads and those of another model.
            "ENABLE_CPU_PINNING": False,
        }
        if threads is not None:
            self._properties[_THREADS] = threads

    def load(self, files: ModelFiles) -> LoadedModel:
        """Load one version; see :meth:`Engine.load`.

        A signature other than the first that OpenVINO cannot run does not stop the others: asking for it gives its
        reason. The first is ``serving_default``, where the model has it.
        """
        if (name := model_file(files)) is not None:
            return self._load_file(files, name)
        meta_graph, signatures = parse(read(files))
        values = Weights(meta_graph.graph_def, files)
        frozen: dict[str, FrozenGraph] = {}
        refused: dict[str, ModelError] = {}
        names = sorted(signatures, key=lambda name: (name != DEFAULT_SIGNATURE, name))

        def refuse(name: str, error: ModelError) -> None:
            if name == names[0]:
                raise error
            event(_log, logging.WARNING, "signature-not-usable", signature=name, reason=error)
            refused[name] = error

        for name in names:
            try:
                require_known_types(name, signatures[name])
                frozen[name] = freeze(meta_graph, name, values)
            except ModelError as error:
                refuse(name, error)
        signature_definitions = definitions(meta_graph)
        # Memory that OpenVINO can have now.
        del meta_graph, values
        if isinstance(files, MemoryFiles):
            files.let_go((SAVED_MODEL_FILE, "variables/"))
        compiled: dict[str, Runs] = {}
        graphs = _Graphs(self._compile)
        for name in [name for name in names if name in frozen]:
            try:
                compiled[name] = graphs.signature(name, signatures[name], frozen.pop(name))
            except ModelError as error:
                refuse(name, error)
        give_back()
        return OpenVinoModel(compiled, refused, signature_definitions)

    def _load_file(self, files: ModelFiles, name: str) -> LoadedModel:
        try:
            read = read_model_file(files, name)
            compiled = self._core.compile_model(read.model, _DEVICE, self._properties)
            requests = Requests(compiled, self._parallel_requests)
            one = CompiledSignature(requests, read.name, read.signature, inputs=read.inputs, outputs=read.outputs)
        except (RuntimeError, ValueError, TypeError) as error:
            raise explain_conversion_error(error, DEFAULT_SIGNATURE, hint="Export the model again.") from error
        return OpenVinoModel({read.name: one}, {}, {read.name: read.definition()})

    def _compile(self, name: str, frozen: FrozenGraph) -> Requests:
        try:
            model = read_graph(self._core, frozen, name)
            _refuse_casts(model, name, frozen)
            compiled = self._core.compile_model(model, _DEVICE, self._properties)
            # Not before: a conversion that fails names the operations, which says more.
            _refuse_strings(name, frozen.signature)
            light = None
            if is_light(model) and self._properties.get(_THREADS) != 1:
                light = self._core.compile_model(model, _DEVICE, {**self._properties, _THREADS: 1})
            return Requests(compiled, self._parallel_requests, light=light)
        except (RuntimeError, ValueError, TypeError) as error:
            raise explain_conversion_error(error, name) from error


class _Graphs:
    """The graphs of one model: signatures that compute the same have one together."""

    def __init__(self, compile_graph: Callable[[str, FrozenGraph], Requests]) -> None:
        self._compile = compile_graph
        self._descriptions = Descriptions()
        self._known: dict[bytes, tuple[Requests, tuple[str, ...], tuple[str, ...]]] = {}

    def signature(self, name: str, signature: Signature, frozen: FrozenGraph) -> Runs:
        """Compile a signature, or find what it is the same as. :raises ModelError: OpenVINO cannot run it."""
        same = self._descriptions.describe(frozen)
        order = tuple(frozen.inputs) if same is None else same.inputs
        if same is not None and same.digest in self._known:
            requests, inputs, outputs = self._known[same.digest]
        else:
            inputs, outputs = tuple(frozen.inputs[alias] for alias in order), tuple(frozen.outputs.values())
            requests = self._compile(name, frozen)
            if same is not None:
                self._known[same.digest] = requests, inputs, outputs
        if narrow := narrowed(frozen.signature):
            event(_log, logging.WARNING, "computed-in-narrower-types", signature=name, tensors=narrow)
        plain = CompiledSignature(
            requests,
            name,
            frozen.signature,
            inputs=dict(zip(order, inputs, strict=True)),
            outputs=dict(zip(frozen.outputs, outputs, strict=True)),
        )
        return plain if frozen.strings is None else StringSignature(signature, plain, frozen.strings)


def _refuse_casts(model: openvino.Model, name: str, frozen: FrozenGraph) -> None:
    """The frozen graph casts outputs to the types that the signature says; the graph must have them already."""
    for alias, tensor in frozen.outputs.items():
        for port in model.outputs:
            cast = port.get_node().input_value(0).get_node()
            if tensor not in port.get_names() or cast.get_type_name() != "Convert":
                continue
            if cast.input_value(0).get_element_type() != openvino.Type.dynamic:
                require_same_type(cast.input_value(0), frozen.signature.outputs[alias], alias, name)


def _refuse_strings(name: str, signature: Signature) -> None:
    for alias, spec in (*signature.inputs.items(), *signature.outputs.items()):
        if spec.data_type == DataType.DT_STRING:
            raise ModelError(
                f"OpenVINO cannot run the signature {name}: {alias} is a string tensor",
                hint=f"{USE_TENSORFLOW}; or export a signature of numbers, and turn strings into them in the client.",
            )
