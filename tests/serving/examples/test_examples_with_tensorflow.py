"""TensorFlow Serving's own stubs, with tf.Examples that TensorFlow parses: its answers are ours."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from example_models import FunctionModel, examples_input

tf = pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_serving.apis")

from tensorflow_serving.apis import (  # noqa: E402
    classification_pb2,
    get_model_metadata_pb2,
    inference_pb2,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from sealserve.serving.core import ModelServer  # noqa: E402
from sealserve.serving.engines import create_engine  # noqa: E402
from sealserve.serving.model_files import directory_files  # noqa: E402
from sealserve.serving.warm_up import WARM_UP_FILE, warm_up  # noqa: E402
from sealserve.wire.tensorflow_serving_pb2 import ClassificationResponse  # noqa: E402
from sealserve.wire.tensorflow_serving_serialized_pb2 import SerializedExamplesRequest  # noqa: E402

FEATURES = {
    "x": tf.io.FixedLenFeature([2], tf.float32),
    "country": tf.io.FixedLenFeature([], tf.string, default_value="nowhere"),
    "age": tf.io.FixedLenFeature([], tf.int64, default_value=3),
}


class Animals(tf.Module):
    """Reads ``x`` and ``country`` from Examples; without words, ``age`` and no ``country``."""

    def __init__(self, *, words):
        self.words = words
        self.weights = tf.Variable(np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32))

    def _scores(self, inputs):
        features = tf.io.parse_example(inputs, FEATURES)
        home = tf.strings.length(features["country"]) if self.words else features["age"]
        return tf.nn.softmax(features["x"] @ self.weights + tf.cast(home, tf.float32)[:, None])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def classify(self, inputs):
        scores = self._scores(inputs)
        classes = tf.tile([["cat", "dog", "h\u00e9risson"]], [tf.shape(scores)[0], 1])
        return {"classes": classes, "scores": scores}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def regress(self, inputs):
        return {"outputs": self._scores(inputs)[:, :1] * 10}


@pytest.fixture(scope="module", params=["function", "tensorflow", "openvino"])
def place(request):
    """TensorFlow called from a stub, or an engine."""
    return request.param


@pytest.fixture(scope="module")
def exported(tmp_path_factory, place):
    directory = tmp_path_factory.mktemp("animals") / "1"
    module = Animals(words=place != "openvino")
    signatures = {"serving_default": module.classify, "regress": module.regress}
    tf.saved_model.save(module, str(directory), signatures=signatures)
    return directory


@pytest.fixture(scope="module")
def theirs(exported):
    """The exported signatures, as TensorFlow runs them."""
    return tf.saved_model.load(str(exported)).signatures


@pytest.fixture(scope="module")
def model(place, theirs, exported):
    if place != "function":
        with directory_files(exported) as files:
            yield (loaded := create_engine(place).load(files))
        loaded.close()
        return

    def function(name):
        def run(inputs):
            outputs = theirs[name](inputs=tf.constant(list(inputs)))
            return {alias: output.numpy() for alias, output in outputs.items()}

        return run

    outputs = {"serving_default": [("classes", 7), "scores"], "regress": ["outputs"]}
    yield FunctionModel({name: function(name) for name in outputs}, outputs)


@pytest.fixture
def core(model):
    core = ModelServer()
    core.add_model("animals", 1, model)
    return core


@pytest.fixture
def connection(core, serve):
    return serve(core)


@pytest.fixture
def stub(connection):
    return prediction_service_pb2_grpc.PredictionServiceStub(connection.channel)


def example(x, country=None):
    feature = {"x": tf.train.Feature(float_list=tf.train.FloatList(value=x))}
    if country is not None:
        feature["country"] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[country]))
    return tf.train.Example(features=tf.train.Features(feature=feature))


EXAMPLES = [example([1, 2], b"de"), example([-1, 0.5])]
CONTEXT = tf.train.Example()
CONTEXT.features.feature["country"].bytes_list.value.append(b"francia")
CONTEXT.features.feature["age"].int64_list.value.append(1)


def merged():
    """What the examples are with the context's features, by TensorFlow's own classes."""
    both = []
    for one in EXAMPLES:
        whole = tf.train.Example()
        whole.CopyFrom(CONTEXT)
        for name, feature in one.features.feature.items():
            whole.features.feature[name].CopyFrom(feature)
        both.append(whole)
    return both


def expected(theirs, signature, examples):
    outputs = theirs[signature](inputs=tf.constant([one.SerializeToString() for one in examples]))
    return {name: output.numpy() for name, output in outputs.items()}


def request(kind, *, context=None, signature="", examples=EXAMPLES):
    message = kind()
    message.model_spec.name, message.model_spec.signature_name = "animals", signature
    examples_input(message.input, *examples, context=context)
    return message


def check_classes(result, outputs):
    assert [[one.label for one in row.classes] for row in result.classifications] == [
        [label.decode() for label in row] for row in outputs["classes"]
    ]
    assert np.allclose([[one.score for one in row.classes] for row in result.classifications], outputs["scores"])


@pytest.mark.parametrize("context", [None, CONTEXT], ids=["examples", "context"])
def test_classes_are_tensorflows(stub, theirs, context):
    answer = stub.Classify(request(classification_pb2.ClassificationRequest, context=context), timeout=20)
    check_classes(answer.result, expected(theirs, "serving_default", merged() if context else EXAMPLES))
    assert answer.model_spec.version.value == 1


@pytest.mark.parametrize("context", [None, CONTEXT], ids=["examples", "context"])
def test_numbers_are_tensorflows(stub, theirs, context):
    message = request(regression_pb2.RegressionRequest, context=context, signature="regress")
    values = [one.value for one in stub.Regress(message, timeout=20).result.regressions]
    outputs = expected(theirs, "regress", merged() if context else EXAMPLES)["outputs"]
    assert np.allclose(values, outputs.ravel())


def test_both_at_once_are_tensorflows(stub, theirs):
    message = inference_pb2.MultiInferenceRequest()
    for signature, method in (("", "classify"), ("regress", "regress")):
        task = message.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = "animals", signature
    examples_input(message.input, *EXAMPLES)
    one, other = stub.MultiInference(message, timeout=20).results
    check_classes(one.classification_result, expected(theirs, "serving_default", EXAMPLES))
    numbers = [one.value for one in other.regression_result.regressions]
    assert np.allclose(numbers, expected(theirs, "regress", EXAMPLES)["outputs"].ravel())


def test_examples_can_be_strings_to_predict_as_well(stub, theirs):
    message = predict_pb2.PredictRequest()
    message.model_spec.name = "animals"
    message.inputs["inputs"].CopyFrom(tf.make_tensor_proto([one.SerializeToString() for one in EXAMPLES]))
    answer = stub.Predict(message, timeout=20)
    outputs = expected(theirs, "serving_default", EXAMPLES)
    for name, array in outputs.items():
        ours = tf.make_ndarray(answer.outputs[name])
        assert np.array_equal(ours, array) if name == "classes" else np.allclose(ours, array)


def test_a_batch_of_a_thousand_examples_with_fifty_features_is_served(stub, theirs):
    rows = np.random.default_rng(1).standard_normal((1000, 2))
    examples = []
    for row in rows:
        one = example(row, b"de")
        for number in range(48):
            one.features.feature[f"other_{number}"].int64_list.value.append(number)
        examples.append(one)
    answer = stub.Classify(request(classification_pb2.ClassificationRequest, examples=examples), timeout=60)
    check_classes(answer.result, expected(theirs, "serving_default", examples))


def test_metadata_is_read_by_tensorflow_servings_own_class(stub):
    message = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    message.model_spec.name = "animals"
    answer = stub.GetModelMetadata(message, timeout=20)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(signatures)
    assert set(signatures.signature_def) >= {"serving_default", "regress"}


def refused(function, *arguments):
    with pytest.raises(grpc.RpcError) as info:
        function(*arguments, timeout=20)
    return info.value.code().name, info.value.details()


def test_refusals_are_tensorflow_servings(stub):
    kind = classification_pb2.ClassificationRequest
    assert refused(stub.Classify, kind()) == ("INVALID_ARGUMENT", "Missing ModelSpec")
    assert refused(stub.Classify, request(kind, examples=[])) == ("INVALID_ARGUMENT", "Input is empty.")
    wrong = request(kind, signature="other")
    assert refused(stub.Classify, wrong) == ("INVALID_ARGUMENT", "No signature was found with the name: other")
    wrong.model_spec.name = "other"
    assert refused(stub.Classify, wrong) == ("NOT_FOUND", "Servable not found for request: Latest(other)")
    assert refused(stub.Regress, regression_pb2.RegressionRequest()) == ("INVALID_ARGUMENT", "Missing ModelSpec")
    multi = inference_pb2.MultiInferenceRequest()
    task = multi.tasks.add(method_name="tensorflow/serving/predict")
    task.model_spec.name = "animals"
    message = "Unsupported signature method_name: tensorflow/serving/predict"
    assert refused(stub.MultiInference, multi) == ("UNIMPLEMENTED", message)


def test_an_example_that_is_none_is_refused_by_the_model(model, connection):
    if isinstance(model, FunctionModel):
        pytest.skip("the stub does not tell TensorFlow's errors")
    message = SerializedExamplesRequest()
    message.model_spec.name = "animals"
    message.input.example_list.examples.extend([EXAMPLES[0].SerializeToString(), b"no example"])
    path = "/tensorflow.serving.PredictionService/Classify"
    code, text = refused(connection.call, path, message, ClassificationResponse)
    assert code == "INVALID_ARGUMENT"
    assert "Could not parse example" in text


def test_warm_up_records_that_tensorflow_writes_run(model, tmp_path):
    (tmp_path / WARM_UP_FILE).parent.mkdir()
    logs = [prediction_log_pb2.PredictionLog() for _ in range(2)]
    logs[0].classify_log.request.CopyFrom(request(classification_pb2.ClassificationRequest, context=CONTEXT))
    logs[1].regress_log.request.CopyFrom(request(regression_pb2.RegressionRequest, signature="regress"))
    with tf.io.TFRecordWriter(str(tmp_path / WARM_UP_FILE)) as writer:
        for log in logs:
            writer.write(log.SerializeToString())
    with directory_files(tmp_path) as files:
        assert warm_up(model, files) == 2
