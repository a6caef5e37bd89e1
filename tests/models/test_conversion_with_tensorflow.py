"""TensorFlow and OpenVINO take what the conversion makes, and answer as the frozen graph does in TensorFlow."""

from __future__ import annotations

import numpy as np
import pytest
from example_graphs import frozen_graph

from sealserve.models.conversion import convert_frozen_graph
from sealserve.models.frozen import read_frozen_graph
from sealserve.serving.engines import create_engine
from sealserve.serving.model_files import directory_files

tf = pytest.importorskip("tensorflow")
v1 = tf.compat.v1

RANDOM = np.random.default_rng(0)
PICTURE = RANDOM.standard_normal((2, 8, 8, 3)).astype(np.float32)


def convolution():
    x = v1.placeholder(tf.float32, [None, 8, 8, 3], "input")
    y = tf.nn.conv2d(x, RANDOM.standard_normal((3, 3, 3, 4)).astype(np.float32), 1, "SAME")
    y = v1.nn.fused_batch_norm(
        y, np.ones(4, "f"), np.ones(4, "f"), np.ones(4, "f"), np.ones(4, "f"), is_training=False
    )[0]
    y = tf.nn.max_pool2d(tf.nn.relu(y), 2, 2, "VALID")
    y = tf.reshape(tf.reduce_mean(y, [1, 2]), [-1, 4])
    tf.nn.softmax(y @ RANDOM.standard_normal((4, 5)).astype(np.float32), name="predict")
    return {"input": PICTURE}, ["predict"]


def several_outputs():
    x = v1.placeholder(tf.float32, [None, 6], "x")
    tf.split(x, 3, axis=1, name="split")
    tf.math.top_k(x, 2, name="top")
    tf.argmax(x, axis=1, name="best")
    tf.cast(x > 0, tf.uint8, name="positive")
    tf.shape(x, name="shape")
    return {"x": RANDOM.standard_normal((3, 6)).astype(np.float32)}, [
        "split", "split:2", "top", "top:1", "best", "positive", "shape",
    ]  # fmt: skip


def waiting():
    x = v1.placeholder(tf.float32, [None], "x")
    with tf.control_dependencies([v1.assert_greater(tf.size(x), 0)]):
        tf.identity(x * 2, name="y")
    return {"x": np.ones(3, np.float32)}, ["y"]


def in_functions():
    x = v1.placeholder(tf.float32, [None], "x")

    @tf.function
    def inner(value):
        return tf.cond(tf.reduce_sum(value) > 0, lambda: value * 2, lambda: -value)

    tf.identity(inner(x), name="y")
    return {"x": -np.ones(3, np.float32)}, ["y"]


def in_a_loop():
    v1.disable_control_flow_v2()
    try:
        x = v1.placeholder(tf.float32, [None], "x")
        result = tf.while_loop(lambda i, _: i < 3, lambda i, value: (i + 1, value * 2), [tf.constant(0), x])
        tf.identity(result[1], name="y")
    finally:
        v1.enable_control_flow_v2()
    return {"x": np.ones(3, np.float32)}, ["y"]


def of_strings():
    x = v1.placeholder(tf.string, [None], "x")
    tf.strings.upper(x, name="y")
    return {"x": np.array([b"a", b"b"], object)}, ["y"]


def from_within():
    x = v1.placeholder(tf.string, [], "jpeg")
    picture = tf.cast(tf.io.decode_jpeg(x, channels=3), tf.float32, name="picture")
    tf.reduce_mean(picture, name="y")
    return {"picture": PICTURE[0]}, ["y"]


GRAPHS = [convolution, several_outputs, waiting, in_functions, in_a_loop, of_strings, from_within]


