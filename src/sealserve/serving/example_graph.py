"""Operations that parse tf.Examples cut out of a graph, for an engine that has none: what they give becomes inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sealserve.errors import ModelError
from sealserve.serving.engine import Array
from sealserve.serving.example_features import Feature, Parsing
from sealserve.serving.openvino_errors import USE_TENSORFLOW
from sealserve.serving.signature_graph import SignatureGraph
from sealserve.wire.tensorflow_pb2 import DataType, NodeDef, TensorInfo
from sealserve.wire.tensors import shape_of

_PARSE_2 = "ParseExampleV2"
PARSING = frozenset({"ParseExample", _PARSE_2})
"""The operations that parse Examples."""

_KINDS = frozenset({DataType.DT_FLOAT, DataType.DT_INT64, DataType.DT_STRING})


@dataclass(frozen=True)
class Cut:
    """An operation that was cut out.

    :ivar alias: the signature's input that it parses.
    :ivar inputs: those of the graph in its place, by their features' keys.
    """

    alias: str
    parsing: Parsing
    inputs: dict[str, str]


def cut_examples(graph: SignatureGraph, signature: str) -> tuple[Cut, ...]:
    """Cut out what parses the signature's inputs. In the definition, other inputs stand for them then.

    :raises ModelError: what parses them is malformed, or gives tensors that nobody but TensorFlow has.
    """
    strings = {
        graph.resolve(info.name): alias
        for alias, info in graph.definition.inputs.items()
        if info.dtype == DataType.DT_STRING
    }
    cuts: list[Cut] = []
    for node in list(graph.live()):
        if node.op not in PARSING or not graph.inputs(node):
            continue
        alias = strings.get(graph.origin(graph.inputs(node)[0]))
        if alias is not None:
            cuts.append(_cut(graph, signature, node, alias, len(cuts)))
    for alias in {cut.alias for cut in cuts}:
        del graph.definition.inputs[alias]
    live = {node.name for node in graph.live()} if cuts else set()
    for cut in cuts:
        for key, name in list(cut.inputs.items()):
            if name not in live:
                del graph.definition.inputs[name], cut.inputs[key]
    return tuple(cuts)


def _cut(graph: SignatureGraph, signature: str, node: NodeDef, alias: str, number: int) -> Cut:
    try:
        parsing, sparse = _parsing(graph, node)
    except (IndexError, ValueError, UnicodeDecodeError) as error:
        raise ModelError(
            f"OpenVINO cannot run the signature {signature}: what is to be parsed by {node.name} ({node.op}) is no "
            "constant of its graph, or malformed",
            hint=f"{USE_TENSORFLOW}.",
        ) from error
    inputs = {}
    for index, feature in enumerate(parsing.features):
        if feature.data_type == DataType.DT_STRING:
            continue
        name = f"sealserve_example_{number}_{index}"
        placeholder = NodeDef(name=name, op="Placeholder")
        placeholder.attr["dtype"].type = feature.data_type  # type: ignore[assignment]
        shape = placeholder.attr["shape"].shape
        for size in (-1, *feature.shape):
            shape.dim.add(size=size)
        # Sparse features have three outputs each before these.
        flat = 3 * sparse + index
        graph.add(placeholder, (f"{node.name}:dense_values:{index}", f"{node.name}:{flat}" if flat else node.name))
        graph.definition.inputs[name].CopyFrom(
            TensorInfo(name=f"{name}:0", dtype=placeholder.attr["dtype"].type, tensor_shape=shape)
        )
        inputs[feature.key] = name
    return Cut(alias, parsing, inputs)


def _parsing(graph: SignatureGraph, node: NodeDef) -> tuple[Parsing, int]:
    """What an operation parses, and how many sparse features it has. :raises ValueError: it is malformed."""
    inputs, dense_types = graph.inputs(node), list(_types(node, "Tdense"))
    if node.op == _PARSE_2:
        sparse_keys, dense_keys, ragged_keys = (_keys(graph, inputs[index : index + 1]) for index in (2, 3, 4))
        defaults = inputs[5:]
    else:
        sparse = int(node.attr["Nsparse"].i)
        dense = 2 + sparse + len(dense_types)
        sparse_keys, dense_keys = _keys(graph, inputs[2 : 2 + sparse]), _keys(graph, inputs[2 + sparse : dense])
        ragged_keys, defaults = [], inputs[dense:]
    others = dict(zip(sparse_keys, _types(node, "sparse_types"), strict=True))
    others |= dict(zip(ragged_keys, _types(node, "ragged_value_types"), strict=True))
    shapes = [shape_of(shape) for shape in node.attr["dense_shapes"].list.shape]
    features = [
        _feature(key, data_type, shape, graph.constant(default))
        for key, data_type, shape, default in zip(dense_keys, dense_types, shapes, defaults, strict=True)
    ]
    if not _KINDS.issuperset([*others.values(), *dense_types]):
        raise ValueError("a feature is none that an Example can have")
    return Parsing(tuple(features), others), len(sparse_keys)


def _feature(key: str, data_type: int, shape: tuple[int, ...] | None, default: Array | None) -> Feature:
    if shape is None or default is None or min(shape[1:], default=1) < 1 or min(shape[:1], default=0) < -1:
        raise ValueError("a feature has no shape, or no default")
    feature = Feature(key, data_type, shape, default if default.size else None)
    if default.size not in {0, 1 if feature.is_variable else math.prod(shape)}:
        raise ValueError("a default is of another size than its feature")
    return feature


def _types(node: NodeDef, attribute: str) -> list[int]:
    return [int(number) for number in node.attr[attribute].list.type]


def _keys(graph: SignatureGraph, references: list[str]) -> list[str]:
    """:raises ValueError: they are no constant strings."""
    keys: list[str] = []
    for reference in references:
        value = graph.constant(reference)
        if value is None or value.dtype.kind != "O":
            raise ValueError("keys are not constant")
        keys += [key.decode() for key in value.ravel().tolist()]
    return keys
