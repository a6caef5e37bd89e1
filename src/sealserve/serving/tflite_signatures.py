"""The names in a TensorFlow Lite model that OpenVINO does not keep: those of its signatures.

The file is a flatbuffer (https://flatbuffers.dev/internals/); its tables and the numbers of their fields are those of
TensorFlow's ``tensorflow/compiler/mlir/lite/schema/schema.fbs``. Only names are read, each within bounds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sealserve.errors import ModelError
from sealserve.serving.engine import DEFAULT_SIGNATURE

_IDENTIFIER = b"TFL3"
_MOST = 10_000  # elements of a list: inputs, outputs, signatures
# Fields, by their numbers in a table.
_SUBGRAPHS, _SIGNATURES = 2, 7  # Model
_TENSORS, _INPUTS, _OUTPUTS = 0, 1, 2  # SubGraph
_TENSOR_NAME = 3  # Tensor
_SIGNATURE_INPUTS, _SIGNATURE_OUTPUTS, _KEY, _SUBGRAPH_INDEX = 0, 1, 2, 4  # SignatureDef
_ALIAS, _TENSOR_INDEX = 0, 1  # TensorMap


@dataclass(frozen=True)
class LiteSignature:
    """A signature of the model's first graph. :ivar inputs: names of tensors, by the signature's; so ``outputs``."""

    name: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def read_signatures(data: memoryview) -> list[LiteSignature]:
    """The signatures of a model's first graph; where it has none, one with the names of its tensors.

    :raises ModelError: it is no TensorFlow Lite model, or malformed.
    """
    if bytes(data[4:8]) != _IDENTIFIER:
        raise ModelError("the file is no TensorFlow Lite model", hint="Convert the model again.")
    try:
        return list(_signatures(_Buffer(data)))
    except (struct.error, IndexError, ValueError) as error:
        raise ModelError("the TensorFlow Lite model is malformed", hint="Convert the model again.") from error


def _signatures(buffer: _Buffer) -> Iterator[LiteSignature]:
    model = buffer.offset(0)
    (graph,) = buffer.tables(model, _SUBGRAPHS, most=1)
    names = _Names(buffer, graph)
    found = False
    for signature in buffer.tables(model, _SIGNATURES):
        if buffer.number(signature, _SUBGRAPH_INDEX):
            continue
        found = True
        yield LiteSignature(
            buffer.text(signature, _KEY) or DEFAULT_SIGNATURE,
            names.of_maps(buffer.tables(signature, _SIGNATURE_INPUTS)),
            names.of_maps(buffer.tables(signature, _SIGNATURE_OUTPUTS)),
        )
    if not found:
        inputs, outputs = (names.of_indices(buffer.numbers(graph, field)) for field in (_INPUTS, _OUTPUTS))
        yield LiteSignature(DEFAULT_SIGNATURE, inputs, outputs)


class _Names:
    """Names of a graph's tensors."""

    def __init__(self, buffer: _Buffer, graph: int) -> None:
        self._buffer = buffer
        self._graph = graph

    def of_maps(self, maps: list[int]) -> dict[str, str]:
        buffer = self._buffer
        return {buffer.text(one, _ALIAS): self._name(buffer.number(one, _TENSOR_INDEX)) for one in maps}

    def of_indices(self, indices: list[int]) -> dict[str, str]:
        return {name: name for name in map(self._name, indices)}

    def _name(self, index: int) -> str:
        return self._buffer.text(self._buffer.table_at(self._graph, _TENSORS, index), _TENSOR_NAME)


class _Buffer:
    """A flatbuffer. Positions are those of tables; what lies outside is a ``struct.error`` or a ``ValueError``."""

    def __init__(self, data: memoryview) -> None:
        self._data = data

    def number(self, table: int, field: int) -> int:
        """A field of 32 bits; 0 if it is not there."""
        at = self._field(table, field)
        return self._read("<I", at) if at else 0

    def text(self, table: int, field: int) -> str:
        at = self._field(table, field)
        if not at:
            return ""
        start = self.offset(at)
        return str(bytes(self._data[start + 4 : start + 4 + self._read("<I", start)]), "utf-8")

    def numbers(self, table: int, field: int) -> list[int]:
        start, count = self._list(table, field)
        return [self._read("<I", start + 4 * index) for index in range(min(count, _MOST))]

    def tables(self, table: int, field: int, *, most: int = _MOST) -> list[int]:
        """The positions of the first tables of a list."""
        start, count = self._list(table, field)
        return [self.offset(start + 4 * index) for index in range(min(count, most))]

    def table_at(self, table: int, field: int, index: int) -> int:
        start, count = self._list(table, field)
        if index >= count:
            raise ValueError("there is no such element")
        return self.offset(start + 4 * index)

    def offset(self, at: int) -> int:
        """The position to which a number points, counted from itself."""
        return at + self._read("<I", at)

    def _list(self, table: int, field: int) -> tuple[int, int]:
        at = self._field(table, field)
        if not at:
            return 0, 0
        start = self.offset(at)
        return start + 4, self._read("<I", start)

    def _field(self, table: int, field: int) -> int:
        """Where a field lies; 0 if it is not there."""
        fields = table - self._read("<i", table)
        if 4 + 2 * field >= self._read("<H", fields):
            return 0
        offset = self._read("<H", fields + 4 + 2 * field)
        return table + offset if offset else 0

    def _read(self, layout: str, at: int) -> int:
        if at < 0:  # counted from the end, for struct
            raise ValueError("a table lies in front of the file")
        number: int = struct.unpack_from(layout, self._data, at)[0]
        return number