@pytest.mark.parametrize("build", GRAPHS, ids=lambda one: one.__name__)
def test_tensorflow_gives_the_same_answers_and_finds_types_and_shapes_as_told(tmp_path, build):
    with tf.Graph().as_default() as graph, v1.Session() as session:
        inputs, outputs = build()
        definition = graph.as_graph_def()
        expected = session.run(
            {name: graph.get_tensor_by_name(name if ":" in name else f"{name}:0") for name in outputs},
            {f"{name}:0": value for name, value in inputs.items()},
        )
        found = {name: graph.get_tensor_by_name(name if ":" in name else f"{name}:0") for name in outputs}
        told = {name: (tensor.dtype, tensor.shape) for name, tensor in found.items()}
    path = tmp_path / "graph.pb"
    path.write_bytes(definition.SerializeToString())
    done = convert_frozen_graph(path, tmp_path / "m", inputs=list(inputs), outputs=outputs)
    for name, spec in done.outputs.items():
        assert spec.data_type == told[name][0].as_datatype_enum
        assert spec.shape is None or told[name][1].is_compatible_with([None if n < 0 else n for n in spec.shape])
    function = tf.saved_model.load(str(done.path)).signatures["serving_default"]
    answers = function(**{name: tf.constant(value) for name, value in inputs.items()})
    assert set(answers) == set(outputs)
    for name, array in expected.items():
        assert np.array_equal(answers[name].numpy(), array)


@pytest.mark.parametrize("build", [convolution, several_outputs, waiting], ids=lambda one: one.__name__)
def test_openvino_serves_what_was_converted(tmp_path, build):
    with tf.Graph().as_default() as graph, v1.Session() as session:
        inputs, outputs = build()
        (tmp_path / "graph.pb").write_bytes(graph.as_graph_def().SerializeToString())
        expected = session.run(
            {name: name if ":" in name else f"{name}:0" for name in outputs},
            {f"{name}:0": value for name, value in inputs.items()},
        )
    done = convert_frozen_graph(tmp_path / "graph.pb", tmp_path / "m", inputs=list(inputs), outputs=outputs)
    with directory_files(done.path) as files:
        model = create_engine("openvino").load(files)
    answers = model.predict("serving_default", inputs)
    for name, array in expected.items():
        assert answers[name].dtype == array.dtype
        np.testing.assert_allclose(answers[name], array, atol=1e-4)


def test_a_graph_without_versions_is_taken_as_tensorflow_takes_it(tmp_path):
    definition = v1.GraphDef.FromString(frozen_graph())
    definition.ClearField("versions")
    (tmp_path / "graph.pb").write_bytes(definition.SerializeToString())
    done = convert_frozen_graph(tmp_path / "graph.pb", tmp_path / "m")
    function = tf.saved_model.load(str(done.path)).signatures["serving_default"]
    assert function(input=tf.ones([2, 4]))["predict"].shape == (2, 3)


@pytest.mark.slow
@pytest.mark.timeout(600)  # on a machine with other work
def test_a_real_resnet_50_is_converted_and_served(tmp_path):
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    network = tf.keras.applications.ResNet50(weights=None)
    picture = tf.TensorSpec([None, 224, 224, 3], tf.float32, name="input")
    traced = tf.function(lambda input: tf.identity(network(input, training=False), name="predict"))  # noqa: A006
    definition = convert_variables_to_constants_v2(traced.get_concrete_function(picture)).graph.as_graph_def()
    path = tmp_path / "resnet50-v15-fp32.pb"
    path.write_bytes(definition.SerializeToString())
    done = convert_frozen_graph(path, tmp_path / "m", inputs=["input"], outputs=["predict"])
    assert done.outputs["predict"].shape == (-1, 1000)
    x = RANDOM.standard_normal((2, 224, 224, 3)).astype(np.float32)
    model = read_frozen_graph(path)
    with tf.Graph().as_default() as graph, v1.Session() as session:
        tf.import_graph_def(definition, name="")
        expected = session.run("predict:0", {"input:0": x})
        for operation in graph.get_operations():
            for number, tensor in enumerate(operation.outputs):
                spec = model.tensor(f"{operation.name}:{number}")
                assert spec.data_type == tensor.dtype.as_datatype_enum
                if spec.shape is not None:
                    assert tensor.shape.is_compatible_with([None if n < 0 else n for n in spec.shape])
    loaded = tf.saved_model.load(str(done.path)).signatures["serving_default"]
    assert np.array_equal(loaded(input=tf.constant(x))["predict"].numpy(), expected)
    with directory_files(done.path) as files:
        served = create_engine("openvino").load(files)
    np.testing.assert_allclose(served.predict("serving_default", {"input": x})["predict"], expected, atol=1e-4)
