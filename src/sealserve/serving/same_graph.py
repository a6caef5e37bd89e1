"""Whether two signatures compute the same, so that they need to be compiled once only.

A Keras export has two signatures, ``serve`` and ``serving_default``, of one graph: their placeholders and functions
differ in their names alone. What is told here is exact: graphs have the same description only where they are the same
but for such names. Where that cannot be seen, they are different.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from sealserve.errors import ModelError
from sealserve.serving.frozen_graph import FrozenGraph
from sealserve.serving.variables import split_reference
from sealserve.wire.tensorflow_pb2 import AttrValue, FunctionDef, NodeDef, OpDef

_DEBUG_INFO = 6  # of NodeDef: names in the program that made it
_ARGUMENTS = 7  # of FunctionDef: what the program called them
_NAMES = "_user_specified_name"


@dataclass(frozen=True)
class Description:
    """What a frozen graph computes.

    :ivar digest: the same for two graphs that compute the same, outputs and inputs in their order.
    :ivar inputs: the signature's inputs in that order.
    """

    digest: bytes
    inputs: tuple[str, ...]


class Descriptions:
    """Describes frozen graphs of one model: in them, values of one name are the same."""

    def __init__(self) -> None:
        self._functions: dict[str, bytes | None] = {}  # None while one is described

    def describe(self, frozen: FrozenGraph) -> Description | None:
        """None where it cannot be said: an input is not used, a function calls itself or is missing."""
        nodes = {node.name: node for node in frozen.graph.node}
        library = {function.signature.name: function for function in frozen.graph.library.function}
        # Nodes are numbered in the order in which one comes to them from the outputs, which does not depend on names.
        numbers: dict[str, int] = {}
        order: list[str] = []

        def number(name: str) -> int:
            if name not in numbers:
                numbers[name] = len(order)
                order.append(name)
            return numbers[name]

        digest = hashlib.sha256()
        try:
            for reference in frozen.outputs.values():
                number(split_reference(reference)[0])
            for name in order:  # it grows
                node = nodes[name]
                parts = [frozen.graph.versions.SerializeToString(), self._content(node, library)]
                if name in frozen.weights:
                    parts.append(b"value " + name.encode())
                for reference in node.input:
                    source, _, output = reference.removeprefix("^").partition(":")
                    parts.append(f"{reference[:1] == '^'} {number(source)} {output}".encode())
                _update(digest, parts)
            _update(digest, [f"{len(frozen.outputs)} outputs".encode()])
            by_tensor = {tensor: alias for alias, tensor in frozen.inputs.items()}
            inputs = [by_tensor[f"{name}:0"] for name in order if f"{name}:0" in by_tensor]
        except (_UnknownError, KeyError, ModelError):
            return None
        if len(inputs) != len(frozen.inputs):
            return None
        # Which of the nodes are inputs is part of it: others without inputs can look the same.
        _update(digest, [str(numbers[split_reference(frozen.inputs[alias])[0]]).encode() for alias in inputs])
        return Description(digest.digest(), tuple(inputs))

    def _content(self, node: NodeDef, library: Mapping[str, FunctionDef]) -> bytes:
        """A node without its name and inputs, functions by what they do."""
        copy = NodeDef(op=node.op, device=node.device)
        if node.op in library:
            copy.op = self._function(node.op, library)
        for name, value in node.attr.items():
            if name != _NAMES:
                copy.attr[name].CopyFrom(value)
        for value in copy.attr.values():
            self._rename(value, library)
        others = [one for one in _unknown_fields(node) if one[0] != _DEBUG_INFO]
        return copy.SerializeToString(deterministic=True) + repr(others).encode()

    def _rename(self, value: AttrValue, library: Mapping[str, FunctionDef]) -> None:
        for function in (*([value.func] if value.HasField("func") else []), *value.list.func):
            if function.attr:
                raise _UnknownError
            function.name = self._function(function.name, library) if function.name else ""

    def _function(self, name: str, library: Mapping[str, FunctionDef]) -> str:
        if name not in self._functions:
            self._functions[name] = None
            function = library[name]
            head = OpDef()
            head.CopyFrom(function.signature)
            head.name = ""
            others = [one for one in _unknown_fields(function) if one[0] != _ARGUMENTS]
            parts = [head.SerializeToString(), repr(others).encode(), repr(sorted(function.ret.items())).encode()]
            for node in function.node_def:
                parts += [node.name.encode(), self._content(node, library), *(one.encode() for one in node.input)]
                parts.append(b"")
            digest = hashlib.sha256()
            _update(digest, parts)
            self._functions[name] = digest.digest()
        known = self._functions[name]
        if known is None:
            raise _UnknownError
        return known.hex()


class _UnknownError(Exception):
    """What a node does cannot be seen."""


def _unknown_fields(message: Message) -> list[tuple[int, Any]]:
    """Numbers and contents of fields that our messages do not have."""
    fields = UnknownFieldSet(message)
    return [(fields[index].field_number, fields[index].data) for index in range(len(fields))]


def _update(digest: hashlib._Hash, parts: Iterable[bytes]) -> None:
    """Add parts so that others next to each other do not come out the same."""
    parts = list(parts)
    digest.update(len(parts).to_bytes(8, "big"))
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
