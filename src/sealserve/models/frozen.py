"""Frozen graphs: a ``GraphDef`` in a file (``tensorflow/core/framework/graph.proto``), its weights constants."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from sealserve.errors import ModelError
from sealserve.models.operations import output_type
from sealserve.models.parsing import parse, read_model_file
from sealserve.models.reachable import node_name
from sealserve.models.saved_model import TensorSpec
from sealserve.models.shapes import Shapes
from sealserve.wire.tensorflow_pb2 import DataType, GraphDef, NodeDef

_PLACEHOLDERS = frozenset({"Placeholder", "PlaceholderWithDefault", "PlaceholderV2"})

# Ends of a graph that nobody asks for: checks, and what writes a checkpoint.
_NO_RESULT = frozenset({"Assert", "Assign", "AssignVariableOp", "Const", "NoOp", "SaveV2"})


@dataclass(frozen=True)
class FrozenModel:
    """A frozen graph that was read.

    :ivar size: bytes of the file.
    :ivar nodes: by their names.
    """

    path: Path
    size: int
    graph: GraphDef
    nodes: Mapping[str, NodeDef]

    def inputs(self) -> tuple[str, ...]:
        """The placeholders."""
        return tuple(name for name, node in self.nodes.items() if node.op in _PLACEHOLDERS)

    def outputs(self) -> tuple[str, ...]:
        """The nodes whose outputs nothing in the graph uses."""
        used = {node_name(reference) for node in self.nodes.values() for reference in node.input}
        return tuple(
            name for name, node in self.nodes.items() if name not in used and node.op not in _NO_RESULT | _PLACEHOLDERS
        )

    def tensor(self, reference: str) -> TensorSpec:
        """What is known of a tensor, ``node`` or ``node:output``; its type is ``DT_INVALID`` if it is not known."""
        name, _, number = reference.partition(":")
        number = number or "0"
        kind = output_type(self.nodes[name], int(number)) if name in self.nodes and number.isdecimal() else None
        return TensorSpec(f"{name}:{number}", kind or int(DataType.DT_INVALID), self._shapes.of(f"{name}:{number}"))

    @functools.cached_property
    def _shapes(self) -> Shapes:
        return Shapes(self.nodes)


def read_frozen_graph(path: Path) -> FrozenModel:
    """Read a frozen graph.

    :raises ModelError: the file holds something else, or too much. :raises InputError: it cannot be read.
    """
    return parse_frozen_graph(read_model_file(path), path)


def parse_frozen_graph(data: bytes, path: Path) -> FrozenModel:
    """A frozen graph from the bytes of its file; as :func:`read_frozen_graph`.

    :param path: where it comes from, for people.
    """
    try:
        graph = parse(data, GraphDef)
    except DecodeError as error:
        raise ModelError(
            f"{path} is no frozen graph: it cannot be parsed",
            hint="The file may be cut short, or be another format. `sealserve model inspect` says what it is.",
        ) from error
    nodes = {node.name: node for node in graph.node if node.op}
    if not nodes:
        raise ModelError(f"{path} is no frozen graph: it has no nodes", hint="Give a frozen GraphDef (.pb).")
    if len(nodes) != len(graph.node):
        raise ModelError(
            f"{path} is no frozen graph: nodes lack an operation, or share a name", hint="Export the model again."
        )
    return FrozenModel(path, len(data), graph, nodes)
