"""A SavedModel's graph and signatures, from the open files of a model version."""

from __future__ import annotations

from collections.abc import Mapping

from sealserve.errors import ModelError
from sealserve.models.onnx_file import ONNX_FILE
from sealserve.models.saved_model import SAVED_MODEL_FILE, Signature, parse_saved_model
from sealserve.serving.model_files import ModelFiles
from sealserve.wire.tensorflow_pb2 import MetaGraphDef, SignatureDef

TFLITE_FILE = "model.tflite"


def read(files: ModelFiles) -> bytes:
    """The bytes of ``saved_model.pb``. :raises ModelError: there is none."""
    if SAVED_MODEL_FILE not in files:
        for name in files:
            if name.endswith(".tflite"):
                raise ModelError(
                    f"{name} is a TensorFlow Lite model, which this engine does not read under this name",
                    hint=f"Call it {TFLITE_FILE} and serve it with the engine openvino, or serve the SavedModel that "
                    "it was made of.",
                )
        raise ModelError(
            f"the model is no SavedModel: it has no {SAVED_MODEL_FILE}",
            hint="A model version is a directory that TensorFlow's `tf.saved_model.save` or Keras's `export` wrote; or "
            f"one with an ONNX or TensorFlow Lite model, as {ONNX_FILE} or {TFLITE_FILE}, for the engine openvino.",
        )
    file = files[SAVED_MODEL_FILE]
    file.seek(0)
    return file.read()


def parse(data: bytes) -> tuple[MetaGraphDef, Mapping[str, Signature]]:
    """The graph for serving and the signatures that callers can use. :raises ModelError: it has none."""
    return parse_saved_model(data, "the model version")


def definitions(meta_graph: MetaGraphDef) -> dict[str, SignatureDef]:
    """All signatures. Copies: a reference into the message would keep the whole graph, weights and all, in memory."""
    copies = {}
    for name, definition in meta_graph.signature_def.items():
        copies[name] = SignatureDef()
        copies[name].CopyFrom(definition)
    return copies
