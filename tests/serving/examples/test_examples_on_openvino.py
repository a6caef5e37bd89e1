"""Examples parsed before the graph, and labels looked up behind it: what TensorFlow's operations give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_models import load

tf = pytest.importorskip("tensorflow")

from tensorflow_models import as_tensorflow_serving  # noqa: E402

from sealserve.errors import ModelError  # noqa: E402
from sealserve.serving.errors import RequestError  # noqa: E402
from sealserve.serving.example_features import Feature, Parsing, parse_examples  # noqa: E402
from sealserve.wire.tensorflow_pb2 import DataType  # noqa: E402

FIXED, SEQUENCE = tf.io.FixedLenFeature, tf.io.FixedLenSequenceFeature
TYPES = {tf.float32: "float_list", tf.int64: "int64_list", tf.string: "bytes_list"}
EXAMPLES = tf.TensorSpec([None], tf.string)


def example(**features):
    """A serialized Example: floats, integers and strings by their names; an empty list is a feature without a kind."""
    made = tf.train.Example()
    for name, values in features.items():
        made.features.feature[name].SetInParent()
        for value in values:
            field = {float: "float_list", int: "int64_list", bytes: "bytes_list"}[type(value)]
            getattr(made.features.feature[name], field).value.append(value)
    return made.SerializeToString()


class Module(tf.Module):
    """A function of Examples. :param features: as ``tf.io.parse_example`` takes them."""

    def __init__(self, features, function, inputs=(EXAMPLES,)):
        self.features, self.function = features, function
        self.offset = tf.Variable(0.5)
        self.call = tf.function(self._call, input_signature=inputs)

    def _call(self, inputs, *others):
        return self.function(tf.io.parse_example(inputs, self.features), self.offset, *others)


def exported(directory, features, function, **settings):
    module = Module(features, function, **settings)
    tf.saved_model.save(module, str(directory / "1"), signatures=module.call)
    return directory / "1"


def strings(*items):
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def same(engine, directory, inputs, signature="serving_default"):
    ours = load(engine, directory).predict(signature, inputs)
    theirs = as_tensorflow_serving(directory, inputs, signature)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype, name
        if array.dtype.kind == "O":
            assert ours[name].tolist() == array.tolist()
        else:
            np.testing.assert_allclose(ours[name], array, atol=1e-5)


def test_features_of_all_kinds_are_tensorflows(engine, tmp_path):
    features = {
        "x": FIXED([2], tf.float32),
        "n": FIXED([], tf.int64, default_value=7),
        "image": FIXED([2, 1], tf.float32, default_value=[[1.0], [2.0]]),
        "v": SEQUENCE([2], tf.float32, allow_missing=True, default_value=-1.0),
        "unused": FIXED([], tf.string, default_value="?"),
        "sparse": tf.io.VarLenFeature(tf.int64),
    }

    def function(parsed, offset):
        return {name: parsed[name] * 2 for name in ("x", "n", "image", "v")} | {"sum": offset + parsed["x"][:, 0]}

    directory = exported(tmp_path, features, function)
    some = strings(
        example(x=[1.0, 2.0]),
        example(x=[-1.0, 0.5], n=[3], v=[0.5, 1.5], image=[5.0, 6.0], unused=[b"a"], sparse=[1, 2]),
        example(x=[3.0, 4.0], v=[1.0, 2.0, 3.0, 4.0], n=[]),
    )
    same(engine, directory, {"inputs": some})
    same(engine, directory, {"inputs": some[:1]})


def test_other_inputs_may_stand_beside_examples(engine, tmp_path):
    inputs = (EXAMPLES, tf.TensorSpec([], tf.float32))
    directory = exported(
        tmp_path, {"x": FIXED([1], tf.float32)}, lambda parsed, _, factor: {"y": parsed["x"] * factor}, inputs=inputs
    )
    model = load(engine, directory)
    other = next(name for name in model.signatures["serving_default"].inputs if name != "inputs")
    same(engine, directory, {"inputs": strings(example(x=[3.0])), other: np.float32(2)})


def test_labels_that_are_only_moved_are_looked_up(engine, tmp_path):
    words = ["cat", "dog", "h\u00e9risson"]

    def function(parsed, _):
        scores = tf.nn.softmax(parsed["x"])
        top = tf.math.top_k(scores, 2)
        rows = tf.shape(scores)[0]
        return {
            "classes": tf.tile([words], [rows, 1]),
            "numbers": tf.tile(tf.expand_dims(tf.as_string(tf.range(3)), 0), [rows, 1]),
            "best": tf.gather(words, top.indices),
            "scores": top.values,
            "sure": tf.where(top.values[:, 0] > 0.5, "yes", "no"),
            "joined": tf.concat([tf.fill([rows, 1], 0.5), scores], 1),
        }

    directory = exported(tmp_path, {"x": FIXED([3], tf.float32)}, function)
    same(engine, directory, {"inputs": strings(example(x=[1.0, 2.0, 0.5]), example(x=[9.0, 2.0, 0.5]))})


def first_version(directory, outputs):
    """A graph of TensorFlow 1 with ``ParseExample`` in it, whose heads share it, as an estimator exports it."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        inputs = v1.placeholder(tf.string, [None], name="input_example_tensor")
        keys, none = tf.constant(["x", "y"]), tf.constant([], tf.float32)
        values = tf.raw_ops.ParseExample(
            serialized=inputs,
            names=tf.constant([], tf.string),
            sparse_keys=[tf.constant("words")],
            dense_keys=[keys[0], keys[1]] if outputs == "computed keys" else [tf.constant("x"), tf.constant("y")],
            dense_defaults=[none, tf.constant([4.0])],
            sparse_types=[tf.string],
            dense_shapes=[[2], [1]],
        )
        x, y = values.dense_values
        info = v1.saved_model.build_tensor_info
        given = {"inputs": info(inputs)}
        labels = tf.tile(tf.expand_dims(tf.constant(["no", "yes"]), 0), [tf.shape(x)[0], 1])
        signatures = {
            "serving_default": ({"classes": labels, "scores": tf.nn.softmax(x)}, "classify"),
            "regression": ({"outputs": tf.squeeze(x[:, :1] + y, 1)}, "regress"),
        }
        builder = v1.saved_model.Builder(str(directory))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {
                name: v1.saved_model.build_signature_def(
                    given, {alias: info(tensor) for alias, tensor in tensors.items()}, f"tensorflow/serving/{method}"
                )
                for name, (tensors, method) in signatures.items()
            },
        )
        builder.save()
    return directory


