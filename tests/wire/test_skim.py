"""What a message would take is found before it is parsed: too much is refused, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from sealserve.wire import skim as module
from sealserve.wire.skim import MAX_ENTRIES, MAX_FIELDS, SkimError, skim
from sealserve.wire.tensorflow_pb2 import GraphDef, TensorProto
from sealserve.wire.tensorflow_serving_pb2 import PredictRequest
from sealserve.wire.tensors import from_numpy

PLENTY = 1 << 40


def varint(number):
    out = b""
    while number > 0x7F:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])


def field(number, content):
    """A field that has a length."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def predict(tensor, *more):
    return field(2, field(1, b"x") + field(2, tensor)) + b"".join(more)


@pytest.mark.parametrize(
    "data",
    [
        b"\x12\x00" * 200_000,
        b"\x92\x80\x00\x80\x00" * 50_000,  # the same, with numbers longer than they need to be
        b"\x1a\x00" * 200_000,
        b"\x78\x00" * 200_000,
        b"\x7a\x00" * 200_000,
        predict(field(2, b"\x12\x00" * 200_000)),
        predict(b"\x42\x00" * 200_000),
        predict(b"\x38\x01" * 200_000),
        b"\x0a\x00" * 200_000,
    ],
    ids=["entries", "long numbers", "names", "unknown", "unknown lengths", "shape", "strings", "numbers", "model"],
)
def test_more_fields_than_a_request_can_need_are_refused(data):
    with pytest.raises(SkimError, match=f"more than ({MAX_FIELDS} fields|{MAX_ENTRIES} entries)"):
        skim(data, PredictRequest, max_bytes=PLENTY)


def test_a_bound_itself_is_kept():
    assert skim(b"\x1a\x00" * MAX_FIELDS, PredictRequest, max_bytes=PLENTY) > 2 * MAX_FIELDS
    assert skim(b"\x12\x00" * MAX_ENTRIES, PredictRequest, max_bytes=PLENTY) > 2 * MAX_ENTRIES
    with pytest.raises(SkimError):
        skim(b"\x12\x00" * (MAX_ENTRIES + 1), PredictRequest, max_bytes=PLENTY)


@pytest.mark.parametrize(("number", "item_size"), [(7, 4), (10, 8), (11, 1), (13, 4), (16, 4), (17, 8)])
def test_packed_numbers_count_with_what_they_take(number, item_size):
    data = predict(field(number, b"\x01" * 1000))
    taken = 1000 * item_size * 2
    assert skim(data, PredictRequest, max_bytes=len(data) + taken) >= len(data) + taken
    with pytest.raises(SkimError, match="lists of numbers"):
        skim(data, PredictRequest, max_bytes=len(data) + taken - 1)
    with pytest.raises(SkimError, match="lists of numbers"):
        skim(data + data, PredictRequest, max_bytes=2 * len(data) + taken)


@pytest.mark.parametrize("typed", [True, False])
def test_a_large_tensor_is_stepped_over(typed):
    request = PredictRequest()
    request.model_spec.name = "half"
    request.inputs["x"].CopyFrom(from_numpy(np.ones(1 << 20, np.float32), typed_values=typed))
    data = request.SerializeToString()
    assert len(data) <= skim(data, PredictRequest, max_bytes=len(data)) < len(data) + 10_000


@pytest.mark.parametrize(
    "data",
    [b"\x12", b"\x12\x05a", b"\x80", b"\xff" * 11, b"\x13\x14", b"\x16", b"\x09aaa", b"\x92\x80\x80\x80\x80\x20\x00"],
    ids=["no length", "long", "no end", "endless", "group", "no form", "cut", "large number"],
)
def test_what_is_malformed_is_refused(data):
    with pytest.raises(DecodeError):
        skim(data, PredictRequest, max_bytes=PLENTY)


def test_messages_inside_messages_without_end_are_refused():
    data = b""
    for _ in range(40):
        data = field(10, field(2, field(2, data)))  # a function's attribute is a function
    with pytest.raises(DecodeError, match="nested"):
        skim(field(1, field(5, field(2, data))), GraphDef, max_bytes=PLENTY)


numbers = st.integers(-(2**31), 2**31 - 1)
tensors = st.builds(
    TensorProto,
    dtype=st.sampled_from([0, 1, 7]),
    float_val=st.lists(st.floats(width=32)),
    int_val=st.lists(numbers),
    int64_val=st.lists(st.integers(-(2**63), 2**63 - 1)),
    string_val=st.lists(st.binary()),
    bool_val=st.lists(st.booleans()),
    tensor_content=st.binary(),
)


@given(st.dictionaries(st.text(), tensors), st.lists(st.text()), st.text())
def test_every_request_of_common_size_passes(inputs, names, model):
    request = PredictRequest(inputs=inputs, output_filter=names)
    request.model_spec.name = model
    data = request.SerializeToString()
    assert skim(data, PredictRequest, max_bytes=1 << 20) >= len(data)


@given(st.binary() | st.binary().map(predict) | st.binary().map(lambda data: predict(field(2, data))))
def test_what_the_parser_takes_passes_unless_it_has_groups(data):
    try:
        skim(data, PredictRequest, max_bytes=PLENTY)
    except DecodeError:
        try:
            parsed = PredictRequest.FromString(data)
        except DecodeError:
            return
        parsed.DiscardUnknownFields()
        assert parsed.ByteSize() < len(data), "only fields that nobody knows are refused"


@given(st.lists(st.sampled_from([b"\x12\x00", b"\x1a\x00", b"\x12\x04\x12\x02\x12\x00", b"\x0a\x00"]), max_size=30))
def test_fields_are_counted_on_all_levels(parts):
    data = b"".join(parts)
    fields = sum({2: 1, 6: 3}[len(part)] for part in parts)
    assert skim(data, PredictRequest, max_bytes=PLENTY) == len(data) + fields * module._FIELD_BYTES
