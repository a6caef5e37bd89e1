"""Which variable of a graph is which of the stored ones, and its value.

A SavedModel says so by the operations that restore it, which are what TensorFlow Serving runs: ``RestoreV2`` reads
names, ``AssignVariableOp`` (or ``Assign``) puts what it read into a variable. In models of TensorFlow 2 they stand in a
function that gets the variables as arguments.

Keras 3 stores another variable than the one that is read where a ``tf.Module`` holds a Keras model: it makes a copy
while it exports, ``copy := kernel``, and only the copy is stored and restored (``_export_to_saved_model_graph`` in
``keras/src/backend/tensorflow/core.py``). TensorFlow Serving refuses requests to such a model. Both have the same
value, so that it is served here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from sealserve.errors import ModelError
from sealserve.serving.model_files import ModelFiles
from sealserve.serving.tensor_bundle import StoredTensor, TensorBundle
from sealserve.wire.tensorflow_pb2 import FunctionDef, GraphDef, NodeDef
from sealserve.wire.tensors import type_name

OPERATIONS = frozenset({"VarHandleOp", "VariableV2", "Variable"})

# What TensorFlow 2 stores. In TensorFlow 1, a copy that was trained can have another value than its original.
_OF_OBJECT = "/.ATTRIBUTES/VARIABLE_VALUE"
_ASSIGN = frozenset({"AssignVariableOp", "Assign"})


class Variables:
    """The variables of a graph. Nothing is read before :meth:`value` asks for it.

    :raises ModelError: an operation that restores variables lacks inputs.
    """

    def __init__(self, graph: GraphDef, files: ModelFiles) -> None:
        try:
            self._names = dict(_stored_names(graph))
            for copy, original in copies(graph.node):
                if original not in self._names and self._names.get(copy, ("",))[0].endswith(_OF_OBJECT):
                    self._names[original] = self._names[copy]
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


def copies(nodes: Iterable[NodeDef]) -> Iterator[tuple[str, str]]:
    """Variables that begin as copies of others, and these."""
    by_name = {node.name: node for node in nodes}
    for node in by_name.values():
        if node.op == "AssignVariableOp":
            reading = by_name.get(_through_identities(by_name, node.input[1])[0])
            if reading is not None and reading.op == "ReadVariableOp":
                yield split_reference(node.input[0])[0], split_reference(reading.input[0])[0]


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
        source, output = _through_identities(by_name, node.input[1])
        restore = by_name.get(source)
        if restore is None or restore.op != "RestoreV2":
            continue
        names, parts = (_strings(by_name.get(split_reference(reference)[0])) for reference in restore.input[1:3])
        if output < len(names):
            part = parts[output] if output < len(parts) else b""
            yield split_reference(node.input[0])[0], (names[output].decode(), part.decode())


def _through_identities(by_name: Mapping[str, NodeDef], reference: str) -> tuple[str, int]:
    source, output = split_reference(reference)
    passed: set[str] = set()
    while source not in passed and source in by_name and by_name[source].op == "Identity":
        passed.add(source)
        source, output = split_reference(by_name[source].input[0])
    return source, output


def _strings(node: NodeDef | None) -> list[bytes]:
    return list(node.attr["value"].tensor.string_val) if node is not None and node.op == "Const" else []
