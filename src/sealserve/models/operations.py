"""TensorFlow's operations: their names, the types of their outputs, and which of them OpenVINO converts.

``operations.txt`` has a line for each operation of TensorFlow 2.21: its name, ``+`` where OpenVINO 2026.4 has a
conversion rule and ``-`` where it has none, and its outputs. An output is a type (``int32``), an attribute of the node
that names a type (``T``), such an attribute with the type that stands where the node lacks it (``output_type=int64``),
or one that lists types, ``Tout...``; ``*N`` after it repeats it as often as the attribute ``N`` says. It is compared
with both programs by ``tests/models/test_operations.py``, which also prints it anew.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources

from sealserve.wire.tensorflow_pb2 import DataType, NodeDef

TABLE = "operations.txt"

_MOST_OUTPUTS = 100_000


@dataclass(frozen=True)
class Operation:
    """One of TensorFlow's operations.

    :ivar in_openvino: whether OpenVINO has a conversion rule for it. A rule can still fail on a particular node.
    :ivar outputs: as in the table.
    """

    in_openvino: bool
    outputs: tuple[str, ...]


@functools.cache
def operations() -> dict[str, Operation]:
    """The table, by the operations' names."""
    table = {}
    for line in resources.files(__package__).joinpath(TABLE).read_text(encoding="utf-8").splitlines():
        name, mark, *outputs = line.split()
        table[name] = Operation(mark == "+", tuple(outputs))
    return table


def unknown_to_tensorflow(names: Iterable[str]) -> list[str]:
    """The operations that are none of TensorFlow's own: whoever runs them needs a library that has them."""
    return sorted(set(names) - operations().keys())


def unknown_to_openvino(names: Iterable[str]) -> list[str]:
    """The operations for which OpenVINO has no conversion rule."""
    table = operations()
    return sorted(name for name in set(names) if name not in table or not table[name].in_openvino)


def output_type(node: NodeDef, output: int) -> int | None:
    """The type (a ``DataType``) of a node's output; None if the operation is unknown or the node does not say."""
    operation = operations().get(node.op)
    if operation is None:
        return None
    for index, kind in enumerate(_types(node, operation.outputs)):
        if index == output:
            return kind
        if index > _MOST_OUTPUTS:
            break
    return None


def _types(node: NodeDef, outputs: tuple[str, ...]) -> Iterator[int | None]:
    for output in outputs:
        kind, _, number = output.partition("*")
        if kind.endswith("..."):
            name = kind.removesuffix("...")
            yield from node.attr[name].list.type if name in node.attr else ()
            continue
        times = node.attr[number].i if number in node.attr else 0
        for _ in range(times if number else 1):
            yield _type(node, kind)


def _type(node: NodeDef, kind: str) -> int | None:
    attribute, _, default = kind.partition("=")
    if attribute in node.attr:
        return int(node.attr[attribute].type) or None
    name = f"DT_{(default or attribute).upper()}"
    return int(DataType.Value(name)) if name in DataType.keys() else None  # noqa: SIM118 - no mapping
