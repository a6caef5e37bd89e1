"""One signature of a SavedModel as a frozen graph: a ``GraphDef`` in which values stand for the variables.

OpenVINO reads it from one file. Of a SavedModel it would want a directory, whose files it opens by their names, and
whoever rules over that directory could give it others than those that were verified.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sealserve.errors import ModelError
from sealserve.models.saved_model import Signature, signature_of
from sealserve.serving.signature_graph import SignatureGraph
from sealserve.serving.string_signature import Strings, without_strings
from sealserve.serving.tensor_bundle import StoredTensor
from sealserve.serving.variables import split_reference
from sealserve.serving.weights import Weights, constant, is_large, placeholder, spell_out_bfloat16
from sealserve.wire.tensorflow_pb2 import AttrValue, GraphDef, MetaGraphDef, NodeDef, TensorInfo


@dataclass(frozen=True)
class FrozenGraph:
    """A signature's part of a graph.

    :ivar signature: what the graph takes and gives.
    :ivar inputs: the tensor that is each input, by the signature's names; so ``outputs``. Their order is the names'.
    :ivar weights: values by the names of the placeholders that stand for them.
    :ivar strings: what is to be done with the strings of the model's own signature, which the graph does not have.
    """

    graph: GraphDef
    signature: Signature
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    weights: dict[str, StoredTensor]
    strings: Strings | None


def freeze(meta_graph: MetaGraphDef, signature: str, values: Weights) -> FrozenGraph:
    """The part of the graph that computes a signature.

    :param values: of ``meta_graph``'s graph.
    :raises ModelError: the graph lacks a tensor of the signature, it computes with strings, or a variable cannot be
        read.
    """
    part = SignatureGraph(meta_graph, signature)
    strings = without_strings(part, signature) if part.has_strings else None
    definition = part.definition
    fed: dict[str, str] = {}
    inputs, outputs = {}, {}
    graph = GraphDef(versions=meta_graph.graph_def.versions, library=meta_graph.graph_def.library)
    for index, (alias, info) in enumerate(sorted(definition.inputs.items())):
        tensor = _tensor(info, alias, part)
        name = split_reference(tensor)[0]
        if part.nodes[name].op != "Placeholder":
            name = f"sealserve_input_{index}"
            graph.node.append(_placeholder(name, info))
        fed[tensor] = name
        inputs[alias] = f"{name}:0"
    wanted = {alias: _tensor(info, alias, part) for alias, info in sorted(definition.outputs.items())}
    for index, (alias, tensor) in enumerate(wanted.items()):
        # A node of its own: others may use the tensor too. A cast to the type that it has, because OpenVINO forgets
        # the name of an Identity whose input is one of the graph's.
        name = f"sealserve_output_{index}"
        kind = AttrValue(type=definition.outputs[alias].dtype)
        graph.node.append(
            NodeDef(name=name, op="Cast", input=[fed.get(tensor, tensor)], attr={"SrcT": kind, "DstT": kind})
        )
        outputs[alias] = f"{name}:0"
    weights: dict[str, StoredTensor] = {}
    for node, references in _needed(part, [*wanted.values(), *fed], fed):
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
    spell_out_bfloat16(graph)
    return FrozenGraph(graph, signature_of(definition), inputs, outputs, weights, strings)


def _needed(part: SignatureGraph, tensors: list[str], fed: Mapping[str, str]) -> Iterator[tuple[NodeDef, list[str]]]:
    """The nodes that compute ``tensors`` from those that are fed, and what each refers to."""
    needed: dict[str, tuple[NodeDef, list[str]]] = {}
    pending = list(tensors)
    while pending:
        tensor = pending.pop()
        node = part.node_of(tensor)
        if fed.get(tensor) not in {None, node.name} or node.name in needed:
            continue
        data = part.inputs(node)
        needed[node.name] = node, [fed.get(tensor, tensor) for tensor in data]
        pending += data
    for node, references in needed.values():
        # What is only waited for matters where it is part of the computation too (the branches of TensorFlow 1).
        waits = [one for one in node.input if one.startswith("^") and one[1:] in needed]
        yield node, references + waits


def _tensor(info: TensorInfo, alias: str, part: SignatureGraph) -> str:
    try:
        tensor = part.resolve(info.name)
        if split_reference(tensor)[0] in part.nodes:
            return tensor
    except ModelError:
        pass
    raise ModelError(
        f"the model's graph has no tensor {info.name or '(without a name)'}, which its signature calls {alias}",
        hint="Export the model again, without sparse and composite tensors.",
    )


def _placeholder(name: str, info: TensorInfo) -> NodeDef:
    return NodeDef(
        name=name,
        op="Placeholder",
        attr={"dtype": AttrValue(type=info.dtype), "shape": AttrValue(shape=info.tensor_shape)},
    )
