"""Signatures with strings on an engine that has none: Examples are parsed before it, and labels looked up after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sealserve.errors import ModelError
from sealserve.serving.checks import check_inputs, select_outputs
from sealserve.serving.engine import Array, Signature
from sealserve.serving.errors import CallerGoneError, RequestError
from sealserve.serving.example_features import parse_examples
from sealserve.serving.example_graph import PARSING, Cut, cut_examples
from sealserve.serving.label_graph import LabelGraph
from sealserve.serving.openvino_errors import USE_TENSORFLOW
from sealserve.serving.signature_graph import SignatureGraph
from sealserve.wire.tensorflow_pb2 import DataType
from sealserve.wire.tensors import MAX_BYTES


@dataclass(frozen=True)
class Strings:
    """What was taken out of a signature's graph.

    :ivar cuts: operations that parse Examples.
    :ivar numbered: outputs that are numbers of ``labels`` in the graph.
    """

    cuts: tuple[Cut, ...]
    numbered: frozenset[str]
    labels: Array


def without_strings(graph: SignatureGraph, signature: str) -> Strings:
    """Take the strings out of a signature's graph.

    :raises ModelError: it computes with them.
    """
    graph.open_calls()
    numbering = LabelGraph(graph, signature)
    numbered = numbering.number_outputs()
    cuts = cut_examples(graph, signature)
    _require_none(graph, signature)
    labels = np.empty(len(numbering.labels), dtype=object)
    labels[:] = numbering.labels
    return Strings(cuts, frozenset(numbered), labels)


def _require_none(graph: SignatureGraph, signature: str) -> None:
    for node in graph.live():
        for reference in graph.inputs(node):
            source = graph.node_of(reference)
            if source.op in PARSING:
                what = "works with features that are strings, sparse or ragged"
            elif source.op == "Placeholder" and source.attr["dtype"].type == DataType.DT_STRING:
                what = "works with strings"
            else:
                continue
            raise ModelError(
                f"OpenVINO cannot run the signature {signature}: it cannot convert the operation {node.op}, which "
                f"{what}",
                hint=f"{USE_TENSORFLOW}; or export a signature of numbers, and turn strings into them in the client.",
            )


class Runs(Protocol):
    """A signature that an engine can run."""

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""

    def predict(
        self, inputs: Mapping[str, Array], output_filter: Sequence[str], wanted: Callable[[], bool]
    ) -> dict[str, Array]:
        """See :meth:`LoadedModel.predict`."""


class StringSignature:
    """A signature with strings over one without.

    :param signature: the model's own.
    :param plain: that of the graph that was cut.
    """

    def __init__(self, signature: Signature, plain: Runs, strings: Strings) -> None:
        self.signature = signature
        self._plain = plain
        self._strings = strings

    def predict(
        self, inputs: Mapping[str, Array], output_filter: Sequence[str], wanted: Callable[[], bool]
    ) -> dict[str, Array]:
        """See :meth:`LoadedModel.predict`."""
        names = select_outputs(self.signature, output_filter)
        check_inputs(self.signature, inputs)
        if not wanted():
            raise CallerGoneError("the caller does not wait for the answer any more")
        given = {alias: array for alias, array in inputs.items() if alias in self._plain.signature.inputs}
        left = MAX_BYTES
        for cut in self._strings.cuts:
            examples = inputs[cut.alias]
            if examples.ndim != 1 or not examples.size:
                raise RequestError(f"input {cut.alias} must be a vector of serialized Examples, of one at least")
            features = parse_examples(cut.parsing, examples.tolist(), cut.inputs, max_bytes=left)
            left -= sum(array.nbytes for array in features.values())
            given |= {cut.inputs[key]: array for key, array in features.items()}
        outputs = self._plain.predict(given, names, wanted)
        labels = self._strings.labels
        return {
            alias: np.asarray(labels[array]) if alias in self._strings.numbered else array
            for alias, array in outputs.items()
        }
