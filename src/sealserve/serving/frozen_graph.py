"""One signature of a SavedModel as a frozen graph: a ``GraphDef`` in which constants stand for the variables.

OpenVINO reads it from one file. Of a SavedModel it would want a directory, whose files it opens by their names, and
whoever rules over that directory could give it others than those that were verified.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from google.protobuf.message import EncodeError

from sealserve.errors import ModelError
from sealserve.serving.openvino_errors import USE_TENSORFLOW
from sealserve.serving.variables import OPERATIONS, Variables, split_reference
from sealserve.wire.tensorflow_pb2 import AttrValue, GraphDef, MetaGraphDef, NodeDef, TensorInfo

_MOST_BYTES = (1 << 31) - 1  # of a protobuf message


@dataclass(frozen=True)
class FrozenSignature:
    """The tensors of the frozen graph that are the signature's inputs and outputs, by the signature's names."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def write_frozen_graph(
    meta_graph: MetaGraphDef, signature: str, variables: Variables, file: BinaryIO
) -> FrozenSignature:
    """Write the part of the graph that computes a signature.

    :raises ModelError: the graph lacks a tensor of the signature, a variable cannot be read, or it gets too large.
    """
    graph = meta_graph.graph_def
    definition = meta_graph.signature_def[signature]
    nodes = {node.name: node for node in graph.node}
    fed: dict[tuple[str, int], str] = {}
    inputs, outputs = {}, {}
    head = GraphDef(versions=graph.versions, library=graph.library)
    for index, (alias, info) in enumerate(sorted(definition.inputs.items())):
        tensor = _tensor(info, alias, nodes)
        name = tensor[0]
        if nodes[name].op != "Placeholder":
            name = f"sealserve_input_{index}"
            head.node.append(_placeholder(name, info))
        fed[tensor] = name
        inputs[alias] = f"{name}:0"
    wanted = {alias: _tensor(info, alias, nodes) for alias, info in sorted(definition.outputs.items())}
    for index, (alias, tensor) in enumerate(wanted.items()):
        # A node of its own: others may use the tensor too. A cast to the type that it has, because OpenVINO forgets
        # the name of an Identity whose input is one of the graph's.
        name = f"sealserve_output_{index}"
        kind = AttrValue(type=definition.outputs[alias].dtype)
        head.node.append(
            NodeDef(name=name, op="Cast", input=[_reference(tensor, fed)], attr={"SrcT": kind, "DstT": kind})
        )
        outputs[alias] = f"{name}:0"
    try:
        written = file.write(head.SerializeToString())
        # Fields of one message may be written one after the other: no more than one node is in memory twice.
        for node in _needed(nodes, [*wanted.values(), *fed], fed, variables):
            data = node.SerializeToString()
            written += file.write(_field_header(GraphDef.NODE_FIELD_NUMBER, len(data))) + file.write(data)
    except EncodeError:
        written = _MOST_BYTES + 1
    if written > _MOST_BYTES:
        raise ModelError(f"the graph of the signature {signature} is larger than 2 GiB", hint=f"{USE_TENSORFLOW}.")
    return FrozenSignature(inputs, outputs)


def _needed(
    nodes: Mapping[str, NodeDef],
    tensors: list[tuple[str, int]],
    fed: Mapping[tuple[str, int], str],
    variables: Variables,
) -> Iterator[NodeDef]:
    """The nodes that compute ``tensors`` from those that are fed."""
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
        node = nodes[name]
        if node.op in OPERATIONS:
            yield variables.constant(node)
            continue
        # What is only waited for matters where it is part of the computation too (the branches of TensorFlow 1).
        waits = [one for one in node.input if one.startswith("^") and one[1:] in needed]
        if references + waits != list(node.input):
            changed = NodeDef()
            changed.CopyFrom(node)
            changed.input[:] = references + waits
            node = changed
        yield node


def _field_header(number: int, size: int) -> bytes:
    """What stands before a message inside a message (https://protobuf.dev/programming-guides/encoding)."""
    header = bytearray([number << 3 | 2])
    while size > 0x7F:
        header.append(size & 0x7F | 0x80)
        size >>= 7
    header.append(size)
    return bytes(header)


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
