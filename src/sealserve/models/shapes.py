"""The shape of a tensor in a graph, where a few rules tell it.

Enough for what usually ends a network: probabilities of classes over a batch. Everything else is of unknown shape,
which a signature may say, and which stops nobody: engines find shapes themselves.
"""

from __future__ import annotations

from collections.abc import Mapping

from sealserve.models.reachable import node_name
from sealserve.wire.tensorflow_pb2 import NodeDef
from sealserve.wire.tensors import TensorError, shape_of, to_numpy

Shape = tuple[int, ...]

_MAX_DEPTH = 50
_DECLARED = frozenset({"Placeholder", "PlaceholderWithDefault"})
_AS_FIRST_INPUT = frozenset(
    {"BiasAdd", "Cast", "Elu", "Exp", "Identity", "LeakyRelu", "LogSoftmax", "Relu", "Relu6", "Selu", "Sigmoid"}
    | {"Snapshot", "Softmax", "Softplus", "StopGradient", "Tanh"}
)


def output_shape(nodes: Mapping[str, NodeDef], reference: str, *, depth: int = 0) -> Shape | None:
    """The shape of a tensor, -1 where a dimension is unknown; None if even their number is.

    :param reference: ``node`` or ``node:output``.
    """
    node = nodes.get(node_name(reference))
    number = reference.partition(":")[2] or "0"
    if node is None or depth > _MAX_DEPTH or not number.isdecimal():
        return None
    if (noted := _noted(node, int(number))) is not None or number != "0":
        return noted
    inputs = [one for one in node.input if not one.startswith("^")]

    def shape(index: int) -> Shape | None:
        return output_shape(nodes, inputs[index], depth=depth + 1)

    if node.op in _DECLARED:
        return shape_of(node.attr["shape"].shape) if "shape" in node.attr else None
    if node.op == "Const":
        return _sizes(node)
    if node.op in _AS_FIRST_INPUT and inputs:
        return shape(0)
    if node.op == "MatMul" and len(inputs) == 2:
        return _product(node, shape(0), shape(1))
    if node.op == "Reshape" and len(inputs) == 2:
        return _reshaped(nodes.get(node_name(inputs[1])))
    return None


def _noted(node: NodeDef, number: int) -> Shape | None:
    """What TensorFlow 1 noted beside the node when it was exported."""
    noted = node.attr["_output_shapes"].list.shape if "_output_shapes" in node.attr else ()
    return shape_of(noted[number]) if number < len(noted) else None


def _sizes(constant: NodeDef) -> Shape | None:
    return shape_of(constant.attr["value"].tensor.tensor_shape) if "value" in constant.attr else None


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
