"""Reading SavedModels: the directory of versions that TensorFlow Serving expects, and what a version can answer.

A model's base directory holds a directory for each version, named by its number; a version holds ``saved_model.pb``
(``tensorflow/core/protobuf/saved_model.proto``) and, where the model has variables, ``variables/``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from sealserve.errors import ModelError
from sealserve.files import explain_os_error
from sealserve.models.graph import SERVE_TAG
from sealserve.wire.tensorflow_pb2 import MetaGraphDef, NodeDef, SavedModel, SignatureDef, TensorInfo
from sealserve.wire.tensors import shape_of, type_name

SAVED_MODEL_FILE = "saved_model.pb"
DEFAULT_SIGNATURE = "serving_default"

VARIABLES = frozenset({"VarHandleOp", "VariableV2", "Variable"})
"""Operations whose values a SavedModel keeps in ``variables/``."""

# TensorFlow keeps the model's initializer among the signatures, under names that callers cannot use.
_RESERVED = "__saved_model_"


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a signature.

    :ivar name: the tensor's name in the graph, e.g. ``serving_default_x:0``.
    :ivar data_type: a TensorFlow ``DataType``.
    :ivar shape: -1 where a dimension is unknown; None if even the rank is.
    """

    name: str
    data_type: int
    shape: tuple[int, ...] | None

    @property
    def dtype(self) -> str:
        """TensorFlow's name of the type: ``float``, ``uint8``, ``string``."""
        return type_name(self.data_type)

    def __str__(self) -> str:
        shape = "unknown shape" if self.shape is None else str(["?" if size < 0 else size for size in self.shape])
        return f"{self.dtype} {shape.replace(chr(39), '')}"


@dataclass(frozen=True)
class Signature:
    """What can be asked: named inputs, named outputs, and TensorFlow Serving's method name."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    method_name: str


@dataclass(frozen=True)
class SavedModelContent:
    """A version that was read.

    :ivar meta_graph: the graph under the tag ``serve``.
    :ivar signatures: those that callers can use.
    """

    path: Path
    meta_graph: MetaGraphDef
    signatures: Mapping[str, Signature]

    def operations(self) -> Counter[str]:
        """How often each operation occurs, in the graph and in its functions."""
        return Counter(node.op for node in self._nodes())

    def size(self) -> int:
        """Bytes of all files of the version."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    def _nodes(self) -> Iterator[NodeDef]:
        yield from self.meta_graph.graph_def.node
        for function in self.meta_graph.graph_def.library.function:
            yield from function.node_def


def find_versions(base: Path) -> dict[int, Path]:
    """The versions under a model's base directory, lowest first.

    :raises ModelError: nothing is there, it is no directory, it has no version, or one whose name begins with 0.
    """
    _require_directory(base)
    versions = sorted(
        (int(entry.name), entry)
        for entry in base.iterdir()
        if entry.name.isascii() and entry.name.isdigit() and entry.is_dir()
    )
    for number, entry in versions:
        if entry.name != str(number):
            raise ModelError(
                f"{entry} is no version's name: it begins with 0", hint=f"Rename it to {entry.with_name(str(number))}."
            )
    if versions:
        return dict(versions)
    if (base / SAVED_MODEL_FILE).exists():
        raise ModelError(
            f"{base} holds {SAVED_MODEL_FILE} itself, without a version",
            hint=f"Move the model's files into a directory named by its version: {base}/1/{SAVED_MODEL_FILE}.",
        )
    raise ModelError(
        f"{base} has no model version",
        hint=f"A model's directory holds a directory for each version, such as {base}/1/{SAVED_MODEL_FILE}.",
    )


def read_saved_model(directory: Path) -> SavedModelContent:
    """Read one version.

    :param directory: the one with ``saved_model.pb``.
    :raises ModelError: it is no SavedModel, has no graph for serving, or no signature.
    """
    _require_directory(directory)
    path = directory / SAVED_MODEL_FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise no_saved_model(directory) from None
    except OSError as error:
        raise explain_os_error(error, path, "read") from error
    return SavedModelContent(directory, *parse_saved_model(data, str(directory)))


