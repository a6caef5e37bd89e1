"""The shape of a tensor in a graph, where a few rules tell it.

Enough for what usually ends a network: probabilities of classes over a batch. Everything else is of unknown shape,
which a signature may say, and which stops nobody: engines find shapes themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from sealserve.models.reachable import node_name
from sealserve.wire.tensorflow_pb2 import NodeDef, TensorShapeProto
from sealserve.wire.tensors import TensorError, shape_of, to_numpy

Shape = tuple[int, ...]

_OUTPUT = re.compile(r"[0-9]{1,9}", re.ASCII)
_MAX_DIMENSIONS = 254  # TensorFlow's own limit (tensorflow/core/framework/tensor_shape.h)
_AS_FIRST_INPUT = frozenset(
    {"BiasAdd", "Cast", "Elu", "Exp", "Identity", "LeakyRelu", "LogSoftmax", "Relu", "Relu6", "Selu", "Sigmoid"}
    | {"Snapshot", "Softmax", "Softplus", "StopGradient", "Tanh"}
)


class Shapes:
    """The shapes of a graph's tensors. Each is found once, so that the work grows with the graph and no faster."""

    def __init__(self, nodes: Mapping[str, NodeDef]) -> None:
        self._nodes = nodes
        self._found: dict[str, Shape | None] = {}

    def of(self, reference: str) -> Shape | None:
        """The shape of a tensor, -1 where a dimension is unknown; None if even their number is.

        :param reference: ``node`` or ``node:output``.
        """
        pending = [reference]
        while pending:
            one = pending[-1]
            needed = self._needed(one)
            lacking = [other for other in needed if other not in self._found]
            if one in self._found or not lacking:
                self._found[pending.pop()] = self._rule(one, needed)
            else:
                self._found[one] = None  # for those of its inputs that need it themselves
                pending += lacking
        return self._found[reference]

    def _node(self, reference: str) -> tuple[NodeDef | None, int]:
        """The node of a tensor, and which of its outputs it is."""
        name, _, number = reference.partition(":")
        if not number:
            return self._nodes.get(name), 0
        return (self._nodes.get(name), int(number)) if _OUTPUT.fullmatch(number) else (None, 0)

    def _needed(self, reference: str) -> list[str]:
        """The inputs whose shapes tell that of the tensor."""
        node, number = self._node(reference)
        if node is None or number or _noted(node, number) is not None:
            return []
        if node.op in _AS_FIRST_INPUT:
            return list(node.input[:1])
        return list(node.input[:2]) if node.op == "MatMul" and len(node.input) >= 2 else []

    def _rule(self, reference: str, needed: list[str]) -> Shape | None:
        node, number = self._node(reference)
        if node is None:
            return None
        if (noted := _noted(node, number)) is not None or number:
            return noted
        shapes = [self._found.get(one) for one in needed]
        match node.op:
            case "Placeholder" | "PlaceholderWithDefault":
                return _declared(node.attr["shape"].shape) if "shape" in node.attr else None
            case "Const":
                return _sizes(node)
            case "MatMul" if shapes:
                return _product(node, *shapes)
            case "Reshape" if len(node.input) >= 2:
                return _reshaped(self._nodes.get(node_name(node.input[1])))
            case _:
                return shapes[0] if shapes else None


def _declared(shape: TensorShapeProto) -> Shape | None:
    return shape_of(shape) if len(shape.dim) <= _MAX_DIMENSIONS else None


def _noted(node: NodeDef, number: int) -> Shape | None:
    """What TensorFlow 1 noted beside the node when it was exported."""
    noted = node.attr["_output_shapes"].list.shape if "_output_shapes" in node.attr else ()
    return _declared(noted[number]) if number < len(noted) else None


def _sizes(constant: NodeDef) -> Shape | None:
    return _declared(constant.attr["value"].tensor.tensor_shape) if "value" in constant.attr else None


def _product(node: NodeDef, left: Shape | None, right: Shape | None) -> Shape:
    def size(shape: Shape | None, axis: int, transposed: str) -> int:
        if shape is None or len(shape) != 2:
            return -1
        turned = transposed in node.attr and node.attr[transposed].b
        return shape[1 - axis if turned else axis]

    return size(left, 0, "transpose_a"), size(right, 1, "transpose_b")


def _reshaped(constant: NodeDef | None) -> Shape | None:
    """What a constant shape says; -1 in it is the one dimension that follows from the others."""
    if constant is None or constant.op != "Const" or "value" not in constant.attr:
        return None
    try:
        array = to_numpy(constant.attr["value"].tensor, max_bytes=1 << 10)
    except TensorError:
        return None
    if array.dtype.kind != "i" or array.ndim != 1 or array.size > 64:
        return None
    return tuple(max(int(size), -1) for size in array)