def test_a_graph_of_tensorflow_1_is_cut_as_well(engine, tmp_path):
    directory = first_version(tmp_path / "1", "plain")
    inputs = {"inputs": strings(example(x=[1.0, 2.0], words=[b"a", b"b"]), example(x=[0.5, 1.0], y=[8.0]))}
    for signature in ("serving_default", "regression"):
        same(engine, directory, inputs, signature)


@pytest.mark.parametrize(
    ("features", "function", "says"),
    [
        ({"s": FIXED([], tf.string)}, lambda p: tf.strings.length(p["s"]), "the operation StringLength"),
        ({"s": FIXED([], tf.string)}, lambda p: p["s"], "y is a string tensor"),
        ({"v": tf.io.VarLenFeature(tf.float32)}, lambda p: p["v"].values, "strings, sparse or ragged"),
        ({"r": tf.io.RaggedFeature(tf.float32)}, lambda p: p["r"].flat_values, "strings, sparse or ragged"),
    ],
    ids=["string", "output", "sparse", "ragged"],
)
def test_what_cannot_be_cut_is_refused_with_its_reason(engine, tmp_path, features, function, says):
    directory = exported(tmp_path, features, lambda parsed, _: {"y": function(parsed)})
    with pytest.raises(ModelError, match=says) as caught:
        load(engine, directory)
    assert "engine: tensorflow" in caught.value.hint


