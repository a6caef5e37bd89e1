"""Which variable of a graph is which of the stored ones, and its value.

A SavedModel says so by the operations that restore it, which are what TensorFlow Serving runs: ``RestoreV2`` reads
names, ``AssignVariableOp`` (or ``Assign``) puts what it read into a variable. In models of TensorFlow 2 they stand in a
function that gets the variables as arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from sealserve.errors import ModelError
from sealserve.serving.model_files import ModelFiles
from sealserve.serving.tensor_bundle import StoredTensor, TensorBundle
from sealserve.wire.tensorflow_pb2 import FunctionDef, GraphDef, NodeDef
from sealserve.wire.tensors import type_name

OPERATIONS = frozenset({"VarHandleOp", "VariableV2", "Variable"})

_ASSIGN = frozenset({"AssignVariableOp", "Assign"})


class Variables:
    """The variables of a graph. Nothing is read before :meth:`value` asks for it.

    :raises ModelError: an operation that restores variables lacks inputs.
    """

    def __init__(self, graph: GraphDef, files: ModelFiles) -> None:
        try:
            self._names = dict(_stored_names(graph))
        except (IndexError, ValueError) as error:
            raise ModelError(
                "what restores the model's variables is malformed", hint="Export the model again."
            ) from error
        self._files = files
        self._bundle: TensorBundle | None = None

    def value(self, node: NodeDef) -> StoredTensor:
        """What is stored of a variable.

        :raises ModelError: the model does not say what is stored of it, or it is not there.
        """
        if node.name not in self._names:
            raise ModelError(
                f"the model has no stored value for the variable {node.name}",
                hint="The engine cannot run what computes a variable's value: export the model with it saved, "
                "or choose `engine: tensorflow`.",
            )
        if self._bundle is None:
            self._bundle = TensorBundle(self._files)
        stored = self._bundle.read(*self._names[node.name])
        declared = node.attr["dtype"].type
        if stored.data_type != declared:
            raise ModelError(
                f"the variable {node.name} is {type_name(declared)}, and stored as {type_name(stored.data_type)}"
            )
        return stored


def split_reference(reference: str) -> tuple[str, int]:
    """The node and the output's number of an input: ``a``, ``a:1`` or, in functions, ``a:output:1``.

    :raises ModelError: it is none of these.
    """
    name, *rest = reference.split(":")
    try:
        return name, int(rest[-1]) if rest else 0
    except ValueError as error:
        raise ModelError(f"the model's graph has a malformed reference {reference[:200]!r}") from error


def _stored_names(graph: GraphDef) -> Iterator[tuple[str, tuple[str, str]]]:
    yield from _assignments(graph.node)
    restoring = {
        function.signature.name: function
        for function in graph.library.function
        if any(node.op == "RestoreV2" for node in function.node_def)
    }
    for caller in graph.node:
        function = restoring.get(caller.attr["f"].func.name) if "f" in caller.attr else None
        if function is not None:
            arguments = _arguments(function, caller)
            for argument, stored in _assignments(function.node_def):
                if argument in arguments:
                    yield arguments[argument], stored


def _arguments(function: FunctionDef, caller: NodeDef) -> Mapping[str, str]:
    given = [split_reference(reference)[0] for reference in caller.input if not reference.startswith("^")]
    return {argument.name: name for argument, name in zip(function.signature.input_arg, given, strict=False)}


def _assignments(nodes: Iterable[NodeDef]) -> Iterator[tuple[str, tuple[str, str]]]:
    """What is assigned to, and the stored name, and part of it, of what it gets."""
    by_name = {node.name: node for node in nodes}
    for node in by_name.values():
        if node.op not in _ASSIGN:
            continue
        source, output = split_reference(node.input[1])
        passed: set[str] = set()
        while source not in passed and source in by_name and by_name[source].op == "Identity":
            passed.add(source)
            source, output = split_reference(by_name[source].input[0])
        restore = by_name.get(source)
        if restore is None or restore.op != "RestoreV2":
            continue
        names, parts = (_strings(by_name.get(split_reference(reference)[0])) for reference in restore.input[1:3])
        if output < len(names):
            part = parts[output] if output < len(parts) else b""
            yield split_reference(node.input[0])[0], (names[output].decode(), part.decode())


def _strings(node: NodeDef | None) -> list[bytes]:
    return list(node.attr["value"].tensor.string_val) if node is not None and node.op == "Const" else []
