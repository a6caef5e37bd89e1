"""The values in a graph that do not change: its variables' and its large constants', each in memory once.

A frozen graph has placeholders for the large ones, which the engine exchanges for the values themselves when it has
read the graph. So they are not written into a message, parsed and copied again. Small ones are constants in the graph:
conversion can depend on them, as on a shape or an axis.
"""

from __future__ import annotations

import contextlib
import math

import numpy as np

from sealserve.serving.model_files import ModelFiles
from sealserve.serving.tensor_bundle import StoredTensor, aligned
from sealserve.serving.variables import OPERATIONS, Variables
from sealserve.wire.tensorflow_pb2 import DataType, GraphDef, NodeDef
from sealserve.wire.tensors import TensorError, numpy_type, shape_of, to_numpy

_LARGE = 4096  # bytes


class Weights:
    """The values of one graph's nodes; those that several signatures use are the same arrays.

    :raises ModelError: an operation that restores variables is malformed.
    """

    def __init__(self, graph: GraphDef, files: ModelFiles) -> None:
        self._variables = Variables(graph, files)
        self._known: dict[str, StoredTensor] = {}

    def value(self, node: NodeDef) -> StoredTensor | None:
        """A variable's value, or that of a large constant; None for other nodes.

        :raises ModelError: the variable has none, or it cannot be read.
        """
        if node.name not in self._known:
            if node.op in OPERATIONS:
                self._known[node.name] = self._variables.value(node)
            elif node.op == "Const" and (value := _content(node)) is not None:
                self._known[node.name] = value
            else:
                return None
        return self._known[node.name]


def is_large(value: StoredTensor) -> bool:
    """Whether it is to stand beside the graph: it is large, and of numbers that NumPy has."""
    try:
        return len(value.data) >= _LARGE and numpy_type(value.data_type).kind in "fiu"
    except TensorError:
        return False


def placeholder(name: str, value: StoredTensor) -> NodeDef:
    """What stands for a value in the graph."""
    node = NodeDef(name=name, op="Placeholder")
    node.attr["dtype"].type = value.data_type  # type: ignore[assignment]
    node.attr["shape"].shape.SetInParent()
    for size in value.shape:
        node.attr["shape"].shape.dim.add(size=size)
    return node


def constant(name: str, value: StoredTensor) -> NodeDef:
    """A constant with the value."""
    node = NodeDef(name=name, op="Const")
    node.attr["dtype"].type = value.data_type  # type: ignore[assignment]
    tensor = node.attr["value"].tensor
    tensor.dtype = value.data_type  # type: ignore[assignment]
    tensor.tensor_shape.SetInParent()  # OpenVINO reads a number without a shape as zero
    for size in value.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = value.data.tobytes()
    return node


def spell_out_bfloat16(graph: GraphDef) -> None:
    """Write constants of bfloat16 that are lists of values as raw content, the only form that OpenVINO 2026.4 reads."""
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        for node in nodes:
            if node.op != "Const" or node.attr["dtype"].type != DataType.DT_BFLOAT16:
                continue
            tensor = node.attr["value"].tensor
            if tensor.half_val:
                # A malformed one is left as it is, for OpenVINO to refuse.
                with contextlib.suppress(TensorError):
                    tensor.tensor_content = to_numpy(tensor).tobytes()
                    tensor.ClearField("half_val")
                    tensor.tensor_shape.SetInParent()


def _content(node: NodeDef) -> StoredTensor | None:
    """A large constant's value, in memory of its own; None if it is small, or malformed."""
    tensor = node.attr["value"].tensor
    content, shape = tensor.tensor_content, shape_of(tensor.tensor_shape)
    if len(content) < _LARGE or shape is None or min(shape, default=0) < 0 or tensor.dtype != node.attr["dtype"].type:
        return None
    try:
        if len(content) != math.prod(shape) * numpy_type(tensor.dtype).itemsize:
            return None
    except TensorError:
        return None
    data = aligned(len(content))
    data[:] = np.frombuffer(content, np.uint8)
    return StoredTensor(tensor.dtype, shape, data)
