"""Real TensorFlow, and TensorFlow Serving's own stubs, against the server: the same models, the same answers."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import grpc
import numpy as np
import pytest
from serving_models import load

tf = pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_serving.apis")

from tensorflow_serving.apis import (  # noqa: E402
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from sealserve.errors import ModelError  # noqa: E402
from sealserve.models.efficientnet import WEIGHTS_PACKAGE, write_efficientnet_lite0  # noqa: E402
from sealserve.models.saved_model import read_saved_model  # noqa: E402
from sealserve.serving.core import ModelServer  # noqa: E402
from sealserve.serving.engines import create_engine  # noqa: E402
from sealserve.serving.model_files import MemoryFiles  # noqa: E402

MILITARY_UNIFORM = 652  # ImageNet's class of Grace Hopper's photograph
FLOATS = tf.TensorSpec([None, 4], tf.float32)


class Module(tf.Module):
    """Signatures that are easily taken for each other."""

    def __init__(self):
        generator = np.random.default_rng(0)
        self.weights = tf.Variable(generator.standard_normal((4, 3)).astype(np.float32))

    @tf.function(input_signature=[FLOATS])
    def project(self, x):
        return {"y": x @ self.weights}

    @tf.function(input_signature=[FLOATS])
    def twice(self, x):
        return {"y": x @ self.weights * 2}

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.int64), tf.TensorSpec([None, 2], tf.int64)])
    def integers(self, a, b):
        return {"sum": a + b, "difference": a - b, "copy": b}

    @tf.function(input_signature=[FLOATS])
    def same_name(self, x):
        return {"x": x + 1}

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32), tf.TensorSpec([None], tf.bool)])
    def kinds(self, scalar, flags):
        return {"scalar": scalar * 2, "inverse": tf.logical_not(flags), "largest": tf.argmax(tf.cast(flags, tf.int32))}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def strings(self, s):
        return {"upper": tf.strings.upper(s)}


@pytest.fixture(scope="module")
def save(tmp_path_factory):
    """Saves a module with some of its signatures and gives the version's directory."""

    def save(**signatures):
        module = Module()
        target = tmp_path_factory.mktemp("saved") / "1"
        chosen = {name: getattr(module, method) for name, method in signatures.items()}
        tf.saved_model.save(module, str(target), signatures=chosen)
        return target

    return save


@pytest.fixture(scope="module")
def efficientnet(tmp_path_factory) -> Path:
    pytest.importorskip(WEIGHTS_PACKAGE)
    return write_efficientnet_lite0(tmp_path_factory.mktemp("efficientnet")) / "1"


@pytest.fixture(scope="module")
def photograph():
    """uint8 [1, 224, 224, 3]."""
    image = pytest.importorskip("PIL.Image")
    matplotlib = importlib.util.find_spec("matplotlib")
    if matplotlib is None:
        pytest.skip("matplotlib, which has the photograph, is not installed")
    path = Path(matplotlib.submodule_search_locations[0]) / "mpl-data" / "sample_data" / "grace_hopper.jpg"
    with image.open(path) as picture:
        return np.asarray(picture.convert("RGB").resize((224, 224), image.Resampling.BICUBIC))[np.newaxis]


def load_as_tensorflow_serving_does(directory, inputs, signature="serving_default"):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(directory))
        definition = graph.signature_def[signature]
        outputs = {name: info.name for name, info in definition.outputs.items()}
        return session.run(outputs, {definition.inputs[name].name: array for name, array in inputs.items()})


def stub(connection):
    return prediction_service_pb2_grpc.PredictionServiceStub(connection.channel)


def predict_request(name, inputs, signature=""):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    for alias, array in inputs.items():
        request.inputs[alias].CopyFrom(tf.make_tensor_proto(array))
    return request


def core_of(**models):
    core = ModelServer()
    for name, model in models.items():
        core.add_model(name, 1, model)
    return core


def test_the_photograph_is_a_military_uniform_for_every_engine(engine, serve, efficientnet, photograph):
    connection = serve(core_of(efficientnet=load(engine, efficientnet)))
    answer = stub(connection).Predict(predict_request("efficientnet", {"images": photograph}), timeout=60)
    ours = tf.make_ndarray(answer.outputs["probabilities"])[0]
    as_serving = load_as_tensorflow_serving_does(efficientnet, {"images": photograph})["probabilities"][0]
    loaded = tf.saved_model.load(str(efficientnet))
    as_user = loaded.signatures["serving_default"](images=tf.constant(photograph))["probabilities"].numpy()[0]
    for answers in (ours, as_serving, as_user):
        assert int(np.argmax(answers)) == MILITARY_UNIFORM
        assert np.isclose(answers.sum(), 1, atol=1e-4)
        assert np.abs(answers - as_serving).max() < 1e-4
    assert ours[MILITARY_UNIFORM] > 0.3


