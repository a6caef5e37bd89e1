"""TensorFlow Serving's documentation of its RESTful API (g3doc/api_rest.md): its examples, as tests of behaviour."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from rest_models import FakeModel, definition
from serving_models import load

from sealserve.serving.core import ModelServer
from sealserve.wire.tensorflow_pb2 import DataType, Example

FLOAT, STRING, INT64 = DataType.DT_FLOAT, DataType.DT_STRING, DataType.DT_INT64


def answer(response):
    assert response.headers["Content-Type"] == "application/json"
    return response.status, json.loads(response.data)


def serve_one(rest, model, name="m"):
    core = ModelServer()
    core.add_model(name, 1, model)
    return rest(core)


@pytest.fixture(scope="module")
def half_plus_models(engine, half_plus_two, half_plus_three):
    return load(engine, half_plus_two), load(engine, half_plus_three)


@pytest.fixture
def half_plus(rest, half_plus_models):
    core = ModelServer()
    core.add_model("half_plus_two", 1, half_plus_models[0])
    core.add_model("half_plus_three", 123, half_plus_models[1])
    core.set_labels("half_plus_three", {"stable": 123})
    return rest(core)


def test_rows_are_answered_with_predictions(half_plus):
    body = b'{"instances": [1.0, 2.0, 5.0]}'
    assert answer(half_plus.post("/v1/models/half_plus_two:predict", body)) == (200, {"predictions": [2.5, 3.0, 4.5]})
    assert answer(half_plus.post("/v1/models/half_plus_three:predict", body)) == (200, {"predictions": [3.5, 4.0, 5.5]})


def test_columns_are_answered_with_outputs(half_plus):
    body = b'{"inputs": [1.0, 2.0, 5.0], "signature_name": "serving_default"}'
    assert answer(half_plus.post("/v1/models/half_plus_two:predict", body)) == (200, {"outputs": [2.5, 3.0, 4.5]})


@pytest.mark.parametrize("path", ["/versions/123", "/labels/stable"])
def test_versions_and_labels_are_chosen_in_the_path(half_plus, path):
    response = half_plus.post(f"/v1/models/half_plus_three{path}:predict", b'{"instances": [1.0]}')
    assert answer(response) == (200, {"predictions": [3.5]})


def test_the_status_names_each_version_and_its_state(half_plus):
    assert answer(half_plus.get("/v1/models/half_plus_three")) == (
        200,
        {
            "model_version_status": [
                {"version": "123", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
            ]
        },
    )
    assert half_plus.get("/v1/models/half_plus_three/versions/7").status == 404


def test_the_metadata_is_protobufs_json(half_plus):
    status, found = answer(half_plus.get("/v1/models/half_plus_two/metadata"))
    tensor = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}}
    signature = found["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert status == 200
    assert found["model_spec"] == {"name": "half_plus_two", "signature_name": "", "version": "1"}
    assert signature["inputs"] == {"x": {"name": "x:0", **tensor}}
    assert signature["outputs"] == {"y": {"name": "y:0", **tensor}}
    assert signature["method_name"] == "tensorflow/serving/predict"


TAGS = definition({"tag": STRING, "signal": FLOAT, "sensor": FLOAT}, {"tag": STRING, "signal": FLOAT, "sensor": FLOAT})


def test_rows_with_names_and_rows_without(rest):
    model = FakeModel({"serving_default": TAGS}, lambda _, inputs: inputs)
    rows = [
        {"tag": "foo", "signal": [1, 2, 3, 4, 5], "sensor": [[1, 2], [3, 4]]},
        {"tag": "bar", "signal": [3, 4, 1, 2, 5], "sensor": [[4, 5], [6, 8]]},
    ]
    caller = serve_one(rest, model)
    assert answer(caller.post("/v1/models/m:predict", json.dumps({"instances": rows}))) == (200, {"predictions": rows})
    assert model.requests[0]["tag"].tolist() == [b"foo", b"bar"]
    assert model.requests[0]["sensor"].shape == (2, 2, 2)


def test_columns_with_names(rest):
    columns = {
        "tag": ["foo", "bar"],
        "signal": [[1, 2, 3, 4, 5], [3, 4, 1, 2, 5]],
        "sensor": [[[1, 2], [3, 4]], [[4, 5], [6, 8]]],
    }
    caller = serve_one(rest, FakeModel({"serving_default": TAGS}, lambda _, inputs: inputs))
    assert answer(caller.post("/v1/models/m:predict", json.dumps({"inputs": columns}))) == (200, {"outputs": columns})


def test_bytes_come_and_go_in_base64(rest):
    images = [b"image bytes", b"awesome image bytes"]
    signature = definition({"image_bytes": STRING}, {"image_bytes": STRING, "caption": STRING})
    model = FakeModel(
        {"serving_default": signature},
        lambda _, inputs: inputs | {"caption": np.array([b"seaside", b"mountains"], object)},
    )
    coded = [{"b64": base64.b64encode(image).decode()} for image in images]
    caller = serve_one(rest, model)
    status, found = answer(caller.post("/v1/models/m:predict", json.dumps({"instances": coded})))
    assert model.requests[0]["image_bytes"].tolist() == images
    assert (status, found["predictions"]) == (
        200,
        [
            {"image_bytes": coded[0], "caption": "seaside"},
            {"image_bytes": coded[1], "caption": "mountains"},
        ],
    )


def test_numbers_that_json_does_not_have(served):
    body = '{"instances": [1.0, -3.14, NaN, Infinity, -Infinity]}'
    response = served.post("/v1/models/echo:predict", body)
    assert response.data == b'{"predictions":[1.0,-3.14,NaN,Infinity,-Infinity]}'


def test_float32_is_written_without_the_noise_of_float64(served):
    assert served.post("/v1/models/echo:predict", '{"instances": [0.2, 16777216, 1e-30]}').data == (
        b'{"predictions":[0.2,16777216.0,1e-30]}'
    )


def test_a_float64_that_float32_cannot_tell_apart_is_rounded(served):
    # g3doc: {"x": 1435774380} as a float.
    status, found = answer(served.post("/v1/models/echo:predict", '{"inputs": 1435774380}'))
    assert (status, np.float32(found["outputs"])) == (200, np.float32(1435774380))


def examples_of(model):
    (inputs,) = model.requests
    return [Example.FromString(data) for data in inputs["inputs"].tolist()]


def test_classify_gives_labels_and_scores(rest):
    signature = definition({"inputs": STRING}, {"classes": STRING, "scores": FLOAT}, "tensorflow/serving/classify")
    labels = np.array([[b"car", b"bus"], [b"car", b"bus"]], object)
    scores = np.array([[0.25, 0.75], [np.nan, 1]], np.float32)
    model = FakeModel({"serving_default": signature}, lambda *_: {"classes": labels, "scores": scores})
    body = {
        "context": {"height": 1.5},
        "examples": [{"x": [1, 2], "image": {"b64": "aW1hZ2U="}}, {"x": 3, "caption": "seaside", "on": True}],
    }
    response = serve_one(rest, model).post("/v1/models/m:classify", json.dumps(body))
    assert response.data == b'{"results":[[["car",0.25],["bus",0.75]],[["car",NaN],["bus",1.0]]]}'
    first, second = examples_of(model)
    assert first.features.feature["x"].int64_list.value == [1, 2]
    assert first.features.feature["image"].bytes_list.value == [b"image"]
    assert first.features.feature["height"].float_list.value == [1.5]
    assert second.features.feature["on"].int64_list.value == [1]


def test_regress_gives_a_number_for_each_example(rest):
    signature = definition({"inputs": STRING}, {"outputs": FLOAT}, "tensorflow/serving/regress")
    model = FakeModel({"r": signature}, lambda *_: {"outputs": np.array([[2.5], [-0.1]], np.float32)})
    body = b'{"signature_name": "r", "examples": [{"x": 1.0}, {"x": [2.0]}]}'
    assert serve_one(rest, model).post("/v1/models/m:regress", body).data == b'{"results":[2.5,-0.1]}'


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ({"examples": []}, "'examples' value is an empty array"),
        ({"examples": 1}, "Expecting 'examples' value to be an list/array"),
        ({}, "key 'examples' is expected and was not found"),
        ({"examples": [1]}, "Example must be JSON object but got JSON Number"),
        ({"examples": [{"x": [1, "a"]}]}, "Unexpected element type in feature: x expecting type: int64"),
        ({"examples": [{"x": [[1]]}]}, "Feature: x has element with unexpected JSON type: Array"),
        ({"examples": [{"x": None}]}, "Feature: x has element with unexpected JSON type: Null"),
        ({"examples": [{"x": 1 << 63}]}, "Feature: x has uint64_t element. Only int64_t is supported."),
        ({"examples": [{"x": {"b64": "*"}}]}, "Unable to base64 decode"),
        ({"examples": [{}], "context": []}, "Example must be JSON object but got JSON Array"),
    ],
)
def test_examples_that_are_none_are_told_apart(rest, examples, message):
    signature = definition({"inputs": STRING}, {"outputs": FLOAT}, "tensorflow/serving/regress")
    caller = serve_one(rest, FakeModel({"serving_default": signature}, lambda *_: {}))
    status, found = answer(caller.post("/v1/models/m:regress", json.dumps(examples)))
    assert status == 400
    assert message in found["error"]
