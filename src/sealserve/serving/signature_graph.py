"""The graph of one signature, as it can be changed before it is frozen: calls of functions opened, tensors exchanged.

References are those of TensorFlow's graphs: ``node``, ``node:1``, and within functions ``node:output:1``, where a
number counts the tensors of one output of the operation. Nodes of functions that were opened keep theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from sealserve.errors import ModelError
from sealserve.serving.engine import Array
from sealserve.serving.variables import split_reference
from sealserve.wire.tensorflow_pb2 import AttrValue, DataType, MetaGraphDef, NodeDef, SignatureDef
from sealserve.wire.tensors import TensorError, to_numpy

_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
_SAME = frozenset({"Identity", "Reshape", "ExpandDims"})
_MOST_NODES = 300_000  # of functions opened: one that calls two that call two … has a node for each call
_MOST_RANGE = 100_000


class SignatureGraph:
    """Nodes by name, and what is to be read in the place of some tensors.

    :ivar definition: the signature; what is changed here changes no other one.
    """

    def __init__(self, meta_graph: MetaGraphDef, signature: str) -> None:
        self.nodes: dict[str, NodeDef] = {node.name: node for node in meta_graph.graph_def.node}
        self.definition = SignatureDef()
        self.definition.CopyFrom(meta_graph.signature_def[signature])
        self._name = signature
        self._library = {function.signature.name: function for function in meta_graph.graph_def.library.function}
        self._instead: dict[str, str] = {}
        self._opened = 0

    @property
    def has_strings(self) -> bool:
        """Whether the signature takes or gives strings."""
        return any(
            info.dtype == DataType.DT_STRING
            for infos in (self.definition.inputs, self.definition.outputs)
            for info in infos.values()
        )

    def resolve(self, reference: str) -> str:
        """The tensor to be read for a reference: ``node``, ``node:1`` or ``node:output:1``."""
        reference = reference.removesuffix(":0") if reference.count(":") == 1 else reference
        while reference in self._instead:
            reference = self._instead[reference]
        return reference

    def node_of(self, reference: str) -> NodeDef:
        """:raises ModelError: there is none."""
        name = split_reference(self.resolve(reference))[0]
        if name not in self.nodes:
            raise ModelError(f"the model's graph lacks the node {name}", hint="Export the model again.")
        return self.nodes[name]

    def inputs(self, node: NodeDef) -> list[str]:
        """The tensors that a node reads."""
        return [self.resolve(one) for one in node.input if not one.startswith("^")]

    def live(self) -> Iterator[NodeDef]:
        """The nodes that the outputs need. What is exchanged while one iterates is looked at as it is then."""
        pending = [info.name for info in self.definition.outputs.values()]
        seen: set[str] = set()
        while pending:
            reference = pending.pop()
            node = self.node_of(reference)
            if node.name in seen:
                continue
            seen.add(node.name)
            yield node
            pending += self.inputs(node) if self.node_of(reference) is node else [reference]

    def add(self, node: NodeDef, instead_of: tuple[str, ...] = ()) -> None:
        """Add a node, whose first output is read for some references from now on."""
        self.nodes[node.name] = node
        for reference in instead_of:
            self._instead[reference] = node.name

    def open_calls(self) -> None:
        """Put the nodes of functions that take or give strings in the places of their calls.

        :raises ModelError: a function is missing or calls itself.
        """
        for node in self.live():
            if node.op in _CALLS and _has_strings(node):
                self._open(node)

    def origin(self, reference: str) -> str:
        """The tensor that a reference leads to through operations that change nothing but a shape."""
        passed: set[str] = set()
        while (node := self.node_of(reference)).op in _SAME and node.name not in passed and node.input:
            passed.add(node.name)
            reference = self.inputs(node)[0]
        return self.resolve(reference)

    def constant(self, reference: str) -> Array | None:
        """The value of a tensor that does not change; None where that cannot be seen. Its shape may be another."""
        node = self.node_of(self.origin(reference))
        if node.op != "Range":
            return self._stored(node)
        numbers = [self._stored(self.node_of(self.origin(one))) for one in self.inputs(node)]
        sizes = [int(one.item()) for one in numbers if one is not None and one.size == 1 and one.dtype.kind == "i"]
        if len(sizes) != 3 or not sizes[2] or abs((sizes[1] - sizes[0]) // sizes[2]) > _MOST_RANGE:
            return None
        return np.arange(*sizes)

    def _stored(self, node: NodeDef) -> Array | None:
        if node.op != "Const":
            return None
        try:
            return to_numpy(node.attr["value"].tensor)
        except TensorError as error:
            raise ModelError(f"the constant {node.name} of the model's graph cannot be read: {error}") from error

    def _open(self, call: NodeDef) -> None:
        function = self._library.get(call.attr["f"].func.name)
        arguments = [] if function is None else function.signature.input_arg
        given = self.inputs(call)
        if function is None or len(arguments) != len(given):
            raise ModelError(f"the model's graph lacks the function that {call.name} calls", hint="Export it again.")
        self._opened += len(function.node_def)
        if self._opened > _MOST_NODES:
            raise ModelError(f"the functions of the signature {self._name} call each other without end")
        prefix = f"sealserve/{self._name}/{call.name}/"
        by_argument = {argument.name: tensor for argument, tensor in zip(arguments, given, strict=True)}

        def outside(reference: str) -> str:
            if reference in by_argument:
                return by_argument[reference]
            return f"^{prefix}{reference[1:]}" if reference.startswith("^") else prefix + reference

        for node in function.node_def:
            copy = NodeDef()
            copy.CopyFrom(node)
            copy.name = prefix + node.name
            copy.input[:] = [outside(reference) for reference in node.input]
            self.nodes[copy.name] = copy
        for index, result in enumerate(function.signature.output_arg):
            target = outside(function.ret[result.name])
            self._instead[f"{call.name}:output:{index}"] = target
            self._instead[f"{call.name}:{index}" if index else call.name] = target


def _has_strings(call: NodeDef) -> bool:
    types: Mapping[str, AttrValue] = call.attr
    return any(DataType.DT_STRING in types[name].list.type for name in ("Tin", "Tout") if name in types)
