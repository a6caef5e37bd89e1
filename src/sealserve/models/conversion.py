"""From a frozen graph to a SavedModel, without TensorFlow.

The weights are constants in the graph, so that the SavedModel is ``saved_model.pb`` alone. Only what the outputs need
is kept. What a node says about places (``device``, ``_class``) belongs to the machine on which the graph was made, and
is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sealserve.errors import InputError, ModelError
from sealserve.models.frozen import FrozenModel, read_frozen_graph
from sealserve.models.graph import PREDICT_METHOD, SERVE_TAG, shape_message, type_attribute
from sealserve.models.parsing import MAX_FILE
from sealserve.models.reachable import called_functions, node_name, reachable_nodes
from sealserve.models.saved_model import DEFAULT_SIGNATURE, VARIABLES, TensorSpec
from sealserve.models.writing import write_saved_model
from sealserve.wire.tensorflow_pb2 import (
    AttrValue,
    DataType,
    GraphDef,
    MetaGraphDef,
    NodeDef,
    SavedModel,
    SignatureDef,
    TensorInfo,
)

_REFERENCE = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*(:[0-9]{1,6})?", re.ASCII)
_MOST_LISTED = 10


@dataclass(frozen=True)
class Converted:
    """A SavedModel that was written.

    :ivar path: the directory of its version.
    :ivar inputs: by the names that callers use; so ``outputs``.
    :ivar left_out: how many nodes of the graph the outputs do not need.
    """

    path: Path
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    left_out: int


def convert_frozen_graph(
    import_path: Path,
    export_dir: Path,
    *,
    version: int = 1,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
) -> Converted:
    """Write ``export_dir/version/saved_model.pb`` with the signature ``serving_default``; whole, or not at all.

    :param inputs: tensors (``node``, ``node:output``), each with a name for callers before it (``name=node``) or under
        its own. A node that is no placeholder becomes one. The graph's only placeholder if empty.
    :param outputs: in the same form. The only node that no other uses if empty.
    :raises ModelError: the graph is no frozen one, or lacks a tensor; or which tensors are meant is not clear.
    :raises InputError: a file cannot be read or written, or the version exists with other content.
    :raises MachineError: the disk is full.
    """
    if version < 1:
        raise InputError(f"a model's version is at least 1, and not {version}", hint="Leave it out for version 1.")
    model = read_frozen_graph(import_path)
    input_tensors = _specs(model, inputs or _only(model.inputs(), "input", model), "input")
    output_tensors = _specs(model, outputs or _only(model.outputs(), "output", model), "output")
    message = SavedModel(saved_model_schema_version=1)
    meta_graph = message.meta_graphs.add(meta_info_def=MetaGraphDef.MetaInfoDef(tags=[SERVE_TAG]))
    _fill(meta_graph.graph_def, model, input_tensors.values(), output_tensors.values())
    meta_graph.signature_def[DEFAULT_SIGNATURE].CopyFrom(
        SignatureDef(
            inputs={alias: _info(spec) for alias, spec in input_tensors.items()},
            outputs={alias: _info(spec) for alias, spec in output_tensors.items()},
            method_name=PREDICT_METHOD,
        )
    )
    if message.ByteSize() > MAX_FILE:
        raise ModelError(f"the graph in {import_path} is larger than 2 GiB", hint="Convert it with TensorFlow.")
    path = write_saved_model(export_dir, version, message)
    return Converted(path, input_tensors, output_tensors, len(model.nodes) - len(meta_graph.graph_def.node))


def _only(found: tuple[str, ...], what: str, model: FrozenModel) -> tuple[str, ...]:
    """The one that is meant if none was named."""
    if len(found) == 1:
        return found
    listed = ", ".join(found[:_MOST_LISTED]) + (", …" if len(found) > _MOST_LISTED else "")
    raise ModelError(
        f"{model.path} has {len(found)} nodes that could be its {what}" if found else f"{model.path} shows no {what}",
        hint=f"Name those that are meant: --{what}s " + (f"(of {listed})." if found else "NODE."),
    )


def _specs(model: FrozenModel, wanted: Iterable[str], what: str) -> dict[str, TensorSpec]:
    specs: dict[str, TensorSpec] = {}
    for one in wanted:
        alias, _, reference = one.rpartition("=")
        if not _REFERENCE.fullmatch(reference):
            raise InputError(f"{one!r} names no tensor", hint="A tensor is `node`, `node:output` or `name=node`.")
        reference = reference.removesuffix(":0")
        alias = alias or reference
        if node_name(reference) not in model.nodes:
            known = model.inputs() if what == "input" else model.outputs()
            raise ModelError(
                f"{model.path} has no node {node_name(reference)}",
                hint=f"Nodes that could be its {what}: {', '.join(known[:_MOST_LISTED]) or 'none'}.",
            )
        if alias in specs:
            raise InputError(f"two {what}s are named {alias}", hint="Give each a name of its own: `name=node`.")
        spec = model.tensor(reference)
        if spec.data_type == DataType.DT_INVALID:
            raise ModelError(
                f"nothing tells the type of {spec.name}: its operation {model.nodes[node_name(reference)].op} has no "
                "such output, or is none of TensorFlow's",
                hint="Choose another tensor, or convert the graph with TensorFlow.",
            )
        if what == "input" and not spec.name.endswith(":0"):
            raise ModelError(f"{spec.name} cannot be fed: it is not the first output of its node")
        specs[alias] = spec
    return specs


def _fill(graph: GraphDef, model: FrozenModel, inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec]) -> None:
    """Copy the part that computes the outputs from the inputs, in the file's order."""
    fed = {node_name(spec.name): spec for spec in inputs}
    ends = [node_name(spec.name) for spec in outputs]
    kept = reachable_nodes(model.nodes, ends, stop=fed)
    if unused := sorted(fed.keys() - kept):
        raise ModelError(f"the outputs do not depend on {', '.join(unused)}", hint="Leave it out of the inputs.")
    graph.versions.CopyFrom(model.graph.versions)
    for node in model.graph.node:
        if node.name in kept:
            graph.node.append(_placeholder(node, fed[node.name]) if node.name in fed else node)
            graph.node[-1].device = ""
            graph.node[-1].attr.pop("_class", None)
    _refuse(graph, fed, model)
    graph.library.function.extend(called_functions(model.graph, graph.node))


def _placeholder(node: NodeDef, spec: TensorSpec) -> NodeDef:
    if node.op == "Placeholder":
        return node
    return NodeDef(
        name=node.name,
        op="Placeholder",
        attr={"dtype": type_attribute(spec.data_type), "shape": AttrValue(shape=shape_message(spec.shape))},
    )


def _refuse(graph: GraphDef, fed: Mapping[str, TensorSpec], model: FrozenModel) -> None:
    for node in graph.node:
        if node.op in VARIABLES:
            raise ModelError(
                f"{model.path} is not frozen: {node.name} is a variable, whose value is in another file",
                hint="Freeze the graph first (TensorFlow 1: `freeze_graph`), or export a SavedModel.",
            )
        if node.op == "Placeholder" and node.name not in fed:
            raise ModelError(
                f"the outputs need {node.name}, which is none of the inputs",
                hint=f"Name it too: --inputs {','.join([*fed, node.name])}.",
            )


def _info(spec: TensorSpec) -> TensorInfo:
    return TensorInfo(
        name=spec.name,
        dtype=type_attribute(spec.data_type).type,
        tensor_shape=shape_message(spec.shape),
    )
