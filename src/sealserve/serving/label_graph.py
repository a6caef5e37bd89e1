"""Strings that a graph only moves about, as numbers for an engine that has no strings.

A classifier's labels are constants that are tiled, gathered and reshaped. Each constant string gets a number; what the
graph gives are numbers then, and the strings are looked up.
"""

from __future__ import annotations

import numpy as np

from sealserve.errors import ModelError
from sealserve.serving.openvino_errors import USE_TENSORFLOW
from sealserve.serving.signature_graph import SignatureGraph
from sealserve.serving.variables import split_reference
from sealserve.wire.tensorflow_pb2 import DataType, NodeDef, TensorInfo
from sealserve.wire.tensors import from_numpy

# Operations that move elements and look at none: which of their inputs these elements are.
_MOVES = {
    "BroadcastTo": slice(0, 1),
    "ConcatV2": slice(0, -1),
    "ExpandDims": slice(0, 1),
    "Gather": slice(0, 1),
    "GatherNd": slice(0, 1),
    "GatherV2": slice(0, 1),
    "Identity": slice(0, 1),
    "Pack": slice(0, None),
    "Reshape": slice(0, 1),
    "Select": slice(1, 3),
    "SelectV2": slice(1, 3),
    "Slice": slice(0, 1),
    "Squeeze": slice(0, 1),
    "StridedSlice": slice(0, 1),
    "Tile": slice(0, 1),
    "Transpose": slice(0, 1),
}
_MOST_LABELS = 1_000_000
_MOST_STEPS = 500  # from an output to a constant


class LabelGraph:
    """Exchanges strings for numbers in one signature's graph.

    :ivar labels: the strings by their numbers.
    """

    def __init__(self, graph: SignatureGraph, signature: str) -> None:
        self._graph = graph
        self._signature = signature
        self._known: dict[str, str] = {}
        self.labels: list[bytes] = []

    def number_outputs(self) -> tuple[str, ...]:
        """Make numbers of all strings that the signature gives, and tell which outputs these are.

        :raises ModelError: an operation computes with strings.
        """
        outputs = self._graph.definition.outputs
        aliases = sorted(alias for alias, info in outputs.items() if info.dtype == DataType.DT_STRING)
        for alias in aliases:
            name = self._numbers(outputs[alias].name, alias, 0)
            shape = outputs[alias].tensor_shape
            outputs[alias].CopyFrom(TensorInfo(name=f"{name}:0", dtype=DataType.DT_INT32, tensor_shape=shape))
        return tuple(aliases)

    def _numbers(self, reference: str, alias: str, steps: int) -> str:
        """The node that gives numbers for a tensor of strings."""
        node, index = self._graph.node_of(reference), split_reference(self._graph.resolve(reference))[1]
        if node.name in self._known:
            return self._known[node.name]
        inputs = self._graph.inputs(node)
        if index or steps > _MOST_STEPS or not (node.op in {"Const", "AsString"} or (node.op in _MOVES and inputs)):
            raise self._refusal(node, alias)
        copy = NodeDef(name=f"sealserve/labels/{self._signature}/{node.name}")
        self._known[node.name] = copy.name
        if node.op in _MOVES:
            moved = [self._numbers(one, alias, steps + 1) for one in inputs[_MOVES[node.op]]]
            copy.op = node.op
            copy.input[:] = inputs
            copy.input[_MOVES[node.op]] = moved
            for key, value in node.attr.items():
                copy.attr[key].CopyFrom(value)
                if value.type == DataType.DT_STRING:
                    copy.attr[key].type = DataType.DT_INT32
        else:
            self._constant(node, alias, copy)
        self._graph.add(copy)
        return copy.name

    def _constant(self, node: NodeDef, alias: str, copy: NodeDef) -> None:
        """Fill in a constant with the strings' numbers."""
        is_text = node.op == "Const"
        source = node.name if is_text else (self._graph.inputs(node) or [node.name])[0]
        value = self._graph.constant(source)
        # What is seen through a change of shape has another one, and a width would put spaces in front.
        plain = self._graph.node_of(source).op in {"Const", "Range"} and node.attr["width"].i <= 0
        if value is None or not plain or value.dtype.kind != ("O" if is_text else "i"):
            raise self._refusal(node, alias)
        first = len(self.labels)
        items = value.ravel().tolist()
        self.labels += items if is_text else [str(number).encode() for number in items]
        if len(self.labels) > _MOST_LABELS:
            raise ModelError(f"the signature {self._signature} has more than {_MOST_LABELS} strings")
        copy.op = "Const"
        copy.attr["dtype"].type = DataType.DT_INT32
        numbers = np.arange(first, len(self.labels), dtype=np.int32).reshape(value.shape)
        copy.attr["value"].tensor.CopyFrom(from_numpy(numbers))

    def _refusal(self, node: NodeDef, alias: str) -> ModelError:
        return ModelError(
            f"OpenVINO cannot run the signature {self._signature}: {alias} is a string tensor, and it cannot convert "
            f"the operation {node.op} on strings",
            hint=f"{USE_TENSORFLOW}; or export a signature of numbers, and turn them into strings in the client.",
        )
