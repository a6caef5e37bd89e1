"""What an ONNX file says of itself: inputs, outputs, operations (github.com/onnx/onnx, ``onnx/onnx.proto``).

Only the fields that are shown are read, straight from the wire format (https://protobuf.dev/programming-guides/encoding):
weights are stepped over. There is no need for the package ``onnx``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sealserve.errors import ModelError
from sealserve.models.saved_model import TensorSpec
from sealserve.wire.tensorflow_pb2 import DataType

ONNX_FILE = "model.onnx"

_MOST_FIELDS = 5_000_000
_MAX_DEPTH = 30  # of graphs inside nodes
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_STEPS = {_FIXED64: 8, _FIXED32: 4}

# onnx.proto, TensorProto.DataType → TensorFlow's.
_TYPES = dict(
    enumerate(
        [
            *(DataType.DT_INVALID, DataType.DT_FLOAT, DataType.DT_UINT8, DataType.DT_INT8, DataType.DT_UINT16),
            *(DataType.DT_INT16, DataType.DT_INT32, DataType.DT_INT64, DataType.DT_STRING, DataType.DT_BOOL),
            *(DataType.DT_HALF, DataType.DT_DOUBLE, DataType.DT_UINT32, DataType.DT_UINT64, DataType.DT_COMPLEX64),
            *(DataType.DT_COMPLEX128, DataType.DT_BFLOAT16),
        ]
    )
)


@dataclass
class OnnxContent:
    """An ONNX model.

    :ivar operators: versions of the operator sets, by domain; the standard one's is empty.
    :ivar operations: how often each occurs, in graphs inside nodes too.
    """

    producer: str = ""
    operators: dict[str, int] = field(default_factory=dict)
    inputs: Mapping[str, TensorSpec] = field(default_factory=dict)
    outputs: Mapping[str, TensorSpec] = field(default_factory=dict)
    operations: Counter[str] = field(default_factory=Counter)


def read_onnx_file(data: bytes, place: str) -> OnnxContent:
    """Read an ONNX model.

    :param place: where it comes from, for people.
    :raises ModelError: it is none.
    """
    content = OnnxContent()
    graphs = 0
    try:
        reader = _Reader()
        for number, value in reader.fields(memoryview(data)):
            if number == 2 and isinstance(value, memoryview):
                content.producer = _text(value)
            elif number == 7 and isinstance(value, memoryview):
                graphs += 1
                content.inputs, content.outputs = _read_graph(reader, value, content.operations)
            elif number == 8 and isinstance(value, memoryview):
                found = dict(reader.fields(value))
                domain, version = found.get(1, b""), found.get(2, 0)
                if isinstance(domain, memoryview | bytes) and isinstance(version, int):
                    content.operators[_text(domain)] = version
    except _MalformedError as error:
        raise ModelError(
            f"{place} is no ONNX model: {error}", hint="The file may be cut short: fetch or export it again."
        ) from None
    if graphs != 1:
        raise ModelError(f"{place} is no ONNX model: it has {graphs or 'no'} graphs", hint="Export it again.")
    return content


class _MalformedError(Exception):
    pass


class _Reader:
    """Fields of messages, counted over all of one file."""

    def __init__(self) -> None:
        self._left = _MOST_FIELDS

    def fields(self, data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
        """The number of each field and its value: a number, or the bytes of what has a length."""
        at, end = 0, len(data)
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise _MalformedError(f"it has more than {_MOST_FIELDS:,} fields")
            tag, at = _varint(data, at, end)
            kind = tag & 7
            value: int | memoryview
            if kind == _VARINT:
                value, at = _varint(data, at, end)
                yield tag >> 3, value
                continue
            if kind == _LENGTH:
                size, at = _varint(data, at, end)
            elif kind in _STEPS:
                size = _STEPS[kind]
            else:
                raise _MalformedError("it cannot be parsed")
            if size > end - at:
                raise _MalformedError("it is cut short, or cannot be parsed")
            value = data[at : at + size]
            at += size
            yield tag >> 3, value


def _read_graph(
    reader: _Reader, graph: memoryview, operations: Counter[str], depth: int = 0
) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
    if depth > _MAX_DEPTH:
        raise _MalformedError("its graphs are nested too deeply")
    inputs: dict[str, TensorSpec] = {}
    outputs: dict[str, TensorSpec] = {}
    weights: set[str] = set()
    for number, value in reader.fields(graph):
        if not isinstance(value, memoryview):
            continue
        if number == 1:
            _read_node(reader, value, operations, depth)
        elif number == 5:
            weights.update(_text(one) for n, one in reader.fields(value) if n == 8 and isinstance(one, memoryview))
        elif number in {11, 12}:
            spec = _spec(reader, value)
            (inputs if number == 11 else outputs)[spec.name] = spec
    # Up to IR version 3 weights are among the inputs, as defaults.
    return {name: spec for name, spec in inputs.items() if name not in weights}, outputs


def _read_node(reader: _Reader, node: memoryview, operations: Counter[str], depth: int) -> None:
    domain = operation = ""
    for number, value in reader.fields(node):
        if not isinstance(value, memoryview):
            continue
        if number == 4:
            operation = _text(value)
        elif number == 7:
            domain = _text(value)
        elif number == 5:
            for inner, graph in reader.fields(value):
                if inner in {6, 11} and isinstance(graph, memoryview):
                    _read_graph(reader, graph, operations, depth + 1)
    operations[f"{domain}.{operation}" if domain else operation] += 1


def _spec(reader: _Reader, value_info: memoryview) -> TensorSpec:
    name, kind, shape = "", 0, None
    for number, value in reader.fields(value_info):
        if number == 1 and isinstance(value, memoryview):
            name = _text(value)
        elif number == 2 and isinstance(value, memoryview):
            for inner, tensor in reader.fields(value):
                if inner == 1 and isinstance(tensor, memoryview):
                    kind, shape = _tensor_type(reader, tensor)
    return TensorSpec(name, _TYPES.get(kind, int(DataType.DT_INVALID)), shape)


def _tensor_type(reader: _Reader, tensor: memoryview) -> tuple[int, tuple[int, ...] | None]:
    kind, shape = 0, None
    for number, value in reader.fields(tensor):
        if number == 1 and isinstance(value, int):
            kind = value
        elif number == 2 and isinstance(value, memoryview):
            sizes = [
                next((size for inner, size in reader.fields(dim) if inner == 1 and isinstance(size, int)), -1)
                for n, dim in reader.fields(value)
                if n == 1 and isinstance(dim, memoryview)
            ]
            shape = tuple(size if 0 <= size < 1 << 63 else -1 for size in sizes)
    return kind, shape


def _text(value: memoryview | bytes) -> str:
    return bytes(value[:1000]).decode(errors="replace")


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise _MalformedError("it cannot be parsed")