@pytest.mark.parametrize("name", ["openvino", "tensorflow"])
def test_a_module_that_holds_a_keras_model_agrees_with_keras(name, tmp_path):
    keras = pytest.importorskip("keras")

    class Holder(tf.Module):
        def __init__(self):
            self.factor = tf.Variable(2.0)
            self.network = keras.Sequential(
                [keras.Input((4,)), keras.layers.Dense(3, bias_initializer="ones"), keras.layers.BatchNormalization()]
            )

        @tf.function(input_signature=[FLOATS])
        def call(self, x):
            return {"y": self.network(x) * self.factor}

    holder, x = Holder(), np.random.default_rng(4).standard_normal((5, 4)).astype(np.float32)
    holder.network.layers[1].moving_mean.assign([1.0, -2.0, 0.5])
    tf.saved_model.save(holder, str(tmp_path / "1"), signatures=holder.call)
    answer = load(create_engine(name, threads=1), tmp_path / "1").predict("serving_default", {"x": x})["y"]
    np.testing.assert_allclose(answer, holder.call(x)["y"].numpy(), atol=1e-5)
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    np.testing.assert_allclose(answer, loaded.signatures["serving_default"](x=tf.constant(x))["y"].numpy(), atol=1e-5)


def test_a_batch_is_answered_row_by_row(engine, efficientnet, photograph):
    model = load(engine, efficientnet)
    batch = np.concatenate([photograph, 255 - photograph, photograph])
    together = model.predict("serving_default", {"images": batch})["probabilities"]
    assert together.shape == (3, 1000)
    for row, image in zip(together, batch, strict=True):
        alone = model.predict("serving_default", {"images": image[np.newaxis]})["probabilities"][0]
        assert np.abs(row - alone).max() < 1e-5


def test_metadata_is_what_the_model_file_says(engine, serve, save):
    directory = save(serving_default="project", integers="integers")
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "m"
    answer = stub(serve(core_of(m=load(engine, directory)))).GetModelMetadata(request, timeout=20)
    told = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(told)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(directory))
    assert dict(told.signature_def) == dict(graph.signature_def)
    assert "__saved_model_init_op" in told.signature_def


def test_a_model_with_variables_in_memory_agrees_with_tensorflow(engine, serve, save):
    source = save(serving_default="project")
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    expected = load_as_tensorflow_serving_does(source, {"x": x})["y"]
    with MemoryFiles() as files:
        for path in source.rglob("*"):
            if path.is_file():
                with files.add(path.relative_to(source).as_posix()) as file:
                    file.write(path.read_bytes())
        model = engine.load(files)
    answer = stub(serve(core_of(m=model))).Predict(predict_request("m", {"x": x}), timeout=20)
    # In bfloat16, OpenVINO's own choice on CPUs that have it, this is off by 1e-2.
    assert np.abs(tf.make_ndarray(answer.outputs["y"]) - expected).max() < 1e-5


class WithControlFlow(tf.Module):
    """Variables that are read in branches, loops and nested functions."""

    def __init__(self):
        self.weights = tf.Variable(np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32))
        self.table = tf.Variable(np.arange(40, dtype=np.float32).reshape(10, 4))
        self.half = tf.Variable(tf.constant([1.5, 2.5, 3.5, 4.5], tf.bfloat16))

    @tf.function(input_signature=[FLOATS])
    def branch(self, x):
        return {"y": tf.cond(tf.reduce_sum(x) > 0, lambda: x @ self.weights, lambda: tf.zeros_like(x))}

    @tf.function(input_signature=[FLOATS])
    def loop(self, x):
        for _ in tf.range(3):
            x = x @ self.weights
        return {"y": x}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)])
    def gather(self, i):
        return {"y": tf.gather(self.table, i), "constant": tf.constant(4.0), "same": i}

    @tf.function(input_signature=[FLOATS])
    def narrow(self, x):
        return {"y": x * tf.cast(self.half, tf.float32)}


def test_variables_in_branches_loops_and_functions_agree_with_tensorflow(engine, tmp_path):
    module = WithControlFlow()
    names = ("branch", "loop", "gather", "narrow")
    tf.saved_model.save(module, str(tmp_path), signatures={name: getattr(module, name) for name in names})
    model = load(engine, tmp_path)
    for name in names:
        (alias,) = model.signatures[name].inputs
        x = np.array([0, 3, 9], np.int32) if name == "gather" else np.arange(8, dtype=np.float32).reshape(2, 4)
        for inputs in ({alias: x}, {alias: -x} if name != "gather" else {alias: x[:1]}):
            answers, expected = model.predict(name, inputs), load_as_tensorflow_serving_does(tmp_path, inputs, name)
            for key, array in expected.items():
                assert np.allclose(answers[key], array, atol=1e-4), (name, key)


def test_a_keras_export_agrees_with_keras(engine, tmp_path):
    layers = tf.keras.layers
    keras = tf.keras.Sequential(
        [layers.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.Flatten(), layers.Dense(5)]
    )
    keras.export(str(tmp_path / "1"), verbose=False)
    model = load(engine, tmp_path / "1")
    assert set(model.signatures) == {"serve", "serving_default"}
    assert len({one.requests for one in model._compiled.values()}) == 1  # one graph for both
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype(np.float32)
    for name, signature in model.signatures.items():
        (alias,), (output,) = signature.inputs, signature.outputs
        assert np.allclose(model.predict(name, {alias: x})[output], keras(x), atol=1e-4)


