"""The engine ``openvino``: SavedModels on OpenVINO, without TensorFlow.

OpenVINO computes in bfloat16 by itself where the CPU has it, which moves answers visibly; here float32 is the default.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import openvino

from sealserve.errors import ModelError
from sealserve.logs import event, get_logger
from sealserve.models.saved_model import DEFAULT_SIGNATURE, SavedModelContent, Signature, read_saved_model
from sealserve.serving.engine import LoadedModel
from sealserve.serving.openvino_errors import explain_conversion_error
from sealserve.serving.openvino_limits import narrowed
from sealserve.serving.openvino_model import CompiledSignature, OpenVinoModel
from sealserve.serving.signature_directory import signature_directory
from sealserve.wire.tensorflow_pb2 import DataType, SignatureDef

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

    def load(self, directory: Path) -> LoadedModel:
        """Load one version; see :meth:`Engine.load`.

        A signature other than the first that OpenVINO cannot run does not stop the others: asking for it gives its
        reason. The first is ``serving_default``, where the model has it.
        """
        content = read_saved_model(directory)
        compiled: dict[str, CompiledSignature] = {}
        refused: dict[str, ModelError] = {}
        names = sorted(content.signatures, key=lambda name: (name != DEFAULT_SIGNATURE, name))
        for name in names:
            try:
                compiled[name] = self._compile(content, name)
            except ModelError as error:
                if name == names[0]:
                    raise
                event(_log, logging.WARNING, "signature-not-usable", signature=name, reason=error)
                refused[name] = error
        return OpenVinoModel(compiled, refused, _definitions(content))

    def _compile(self, content: SavedModelContent, name: str) -> CompiledSignature:
        signature = content.signatures[name]
        if len(content.signatures) == 1 and not signature.inputs.keys() & signature.outputs.keys():
            # OpenVINO takes the model's only signature and keeps its names.
            same = {alias: alias for alias in (*signature.inputs, *signature.outputs)}
            return self._compile_directory(content.path, name, signature, inputs=same, outputs=same)
        with signature_directory(content, name) as (path, inputs, outputs):
            return self._compile_directory(path, name, signature, inputs=inputs, outputs=outputs)

    def _compile_directory(
        self, path: Path, name: str, signature: Signature, *, inputs: Mapping[str, str], outputs: Mapping[str, str]
    ) -> CompiledSignature:
        try:
            model = self._core.read_model(path)
            compiled = self._core.compile_model(model, _DEVICE, self._properties)
            # Not before: a conversion that fails names the operations, which says more.
            _refuse_strings(name, signature)
            if narrow := narrowed(signature):
                event(_log, logging.WARNING, "computed-in-narrower-types", signature=name, tensors=narrow)
            return CompiledSignature(
                compiled, name, signature, inputs=inputs, outputs=outputs, parallel=self._parallel_requests
            )
        except (RuntimeError, ValueError, TypeError) as error:
            raise explain_conversion_error(error, name) from error


def _refuse_strings(name: str, signature: Signature) -> None:
    for alias, spec in (*signature.inputs.items(), *signature.outputs.items()):
        if spec.data_type == DataType.DT_STRING:
            raise ModelError(
                f"OpenVINO cannot run the signature {name}: {alias} is a string tensor",
                hint="The model needs an engine with TensorFlow's own operations, such as TensorFlow Serving; "
                "or export a signature of numbers, and turn strings into them in the client.",
            )


def _definitions(content: SavedModelContent) -> dict[str, SignatureDef]:
    """Copies: a reference into the message would keep the whole graph, weights and all, in memory."""
    definitions = {}
    for name, definition in content.meta_graph.signature_def.items():
        definitions[name] = SignatureDef()
        definitions[name].CopyFrom(definition)
    return definitions
