"""JSON to tensors and back, against oracles that take no short cuts."""

from __future__ import annotations

import contextlib
import json
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sealserve.serving.errors import RequestError
from sealserve.serving.rest import json_text, numbers
from sealserve.serving.rest.answers import predict_body
from sealserve.serving.rest.examples import read_examples
from sealserve.serving.rest.json_text import parse_json
from sealserve.serving.rest.kserve_tensors import read_infer
from sealserve.serving.rest.numbers import Numbers, cut_numbers
from sealserve.serving.rest.predict_request import Format, read_predict
from sealserve.serving.rest.tensors import to_array
from sealserve.wire.tensorflow_pb2 import DataType
from sealserve.wire.tensors import numpy_type

NUMBER_TYPES = [
    DataType.DT_FLOAT,
    DataType.DT_DOUBLE,
    DataType.DT_HALF,
    DataType.DT_INT8,
    DataType.DT_UINT8,
    DataType.DT_INT16,
    DataType.DT_UINT16,
    DataType.DT_INT32,
    DataType.DT_UINT32,
    DataType.DT_INT64,
    DataType.DT_UINT64,
]
SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@pytest.fixture(autouse=True)
def every_list_is_worth_it(monkeypatch):
    monkeypatch.setattr(numbers, "_WORTH_IT", 1)


def plain(value):
    match value:
        case Numbers():
            return plain(value.to_list())
        case list():
            return [plain(item) for item in value]
        case dict():
            return {key: plain(item) for key, item in value.items()}
        case float() if math.isnan(value):
            return "NaN"
        case _:
            return value


def outcome(call):
    """A value, or that there is none."""
    try:
        return plain(call())
    except RequestError:
        return RequestError


def straight(text):
    """What a document is, without arrays that are cut out."""
    decoder = json.JSONDecoder(object_pairs_hook=lambda pairs: dict(reversed(pairs)), parse_float=json_text._number)
    try:
        return decoder.raw_decode(text, len(text) - len(text.lstrip(" \t\r\n")))[0]
    except (ValueError, RecursionError) as error:
        raise RequestError("no") from error


leaves = st.one_of(
    st.integers(-(1 << 66), 1 << 66),
    st.floats(allow_nan=True, allow_infinity=True),
    st.booleans(),
    st.none(),
    st.text(max_size=5),
)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


@settings(max_examples=300)
@given(values, st.sampled_from([None, 1]))
def test_any_document_reads_as_itself(value, indent):
    text = json.dumps({"a": value}, indent=indent)
    assert outcome(lambda: parse_json(text.encode())) == plain(json.loads(text))


@settings(max_examples=600)
@given(st.text(alphabet='[[[]]],,,:{}"aNI-+.eE0123 \\t\n', max_size=40), st.sampled_from(["%s", '{"a":%s}', "[%s]"]))
@example("[[ ]5,[6]]", "%s")
@example("[5[1],[2]]", "%s")
@example("[1NaN]", "%s")
@example("[NaN5,-NaN]", "%s")
@example("[NaN.5]", "%s")
@example("[[1,2],[3],[4,5,6]]", "%s")
@example("[[5],[]]", "%s")
@example("[[5,],[6,7]]", "%s")
@example("[-0,01]", "%s")
@example("[1]}]", '{"a":%s}')
@example('"]', '[[1,2,"a",%s')
def test_nothing_but_json_is_read_as_json(text, around):
    text = around % text
    assert outcome(lambda: parse_json(text.encode())) == outcome(lambda: straight(text))


@st.composite
def arrays(draw):
    shape = draw(st.lists(st.integers(0, 4), max_size=4).map(tuple))
    count = math.prod(shape)
    whole = draw(st.booleans())
    item = st.integers(-300, 300) | st.integers(-(1 << 63), (1 << 64) - 1) if whole else st.floats(width=64)
    items = draw(st.lists(item, min_size=count, max_size=count))
    array = np.empty(count, dtype=object)
    array[:] = items
    return array.reshape(shape).tolist()


def oracle(value, dtype):
    """One number at a time. None: refused."""
    flat: list = []

    def walk(item):
        for inner in item if isinstance(item, list) else ():
            walk(inner)
        if not isinstance(item, list):
            flat.append(item)

    walk(value)
    out = []
    for item in flat:
        if dtype.kind == "f":
            with np.errstate(over="ignore"):
                one = np.float64(item).astype(dtype)
            if np.isinf(one) and not math.isinf(item):
                return None
        else:
            info = np.iinfo(dtype)
            if isinstance(item, float) or not info.min <= item <= info.max:
                return None
            one = dtype.type(item)
        out.append(one)
    return np.array(out, dtype=dtype)


@settings(max_examples=400)
@given(arrays(), st.sampled_from(NUMBER_TYPES), st.booleans())
def test_lists_of_numbers_become_tensors_or_are_refused(value, data_type, quick):
    dtype = numpy_type(data_type)
    given_value = parse_json(json.dumps({"a": value}).encode())["a"] if quick else value
    expected = oracle(value, dtype)
    if expected is None:
        with pytest.raises(RequestError, match="is not of expected type"):
            to_array(given_value, data_type)
        return
    array = to_array(given_value, data_type)
    assert array.dtype == dtype
    np.testing.assert_array_equal(array.ravel(), expected)
    sizes = []
    while isinstance(value, list):
        sizes.append(len(value))
        value = value[0] if value else None
    assert array.shape[: len(sizes)] == tuple(sizes)


