"""Variables of a SavedModel, without TensorFlow's opening a file.

Every SavedModel has an operation that restores it: ``RestoreV2`` reads stored tensors by their names from files, and
others put them into variables, tables and whatever else has a state. We run that operation and feed what ``RestoreV2``
would give; TensorFlow leaves out an operation whose outputs are fed. In models of TensorFlow 2 all of this is inside a
function, where nothing can be fed; its nodes are put into the graph beside the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph_def

from sealserve.errors import ModelError
from sealserve.serving.model_files import ModelFiles
from sealserve.serving.tensor_bundle import INDEX_FILE, TensorBundle
from sealserve.serving.variables import copies
from sealserve.wire.tensors import type_name

_RESTORE = "RestoreV2"
_PREFIX = "sealserve_restore"
_COPYING = frozenset({"VarHandleOp", "AssignVariableOp", "ReadVariableOp", "Identity"})
_NO_FILE = "none://"  # where TensorFlow opens nothing, should an operation not be fed


def restore(session: Any, meta_graph: Any, files: ModelFiles) -> None:
    """Give variables their stored values; leave a model without stored ones as it is, as TensorFlow Serving does.

    Tensors are read one after the other, into memory that becomes the variables' own.

    :raises ModelError: a stored tensor is missing, or is not what the graph expects.
    :raises tensorflow.errors.OpError: TensorFlow's reason.
    """
    name = meta_graph.saver_def.restore_op_name
    if INDEX_FILE not in files or not name:
        return
    bundle = TensorBundle(files)
    operation = session.graph.get_operation_by_name(name)
    function = _function(operation, meta_graph)
    targets = [operation] if function is None else _inline(session.graph, operation, function)
    feeds: dict[Any, Any] = {meta_graph.saver_def.filename_tensor_name: _NO_FILE}
    for reading in _readings(targets):
        names, parts = (_strings(tensor) for tensor in reading.inputs[1:3])
        for tensor, stored, part in zip(reading.outputs, names, parts, strict=True):
            if tensor.consumers():
                feeds[tensor] = _value(bundle, tensor, stored, part)
    session.run(targets, feeds)
    if function is not None:
        _fill_originals(session)


def _fill_originals(session: Any) -> None:
    """Give variables that are not stored the values of their copies; see :mod:`sealserve.serving.variables`."""
    graph = session.graph
    operations = [operation.node_def for operation in graph.get_operations() if operation.type in _COPYING]
    with graph.as_default():
        for copy, original in copies(operations):
            names = [graph.get_operation_by_name(name) for name in (copy, original)]
            if any(operation.type != "VarHandleOp" for operation in names):
                continue
            handles = [operation.outputs[0] for operation in names]
            is_there = [tf.raw_ops.VarIsInitializedOp(resource=handle) for handle in handles]
            if session.run(is_there) == [True, False]:
                value = tf.raw_ops.ReadVariableOp(resource=handles[0], dtype=names[0].get_attr("dtype"))
                session.run(tf.raw_ops.AssignVariableOp(resource=handles[1], value=value))


def _function(operation: Any, meta_graph: Any) -> Any:
    if operation.type not in {"PartitionedCall", "StatefulPartitionedCall"}:
        return None
    name = operation.get_attr("f").name
    return next((one for one in meta_graph.graph_def.library.function if one.signature.name == name), None)


def _inline(graph: Any, operation: Any, function: Any) -> list[Any]:
    """The function's nodes in the graph, on the arguments of the call; gives those to be run."""
    with graph.as_default():
        body, names = function_def_to_graph_def(function)
        arguments = {argument.name for argument in function.signature.input_arg}
        used = {reference.split(":")[0] for node in body.node for reference in node.input}
        given = {
            f"{argument.name}:0": tensor
            for argument, tensor in zip(function.signature.input_arg, operation.inputs, strict=True)
            if argument.name in used
        }
        results = {names[result].split(":")[0] for result in function.ret.values()} - arguments
        # RestoreV2 has a state in TensorFlow's eyes, so that others wait for it even where its results are fed.
        reading = {node.name for node in body.node if node.op == _RESTORE}
        for node in body.node:
            node.attr.pop("_class", None)  # beside what it is to be placed, by names outside the function
            for one in [one for one in node.input if one.startswith("^") and one[1:] in reading]:
                node.input.remove(one)
        wanted = sorted((results | set(function.control_ret.values())) - reading)
        return list(tf.graph_util.import_graph_def(body, given, wanted, name=_PREFIX))


def _readings(targets: list[Any]) -> Iterator[Any]:
    """The operations ``RestoreV2`` on which others depend."""
    pending, seen = list(targets), set()
    while pending:
        operation = pending.pop()
        if operation in seen:
            continue
        seen.add(operation)
        if operation.type == _RESTORE:
            yield operation
            continue
        pending += [tensor.op for tensor in operation.inputs]
        pending += operation.control_inputs


def _strings(tensor: Any) -> list[str]:
    if tensor.op.type != "Const":
        raise ModelError("what restores the model's variables is malformed", hint="Export the model again.")
    return [one.decode() for one in tf.make_ndarray(tensor.op.get_attr("value")).ravel().tolist()]


def _value(bundle: TensorBundle, tensor: Any, name: str, part: str) -> Any:
    stored = bundle.read(name, part)
    if stored.data_type != int(tensor.dtype.as_datatype_enum):
        kind = type_name(stored.data_type)
        raise ModelError(f"the model expects {tensor.dtype.name} for {name}, and {kind} is stored")
    if tensor.dtype == tf.string:
        return stored.strings()
    return stored.data.view(tensor.dtype.as_numpy_dtype).reshape(stored.shape)
