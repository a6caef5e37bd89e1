"""The part of a graph that computes given tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from sealserve.errors import ModelError
from sealserve.wire.tensorflow_pb2 import AttrValue, FunctionDef, GraphDef, NodeDef


def node_name(reference: str) -> str:
    """The node of an input such as ``a``, ``a:1``, ``^a`` or, in a function, ``a:output:1``."""
    return reference.lstrip("^").partition(":")[0]


def reachable_nodes(
    nodes: Mapping[str, NodeDef], ends: Iterable[str], *, stop: Collection[str] = (), control: bool = True
) -> set[str]:
    """The names of the nodes that compute ``ends``.

    :param stop: nodes that are fed: what computes them does not count.
    :param control: whether nodes that are only waited for count too.
    :raises ModelError: the graph lacks one of them.
    """
    found: set[str] = set()
    pending = list(ends)
    while pending:
        name = pending.pop()
        if name in found:
            continue
        if name not in nodes:
            raise ModelError(f"the model's graph lacks the node {name[:200]}", hint="Export the model again.")
        found.add(name)
        if name not in stop:
            pending += (node_name(one) for one in nodes[name].input if control or not one.startswith("^"))
    return found


def called_functions(graph: GraphDef, nodes: Iterable[NodeDef]) -> list[FunctionDef]:
    """The functions that ``nodes`` call, and those that these call. Unknown names are left out."""
    library = {function.signature.name: function for function in graph.library.function}
    found: dict[str, FunctionDef] = {}
    pending = [name for node in nodes for name in _names(node)]
    while pending:
        name = pending.pop()
        if name in library and name not in found:
            found[name] = library[name]
            pending += (inner for node in library[name].node_def for inner in _names(node))
    return list(found.values())


def _names(node: NodeDef) -> Iterator[str]:
    yield node.op  # a function's name can stand where an operation's does
    for value in node.attr.values():
        yield from _named(value)


def _named(value: AttrValue) -> Iterator[str]:
    functions = [value.func] if value.HasField("func") else value.list.func
    for function in functions:
        yield function.name
        for inner in function.attr.values():  # a function may be given another
            yield from _named(inner)
