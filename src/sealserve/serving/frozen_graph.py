"""One signature of a SavedModel as a frozen graph: a ``GraphDef`` in which values stand for the variables.

OpenVINO reads it from one file. Of a SavedModel it would want a directory, whose files it opens by their names, and
whoever rules over that directory could give it others than those that were verified.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sealserve.errors import ModelError
from sealserve.serving.tensor_bundle import StoredTensor
from sealserve.serving.variables import split_reference
from sealserve.serving.weights import Weights, constant, is_large, placeholder
from sealserve.wire.tensorflow_pb2 import AttrValue, GraphDef, MetaGraphDef, NodeDef, TensorInfo


@dataclass(frozen=True)
class FrozenGraph:
    """A signature's part of a graph.

    :ivar inputs: the tensor that is each input, by the signature's names; so ``outputs``. Their order is the names'.
    :ivar weights: values by the names of the placeholders that stand for them.
    """

    graph: GraphDef
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    weights: dict[str, StoredTensor]


def freeze(meta_graph: MetaGraphDef, signature: str, values: Weights) -> FrozenGraph:
    """The part of the graph that computes a signature.

    :param values: of ``meta_graph``'s graph.
    :raises ModelError: the graph lacks a tensor of the signature, or a variable cannot be read.
    """
    whole = meta_graph.graph_def
    definition = meta_graph.signature_def[signature]
    nodes = {node.name: node for node in whole.node}
    fed: dict[tuple[str, int], str] = {}
    inputs, outputs = {}, {}
    graph = GraphDef(versions=whole.versions, library=whole.library)
    for index, (alias, info) in enumerate(sorted(definition.inputs.items())):
        tensor = _tensor(info, alias, nodes)
        name = tensor[0]
        if nodes[name].op != "Placeholder":
            name = f"sealserve_input_{index}"
            graph.node.append(_placeholder(name, info))
        fed[tensor] = name
        inputs[alias] = f"{name}:0"
    wanted = {alias: _tensor(info, alias, nodes) for alias, info in sorted(definition.outputs.items())}
    for index, (alias, tensor) in enumerate(wanted.items()):
        # A node of its own: others may use the tensor too. A cast to the type that it has, because OpenVINO forgets
        # the name of an Identity whose input is one of the graph's.
        name = f"sealserve_output_{index}"
        kind = AttrValue(type=definition.outputs[alias].dtype)
        graph.node.append(
            NodeDef(name=name, op="Cast", input=[_reference(tensor, fed)], attr={"SrcT": kind, "DstT": kind})
        )
        outputs[alias] = f"{name}:0"
    weights: dict[str, StoredTensor] = {}
    for node, references in _needed(nodes, [*wanted.values(), *fed], fed):
        # A constant that waits for something belongs to a branch.
        value = None if node.op == "Const" and references else values.value(node)
        if value is None:
            graph.node.append(node)
            graph.node[-1].input[:] = references
        elif is_large(value):
            weights[node.name] = value
            graph.node.append(placeholder(node.name, value))
        else:
            graph.node.append(constant(node.name, value))
    return FrozenGraph(graph, inputs, outputs, weights)


def _needed(
    nodes: Mapping[str, NodeDef], tensors: list[tuple[str, int]], fed: Mapping[tuple[str, int], str]
) -> Iterator[tuple[NodeDef, list[str]]]:
    """The nodes that compute ``tensors`` from those that are fed, and what each refers to."""
    needed: dict[str, list[str]] = {}
    pending = [tensor for tensor in tensors if fed.get(tensor) in {None, tensor[0]}]
    while pending:
        name, _ = pending.pop()
        if name in needed:
            continue
        if name not in nodes:
            raise ModelError(f"the model's graph lacks the node {name}", hint="Export the model again.")
        data = [split_reference(one) for one in nodes[name].input if not one.startswith("^")]
        needed[name] = [_reference(tensor, fed) for tensor in data]
        pending += [tensor for tensor in data if fed.get(tensor) in {None, tensor[0]}]
    for name, references in needed.items():
        # What is only waited for matters where it is part of the computation too (the branches of TensorFlow 1).
        waits = [one for one in nodes[name].input if one.startswith("^") and one[1:] in needed]
        yield nodes[name], references + waits


def _reference(tensor: tuple[str, int], fed: Mapping[tuple[str, int], str]) -> str:
    if tensor in fed:
        return fed[tensor]
    name, output = tensor
    return f"{name}:{output}" if output else name


def _tensor(info: TensorInfo, alias: str, nodes: Mapping[str, NodeDef]) -> tuple[str, int]:
    try:
        tensor = split_reference(info.name)
    except ModelError:
        tensor = ("", 0)
    if tensor[0] not in nodes:
        raise ModelError(
            f"the model's graph has no tensor {info.name or '(without a name)'}, which its signature calls {alias}",
            hint="Export the model again, without sparse and composite tensors.",
        )
    return tensor


def _placeholder(name: str, info: TensorInfo) -> NodeDef:
    return NodeDef(
        name=name,
        op="Placeholder",
        attr={"dtype": AttrValue(type=info.dtype), "shape": AttrValue(shape=info.tensor_shape)},
    )