@pytest.mark.parametrize("resource", [False, True])
def test_variables_of_tensorflow_1_agree_with_tensorflow(engine, tmp_path, resource):
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder_with_default(np.zeros((1, 2), np.float32), [None, 2], name="x")
        weights = v1.get_variable("weights", initializer=np.float32([[1, 2], [3, 4]]), use_resource=resource)
        y = tf.matmul(x, weights)
        session.run(v1.global_variables_initializer())
        session.run(v1.assign(weights, np.float32([[5, 6], [7, 8]])))
        outputs = {"y": y, "weights": tf.identity(weights)}
        signature = v1.saved_model.predict_signature_def({"x": x}, outputs)
        builder = v1.saved_model.Builder(str(tmp_path / "1"))
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()
    answers = load(engine, tmp_path / "1").predict("serving_default", {"x": np.float32([[1, 1]])})
    assert answers["y"].tolist() == [[12, 14]]
    assert answers["weights"].tolist() == [[5, 6], [7, 8]]


def test_each_signature_gives_its_own_answers(engine, save):
    directory = save(
        serving_default="project", twice="twice", integers="integers", same_name="same_name", kinds="kinds"
    )
    model = load(engine, directory)
    assert set(model.signatures) == {"serving_default", "twice", "integers", "same_name", "kinds"}
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    integers = {"a": np.array([[1 << 29, 2]]), "b": np.array([[3, -4]])}
    kinds = {"scalar": np.array(3, np.float32), "flags": np.array([False, True, False])}
    for name, inputs in {
        "serving_default": {"x": x},
        "twice": {"x": x},
        "integers": integers,
        "same_name": {"x": x},
        "kinds": kinds,
    }.items():
        expected = load_as_tensorflow_serving_does(directory, inputs, name)
        answers = model.predict(name, inputs)
        assert answers.keys() == expected.keys()
        for alias, array in answers.items():
            assert array.dtype == expected[alias].dtype
            assert array.shape == np.shape(expected[alias])
            assert np.abs(array.astype(np.float64) - expected[alias]).max() < 1e-5


def test_a_single_signature_may_have_any_name(engine, save):
    model = load(engine, save(twice="twice"))
    assert list(model.signatures) == ["twice"]
    x = np.ones((1, 4), np.float32)
    assert model.predict("twice", {"x": x})["y"].shape == (1, 3)


def test_two_signatures_of_one_graph_are_told_apart(engine, tmp_path):
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], name="x")
        scale = v1.get_variable("scale", initializer=0.5)
        session.run(v1.global_variables_initializer())
        signatures = {
            name: v1.saved_model.predict_signature_def({"x": x}, {"y": x * scale + offset})
            for name, offset in (("plus_two", 2.0), ("plus_three", 3.0))
        }
        builder = v1.saved_model.Builder(str(tmp_path / "1"))
        builder.add_meta_graph_and_variables(session, ["serve"], signatures)
        builder.save()
    model = load(engine, tmp_path / "1")
    inputs = {"x": np.array([1, 2], np.float32)}
    assert model.predict("plus_two", inputs)["y"].tolist() == [2.5, 3.0]
    assert model.predict("plus_three", inputs)["y"].tolist() == [3.5, 4.0]


def test_a_model_of_strings_is_refused_by_its_operations(engine, save):
    with pytest.raises(ModelError, match="cannot convert the operation StringUpper") as caught:
        load(engine, save(serving_default="strings"))
    assert "`engine: tensorflow`" in caught.value.hint


def test_a_signature_of_strings_beside_one_of_numbers_is_refused_when_it_is_asked(engine, serve, save):
    connection = serve(core_of(m=load(engine, save(serving_default="project", strings="strings"))))
    x = np.ones((1, 4), np.float32)
    assert stub(connection).Predict(predict_request("m", {"x": x}), timeout=20).outputs["y"].dtype == 1
    with pytest.raises(grpc.RpcError) as caught:
        stub(connection).Predict(predict_request("m", {"s": np.array([b"a"])}, "strings"), timeout=20)
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "StringUpper" in caught.value.details()


def test_stubs_see_the_errors_that_tensorflow_serving_gives(engine, serve, half_plus_two):
    caller = stub(serve(core_of(half=load(engine, half_plus_two))))
    for request, code, details in (
        (predict_request("x", {}), grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(x)"),
        (
            predict_request("half", {"x": np.float64([1])}),
            grpc.StatusCode.INVALID_ARGUMENT,
            "Expects arg[0] to be float",
        ),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            caller.Predict(request, timeout=20)
        assert caught.value.code() == code
        assert caught.value.details().startswith(details)


def test_what_is_written_here_tensorflow_reads(half_plus_two):
    content = read_saved_model(half_plus_two)
    assert load_as_tensorflow_serving_does(content.path, {"x": np.array([1, 2], np.float32)})["y"].tolist() == [2.5, 3]
    loaded = tf.saved_model.load(str(half_plus_two))
    assert loaded.signatures["serving_default"](x=tf.constant([4.0]))["y"].numpy().tolist() == [4.0]
