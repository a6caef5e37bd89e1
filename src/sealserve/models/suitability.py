"""Which engine can run a model, as far as its operations tell. Only loading it gives certainty."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from sealserve.models.operations import unknown_to_openvino, unknown_to_tensorflow
from sealserve.models.reachable import called_functions, node_name, reachable_nodes
from sealserve.models.saved_model import DEFAULT_SIGNATURE, VARIABLES, Signature
from sealserve.wire.tensorflow_pb2 import DataType, GraphDef, MetaGraphDef

_MOST_NAMED = 8
_PARSED = frozenset({"ParseExample", "ParseExampleV2"})  # what they do is done before OpenVINO's part of the graph


@dataclass(frozen=True)
class Verdict:
    """What is said of one engine.

    :ivar runs: whether it can run the model; None where that is not known.
    :ivar reason: a few words.
    :ivar tried: whether the model was loaded, rather than looked at.
    """

    engine: str
    runs: bool | None
    reason: str
    tried: bool = False

    def __str__(self) -> str:
        answer = {True: "yes", False: "no", None: "not known"}[self.runs]
        return f"{answer}: {self.reason}"

    def as_dict(self) -> dict[str, bool | str | None]:
        """JSON ready."""
        return {"runs": self.runs, "reason": self.reason, "tried": self.tried}


def judge_saved_model(
    meta_graph: MetaGraphDef, signatures: Mapping[str, Signature], operations: Collection[str]
) -> tuple[Verdict, ...]:
    """For each engine whether it has what a SavedModel needs.

    :param operations: all that occur.
    """
    # The engine must run this signature; of others it says so when they are asked for (`OpenVinoEngine.load`).
    first = min(signatures, key=lambda name: (name != DEFAULT_SIGNATURE, name))
    signature = signatures[first]
    needed = _needed(meta_graph.graph_def, signature)
    strings = [
        alias
        for alias, spec in (*signature.inputs.items(), *signature.outputs.items())
        if spec.data_type == DataType.DT_STRING
    ]
    openvino = _openvino(needed - _PARSED, f"of the signature {first}")
    if openvino.runs and strings:
        named = ", ".join(strings[:_MOST_NAMED])
        openvino = Verdict(
            "openvino",
            runs=None,
            reason=f"{named} is a string tensor: it may hold tf.Examples, or labels that are only moved; --check tells",
        )
    return openvino, _tensorflow(operations)


def judge_frozen_graph(operations: Collection[str]) -> tuple[Verdict, ...]:
    """As :func:`judge_saved_model`, for the SavedModel that a frozen graph can be converted to."""
    return _openvino(operations, "of the graph"), _tensorflow(operations)


def judge_onnx() -> tuple[Verdict, ...]:
    """Of an ONNX model nothing is known before OpenVINO has read it."""
    return (
        Verdict("openvino", runs=None, reason="ONNX's operations are not looked at; --check loads the model"),
        Verdict("tensorflow", runs=False, reason="it does not read ONNX"),
    )


def _openvino(operations: Iterable[str], place: str) -> Verdict:
    lacking = unknown_to_openvino(set(operations) - VARIABLES)  # in whose place it puts values
    if lacking:
        return Verdict("openvino", runs=False, reason=f"OpenVINO has no rule for {_names(lacking)}")
    return Verdict("openvino", runs=True, reason=f"OpenVINO has a rule for each operation {place}")


def _tensorflow(operations: Iterable[str]) -> Verdict:
    foreign = unknown_to_tensorflow(operations)
    if foreign:
        return Verdict("tensorflow", runs=False, reason=f"not among TensorFlow's own operations: {_names(foreign)}")
    return Verdict("tensorflow", runs=True, reason="all operations are TensorFlow's own")


def _needed(graph: GraphDef, signature: Signature) -> set[str]:
    """The operations that compute a signature's outputs."""
    nodes = {node.name: node for node in graph.node}
    fed = {node_name(spec.name) for spec in signature.inputs.values()}
    ends = [name for spec in signature.outputs.values() if (name := node_name(spec.name)) in nodes]
    used = [nodes[name] for name in reachable_nodes(nodes, ends, stop=fed, control=False)]
    functions = called_functions(graph, used)
    defined = {function.signature.name for function in functions}
    inside = {node.op for function in functions for node in function.node_def}
    return ({node.op for node in used if node.name not in fed} | inside) - defined


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(name[:100] for name in names[:_MOST_NAMED]) + more
