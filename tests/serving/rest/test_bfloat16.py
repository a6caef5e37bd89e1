"""Models that take and give bfloat16, on both engines and through every interface: TensorFlow's own answers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from serving_models import load

tf = pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_serving.apis")

from tensorflow_models import as_tensorflow_serving  # noqa: E402
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc  # noqa: E402

from sealserve.errors import ModelError  # noqa: E402
from sealserve.serving import open_inference  # noqa: E402
from sealserve.serving.core import ModelChoice, ModelServer  # noqa: E402
from sealserve.serving.engines import create_engine  # noqa: E402
from sealserve.serving.errors import RequestError  # noqa: E402
from sealserve.wire.bfloat16 import BFLOAT16, narrow, widen  # noqa: E402
from sealserve.wire.open_inference_pb2 import ModelInferRequest  # noqa: E402

ROW = tf.TensorSpec([None, 2], tf.bfloat16)
NUMBERS = np.float32([[1.5, -2], [0.1, 3e38]])


class Module(tf.Module):
    def __init__(self):
        self.factor = tf.Variable(tf.constant([3.25, 0.5], tf.bfloat16))

    @tf.function(input_signature=[ROW])
    def scale(self, x):
        return {"y": x * self.factor, "same": x, "wide": tf.cast(x, tf.float32)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
    def quantize(self, x):
        return {"q": tf.quantization.quantize(x, -1, 1, tf.qint8).output}


def same(array, expected):
    """TensorFlow's answer. OpenVINO does not always round to the nearest: one step of bfloat16 at most."""
    np.testing.assert_allclose(np.float32(array), expected, rtol=2**-7, atol=0)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    module, target = Module(), tmp_path_factory.mktemp("bfloat16") / "1"
    signatures = {"serving_default": module.scale, "quantized": module.quantize}
    tf.saved_model.save(module, str(target), signatures=signatures)
    return target


@pytest.fixture(scope="module")
def expected(saved):
    answers = as_tensorflow_serving(saved, {"x": tf.cast(NUMBERS, tf.bfloat16).numpy()})
    return {name: np.asarray(array, np.float32) for name, array in answers.items()}


@pytest.fixture(scope="module", params=["openvino", "tensorflow"])
def core(request, saved):
    core = ModelServer()
    core.add_model("scale", 1, load(create_engine(request.param, threads=1), saved))
    return core


def test_grpc_answers_as_tensorflow(core, serve, expected):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(serve(core).channel)
    theirs = tf.cast(NUMBERS, tf.bfloat16)
    typed = tf.make_tensor_proto(theirs.numpy())
    typed.half_val.extend(theirs.numpy().view(np.uint16).ravel().tolist())
    typed.ClearField("tensor_content")
    for proto in (tf.make_tensor_proto(theirs.numpy()), typed):
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "scale"
        request.inputs["x"].CopyFrom(proto)
        answer = stub.Predict(request, timeout=20)
        outputs = {name: tf.make_ndarray(tensor) for name, tensor in answer.outputs.items()}
        assert {name: array.dtype.name for name, array in outputs.items()} == {
            "y": "bfloat16",
            "same": "bfloat16",
            "wide": "float32",
        }
        for name, array in outputs.items():
            same(array, expected[name])


def test_rest_has_them_as_numbers(core, rest, expected):
    caller = rest(core)
    answer = json.loads(caller.post("/v1/models/scale:predict", json.dumps({"inputs": NUMBERS.tolist()})).data)
    for name, array in expected.items():
        same(answer["outputs"][name], array)
    rows = json.dumps({"instances": [{"x": row} for row in NUMBERS.tolist()]})
    answer = json.loads(caller.post("/v1/models/scale:predict", rows).data)
    same([row["y"] for row in answer["predictions"]], expected["y"])
    for wrong in ([[1e39, 0]], [["a", 0]]):
        response = caller.post("/v1/models/scale:predict", json.dumps({"inputs": wrong}))
        assert response.status == 400
        assert "is not of expected type: bfloat16" in json.loads(response.data)["error"]
    metadata = json.loads(caller.get("/v1/models/scale/metadata").data)["metadata"]["signature_def"]
    assert metadata["signature_def"]["serving_default"]["inputs"]["x"]["dtype"] == "DT_BFLOAT16"


def test_the_open_inference_protocol_has_them_as_bf16(core, rest, expected):
    told = open_inference.model_metadata(core, "scale")
    assert {one.name: one.datatype for one in told.outputs} == {"y": "BF16", "same": "BF16", "wide": "FP32"}
    for raw in (True, False):
        request = ModelInferRequest(model_name="scale")
        given = request.inputs.add(name="x", datatype="BF16", shape=NUMBERS.shape)
        if raw:
            request.raw_input_contents.append(narrow(NUMBERS).tobytes())
        else:
            given.contents.fp32_contents.extend(NUMBERS.ravel().tolist())
        answer = open_inference.infer(core, request)
        for output, data in zip(answer.outputs, answer.raw_output_contents, strict=True):
            array = np.frombuffer(data, BFLOAT16 if output.datatype == "BF16" else np.float32)
            array = widen(array) if output.datatype == "BF16" else array
            same(array, expected[output.name].ravel())
    body = {"inputs": [{"name": "x", "datatype": "BF16", "shape": [2, 2], "data": NUMBERS.tolist()}]}
    answer = json.loads(rest(core).post("/v2/models/scale/infer", json.dumps(body)).data)
    for output in answer["outputs"]:
        same(output["data"], expected[output["name"]].ravel())


@pytest.mark.parametrize(
    ("signature", "given", "message"),
    [
        ("serving_default", np.zeros((1, 2), np.float16), "to be bfloat16 but half is provided"),
        ("quantized", np.zeros(1, np.float32), "q: tensors of qint8 are not supported"),
    ],
)
def test_other_types_are_refused(core, signature, given, message):
    with core.use(ModelChoice("scale")) as (_, loaded), pytest.raises(RequestError, match=message):
        loaded.predict(signature, {"x": given})


def test_a_model_that_has_only_such_a_signature_does_not_load(tmp_path):
    module = Module()
    tf.saved_model.save(module, str(tmp_path / "1"), signatures=module.quantize)
    for name in ("openvino", "tensorflow"):
        with pytest.raises(ModelError, match="q: tensors of qint8 are not supported"):
            load(create_engine(name, threads=1), tmp_path / "1")
