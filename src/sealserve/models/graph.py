"""A small writer of TensorFlow graphs: nodes and SavedModels as protobuf messages, without TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sealserve.wire.tensorflow_pb2 import (
    AttrValue,
    DataType,
    GraphDef,
    MetaGraphDef,
    NodeDef,
    SavedModel,
    SignatureDef,
    TensorInfo,
    TensorShapeProto,
    VersionDef,
)
from sealserve.wire.tensors import from_numpy, tensor_type

PREDICT_METHOD = "tensorflow/serving/predict"
SERVE_TAG = "serve"

# The last version of TensorFlow's graph format before it became a date (2018): every TensorFlow since 1.5 reads it.
GRAPH_VERSION = 27

Attribute = bool | int | float | str | Sequence[int] | AttrValue


@dataclass(frozen=True)
class TensorInGraph:
    """One output of a node, e.g. ``images:0``, with its type (a ``DataType``) and shape (-1 where unknown)."""

    name: str
    data_type: int
    shape: tuple[int, ...]

    def info(self) -> TensorInfo:
        """The tensor as a signature names it."""
        return TensorInfo(name=self.name, dtype=_data_type(self.data_type), tensor_shape=shape_message(self.shape))


class GraphBuilder:
    """Collects nodes in the order in which they are added; every method returns the new node's name."""

    def __init__(self) -> None:
        self._graph = GraphDef(versions=VersionDef(producer=GRAPH_VERSION))
        self._names: set[str] = set()

    def placeholder(self, name: str, data_type: int, shape: Sequence[int]) -> str:
        """An input; -1 stands for an unknown dimension."""
        return self.node(
            "Placeholder", name, [], dtype=type_attribute(data_type), shape=AttrValue(shape=shape_message(shape))
        )

    def constant(self, name: str, value: np.ndarray[Any, Any]) -> str:
        """A constant that holds ``value``."""
        data_type = tensor_type(value.dtype)
        return self.node("Const", name, [], dtype=type_attribute(data_type), value=AttrValue(tensor=from_numpy(value)))

    def node(self, operation: str, name: str, inputs: Sequence[str], **attributes: Attribute) -> str:
        """A node of any operation.

        :param inputs: names of nodes, or of their outputs (``name:1``).
        :param attributes: a sequence of integers becomes a list; types and shapes are given as ``AttrValue``.
        :raises ValueError: the name is taken.
        """
        if name in self._names:
            raise ValueError(f"the graph has a node {name} already")
        self._names.add(name)
        values = {key: _attribute(value) for key, value in attributes.items()}
        self._graph.node.append(NodeDef(name=name, op=operation, input=inputs, attr=values))
        return name

    def saved_model(
        self, inputs: Mapping[str, TensorInGraph], outputs: Mapping[str, TensorInGraph], *, signature: str
    ) -> SavedModel:
        """The graph as a SavedModel with one signature for prediction, under the tag ``serve``."""
        definition = SignatureDef(
            inputs={name: tensor.info() for name, tensor in inputs.items()},
            outputs={name: tensor.info() for name, tensor in outputs.items()},
            method_name=PREDICT_METHOD,
        )
        meta_graph = MetaGraphDef(
            meta_info_def=MetaGraphDef.MetaInfoDef(tags=[SERVE_TAG], stripped_default_attrs=True),
            graph_def=self._graph,
            signature_def={signature: definition},
        )
        return SavedModel(saved_model_schema_version=1, meta_graphs=[meta_graph])


def type_attribute(data_type: int) -> AttrValue:
    """A type as an attribute of a node, e.g. ``T=type_attribute(DataType.DT_FLOAT)``."""
    return AttrValue(type=_data_type(data_type))


def shape_message(sizes: Sequence[int] | None) -> TensorShapeProto:
    """A shape as TensorFlow writes it; -1 stands for an unknown dimension, None for an unknown rank."""
    if sizes is None:
        return TensorShapeProto(unknown_rank=True)
    return TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in sizes])


def _attribute(value: Attribute) -> AttrValue:
    match value:
        case AttrValue():
            return value
        case bool():
            return AttrValue(b=value)
        case int():
            return AttrValue(i=value)
        case float():
            return AttrValue(f=value)
        case str():
            return AttrValue(s=value.encode())
        case _:
            return AttrValue(list=AttrValue.ListValue(i=value))


def _data_type(number: int) -> DataType:
    # Enum values are plain integers in protobuf's Python; the stubs give them a class of their own.
    return number  # type: ignore[return-value]