@settings(max_examples=200)
@given(arrays().filter(lambda value: isinstance(value, list)), st.sampled_from(list(Format)))
def test_float32_comes_back_as_it_went(value, way):
    with np.errstate(over="ignore"):
        sent = np.array(value, dtype=np.float64).astype(np.float32)
    body = predict_body({"x": sent}, way)
    assert json.loads(body) is not None
    if way is Format.ROWS and not sent.size and not sent.shape[0]:
        return
    key = "predictions" if way is Format.ROWS else "outputs"
    again = b'{"%s":%s' % (way.value.encode(), body[len(key) + 4 :])
    back = read_predict(again, lambda _: {"x": DataType.DT_FLOAT}).inputs["x"]
    np.testing.assert_array_equal(back.ravel(), sent.ravel())


def tensors_or_error(body, types):
    try:
        read = read_predict(body, lambda _: types)
    except RequestError as error:
        return error.message
    return {name: (array.dtype.str, array.shape, repr(array.tolist())) for name, array in read.inputs.items()}


@example(  # an error repeats as much of it by both ways
    key="instances",
    value={"x": {"x": [{"b64": "YQ"}, 0, 1.0799003145439648e16], "y": [{"b64": "YQ"}, {"x": 0}]}, "y": [0]},
    types={"x": DataType.DT_FLOAT, "y": DataType.DT_FLOAT},
)
@settings(max_examples=400)
@given(
    st.sampled_from(["instances", "inputs"]),
    st.recursive(
        leaves | st.just({"b64": "YQ"}),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyb"), inner, max_size=2),
    ),
    st.dictionaries(
        st.sampled_from("xy"), st.sampled_from([*NUMBER_TYPES, DataType.DT_BOOL, DataType.DT_STRING]), min_size=1
    ),
)
def test_any_value_is_tensors_or_a_refusal_and_the_same_by_both_ways(key, value, types):
    body = json.dumps({key: value}).encode()
    quick = tensors_or_error(body, types)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numbers, "_WORTH_IT", 1 << 30)
        assert tensors_or_error(body, types) == quick


@settings(max_examples=300)
@given(values, st.sampled_from(["examples", "context"]))
def test_any_value_is_examples_or_a_refusal(value, key):
    for content in (value, [value]):
        with contextlib.suppress(RequestError):
            read_examples(json.dumps({"examples": [{"a": 1}], key: content}).encode())


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(["name", "datatype", "shape", "data", "parameters"]), values), values)
def test_any_value_is_a_request_to_infer_or_a_refusal(given_input, parameters):
    whole = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]} | given_input
    for document in ({"inputs": [whole]}, {"inputs": [whole], "parameters": parameters, "outputs": [given_input]}):
        with contextlib.suppress(RequestError):
            read_infer("m", "", json.dumps(document).encode(), None)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (1, 2, 3, 4), (5, 1)])
@pytest.mark.parametrize("special", [None, *SPECIAL])
def test_large_regular_lists_are_cut_out(shape, special):
    array = np.arange(math.prod(shape), dtype=np.float64).reshape(shape) + 0.5
    if special:
        array.flat[1] = SPECIAL[special]
    body = json.dumps({"k": "v", "instances": array.tolist(), "z": 1}).encode()
    rest, (found,) = cut_numbers(body, "mark")
    assert json.loads(rest) == {"k": "v", "instances": {"mark": 0}, "z": 1}
    np.testing.assert_array_equal(found.array, array)


def test_arrays_with_names_are_cut_out_one_by_one():
    body = json.dumps({"instances": [{"a": [1, 2], "b": [[0.5]]}, {"a": [3, 4], "b": [[1.5]]}]}).encode()
    _, found = cut_numbers(body, "mark")
    assert [one.array.tolist() for one in found] == [[1, 2], [[0.5]], [3, 4], [[1.5]]]
    read = read_predict(body, lambda _: {"a": DataType.DT_INT32, "b": DataType.DT_FLOAT})
    assert read.inputs["a"].tolist() == [[1, 2], [3, 4]]
    assert read.inputs["b"].shape == (2, 1, 1)


def test_a_stranger_cannot_name_an_array_that_was_cut_out():
    for key in ("mark", "", "0"):
        assert plain(parse_json(json.dumps({"a": [1, 2, 3], "b": {key: 0}}).encode())) == {
            "a": [1, 2, 3],
            "b": {key: 0},
        }


def test_without_simdjson_the_same_is_read(monkeypatch):
    text = json.dumps({"a": [[1, 2], [3, 4]], "b": [1.5, 2], "c": [1 << 64]}).encode()
    expected = parse_json(text)
    monkeypatch.setattr(numbers, "Parser", None)
    again = parse_json(text)
    for key in "ab":
        np.testing.assert_array_equal(again[key].array, expected[key].array)
        assert again[key].array.dtype == expected[key].array.dtype
    assert again["c"] == expected["c"] == [1 << 64]