def test_keys_that_are_computed_are_refused(engine, tmp_path):
    with pytest.raises(ModelError, match=r"parsed by ParseExample .* is no constant"):
        load(engine, first_version(tmp_path / "1", "computed keys"))


def outcome(function):
    try:
        return {key: np.asarray(value).tolist() for key, value in function().items()}
    except tf.errors.InvalidArgumentError as error:
        return error.message.partition("}} ")[2].removesuffix(" [Op:ParseExampleV2]")
    except RequestError as error:
        return error.message


def parsing_of(features):
    return Parsing(
        tuple(
            Feature(
                key,
                one.dtype.as_datatype_enum,
                ((-1,) if isinstance(one, SEQUENCE) else ()) + tuple(one.shape),
                None if one.default_value is None else np.array(one.default_value, one.dtype.as_numpy_dtype),
            )
            for key, one in sorted(features.items())
        ),
        {},
    )


SPECS = {
    "a": FIXED([2], tf.float32),
    "b": FIXED([], tf.int64, default_value=-3),
    "c": SEQUENCE([2], tf.int64, allow_missing=True, default_value=9),
    "d": SEQUENCE([], tf.float32, allow_missing=True),
    "e": FIXED([1, 2], tf.float32, default_value=[[0.5, 0.25]]),
}
FLOATS = st.lists(st.floats(width=32, allow_nan=False), max_size=4)
STRINGS = st.lists(st.binary(max_size=3), max_size=2)
INTEGERS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4)


@settings(max_examples=60)
@given(
    st.sets(st.sampled_from(sorted(SPECS)), min_size=1),
    st.lists(
        st.dictionaries(
            st.sampled_from(sorted(SPECS)), FLOATS | INTEGERS | st.lists(st.binary(max_size=3), max_size=2)
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_any_examples_give_what_tensorflow_gives_or_its_error(keys, rows):
    features = {key: SPECS[key] for key in keys}
    examples = [example(**row) for row in rows]
    ours = outcome(lambda: parse_examples(parsing_of(features), examples, keys, max_bytes=1 << 20))
    theirs = outcome(lambda: tf.io.parse_example(tf.constant(examples), features))
    if isinstance(theirs, str):
        assert isinstance(ours, str), theirs
        # TensorFlow looks at several Examples at once: which of its errors it tells is not certain.
        if len(rows) == len(keys) == 1:
            assert ours == theirs
    else:
        assert ours == theirs


@settings(max_examples=100)
@given(st.binary(max_size=60) | st.binary(max_size=20).map(lambda tail: example(a=[1.0, 2.0], c=[1, 2]) + tail))
def test_any_bytes_are_an_example_or_refused(data):
    answer = outcome(lambda: parse_examples(parsing_of(SPECS), [data], SPECS, max_bytes=1 << 20))
    assert isinstance(answer, str) or set(answer) == set(SPECS)


def test_memory_is_bounded():
    feature = Feature("x", DataType.DT_FLOAT, (1 << 20,), None)
    with pytest.raises(RequestError, match="takes 8388608 bytes"):
        parse_examples(Parsing((feature,), {}), [b""] * 2, {"x"}, max_bytes=5 << 20)
    variable = Feature("v", DataType.DT_INT64, (-1,), None)
    long = example(v=[1] * 1000)
    with pytest.raises(RequestError, match="takes 8000000 bytes"):
        parse_examples(Parsing((variable,), {}), [long] + [b""] * 999, {"v"}, max_bytes=1 << 20)
    many = b"\x0a\x02\x0a\x00" * 50_000
    with pytest.raises(RequestError, match="an Example is too large"):
        parse_examples(Parsing((feature,), {}), [many], set(), max_bytes=1 << 28)