def require_variables(content: SavedModelContent) -> None:
    """Look for the values of a graph's variables, which are in files of their own.

    :raises ModelError: the graph has variables, and they are missing.
    """
    index = content.path / "variables" / "variables.index"
    if VARIABLES & content.operations().keys() and not index.is_file():
        raise ModelError(
            f"the model in {content.path} has variables, and their values are missing: there is no {index}",
            hint="Copy the whole directory of the version: variables/ belongs to it as well as saved_model.pb.",
        )


def parse_saved_model(data: bytes, place: str) -> tuple[MetaGraphDef, Mapping[str, Signature]]:
    """The graph for serving and its signatures, from the bytes of a ``saved_model.pb``.

    :param place: where it comes from, for people.
    :raises ModelError: as :func:`read_saved_model`.
    """
    try:
        message = SavedModel.FromString(data)
    except DecodeError as error:
        raise ModelError(
            f"{SAVED_MODEL_FILE} in {place} is no SavedModel: it cannot be parsed",
            hint="The file may be cut short, or be another format: export the model as a SavedModel again.",
        ) from error
    return interpret_saved_model(message, place)


def interpret_saved_model(message: SavedModel, place: str) -> tuple[MetaGraphDef, Mapping[str, Signature]]:
    """As :func:`parse_saved_model`, of a message that is parsed."""
    if not message.meta_graphs:
        raise ModelError(
            f"{SAVED_MODEL_FILE} in {place} is no SavedModel: it has no graph",
            hint="Export the model as a SavedModel again.",
        )
    meta_graph = _serving_graph(place, message)
    signatures = {
        name: signature_of(definition)
        for name, definition in sorted(meta_graph.signature_def.items())
        if not name.startswith(_RESERVED)
    }
    if not signatures:
        raise ModelError(
            f"the model in {place} has no signature, so that nothing can be asked of it",
            hint="Export it with a signature, e.g. `tf.saved_model.save(model, path, signatures=function)`.",
        )
    return meta_graph, signatures


def no_saved_model(directory: Path) -> ModelError:
    """The error of a directory without ``saved_model.pb``; its hint goes by what is there instead."""
    text = f"{directory} is no SavedModel: it has no {SAVED_MODEL_FILE}"
    if (directory / "saved_model.pbtxt").exists():
        return ModelError(text, hint="The model is saved as text (saved_model.pbtxt): save it in binary form.")
    if (directory / "keras_metadata.pb").exists() or list(directory.glob("*.keras")) or list(directory.glob("*.h5")):
        return ModelError(text, hint="Export the Keras model with `model.export(directory)`.")
    if any((entry / SAVED_MODEL_FILE).exists() for entry in directory.iterdir() if entry.is_dir()):
        return ModelError(text, hint="It holds model versions: name one of its directories.")
    return ModelError(text, hint="Give the directory that holds saved_model.pb.")


def _serving_graph(place: str, message: SavedModel) -> MetaGraphDef:
    for meta_graph in message.meta_graphs:
        if SERVE_TAG in meta_graph.meta_info_def.tags:
            return meta_graph
    tags = sorted({tag for meta_graph in message.meta_graphs for tag in meta_graph.meta_info_def.tags})
    raise ModelError(
        f"the model in {place} has no graph with the tag {SERVE_TAG!r}; its tags: {', '.join(tags)[:200] or 'none'}",
        hint="Export it for serving: `tf.saved_model.save` sets the tag.",
    )


def signature_of(definition: SignatureDef) -> Signature:
    """What a signature takes and gives."""
    return Signature(
        inputs={name: _spec(info) for name, info in sorted(definition.inputs.items())},
        outputs={name: _spec(info) for name, info in sorted(definition.outputs.items())},
        method_name=definition.method_name,
    )


def _spec(info: TensorInfo) -> TensorSpec:
    return TensorSpec(info.name, info.dtype, shape_of(info.tensor_shape))


def _require_directory(path: Path) -> None:
    if not path.exists():
        raise ModelError(f"there is no model at {path}", hint="Check the path.")
    if not path.is_dir():
        raise ModelError(f"{path} is a file; a model is a directory", hint="Give the model's directory.")
