"""The Open Inference Protocol over HTTP."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from rest_models import FakeModel, definition
from rest_parties import wait_until

from sealserve.serving.core import ModelServer
from sealserve.serving.rest.kserve_tensors import read_infer
from sealserve.serving.rest.limits import RestLimits
from sealserve.wire.tensorflow_pb2 import DataType

LENGTH = "Inference-Header-Content-Length"
INFER = "/v2/models/m/infer"
TYPES = {
    "x": (DataType.DT_FLOAT, "FP32"),
    "h": (DataType.DT_HALF, "FP16"),
    "d": (DataType.DT_DOUBLE, "FP64"),
    "i": (DataType.DT_INT32, "INT32"),
    "l": (DataType.DT_INT64, "INT64"),
    "u": (DataType.DT_UINT8, "UINT8"),
    "b": (DataType.DT_BOOL, "BOOL"),
    "s": (DataType.DT_STRING, "BYTES"),
}


@pytest.fixture
def caller(rest):
    """A model with a signature for each type that answers with what it is given, float32 first."""
    signatures = {name: definition({name: kind}, {name: kind}) for name, (kind, _) in TYPES.items()}
    signatures["serving_default"] = signatures.pop("x")
    core = ModelServer()
    core.add_model("m", 3, FakeModel(signatures, lambda _, inputs: dict(inputs)))
    return rest(core)


def infer(caller, name, data, shape, **more):
    given = {"name": name, "datatype": TYPES[name][1], "shape": shape, "data": data}
    signature = {} if name == "x" else {"parameters": {"signature_name": name}}
    response = caller.post(INFER, json.dumps({"inputs": [given], **signature, **more}))
    return response.status, json.loads(response.data)


def test_the_server_and_its_models_are_told(caller):
    server = json.loads(caller.get("/v2").data)
    assert server["name"] == "sealserve"
    assert server["extensions"] == ["binary_tensor_data"]
    tensors = [{"name": "x", "datatype": "FP32", "shape": [-1]}]
    for path in ("/v2/models/m", "/v2/models/m/versions/3"):
        assert json.loads(caller.get(path).data) == {
            "name": "m",
            "versions": ["3"],
            "platform": "fake",
            "inputs": tensors,
            "outputs": tensors,
        }
    assert caller.get("/v2/models/none").status == 404


@pytest.mark.parametrize(
    ("path", "status"),
    [("m/ready", 200), ("m/versions/3/ready", 200), ("m/versions/4/ready", 503), ("none/ready", 503)],
)
def test_a_model_says_whether_it_is_ready(caller, path, status):
    response = caller.get(f"/v2/models/{path}")
    assert response.status == status
    assert json.loads(response.data)["ready"] is (status == 200)


def test_data_is_answered_with_data(caller):
    status, found = infer(caller, "x", [[1, 2], [3, 4]], [2, 2], id="7")
    assert (status, found) == (
        200,
        {
            "model_name": "m",
            "model_version": "3",
            "id": "7",
            "outputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1.0, 2.0, 3.0, 4.0]}],
        },
    )


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("h", [0.5, -1.0]),
        ("d", [1e300, 0.1]),
        ("i", [-(1 << 31), (1 << 31) - 1]),
        ("l", [-(1 << 63), (1 << 63) - 1]),
        ("u", [0, 255]),
        ("b", [True, False]),
        ("s", ["", "é"]),
    ],
)
def test_data_of_every_type_comes_and_goes(caller, name, data):
    status, found = infer(caller, name, data, [2])
    assert status == 200
    assert found["outputs"] == [{"name": name, "datatype": TYPES[name][1], "shape": [2], "data": data}]


def binary(caller, tensors, raw, *, length=None, **more):
    head = json.dumps({"inputs": tensors, **more}).encode()
    headers = {LENGTH: str(len(head) if length is None else length)}
    return caller.post(INFER, head + raw, headers=headers)


def tensor(size, **more):
    return {"name": "x", "datatype": "FP32", "shape": [3], "parameters": {"binary_data_size": size}, **more}


def test_binary_tensors_come_and_go(caller):
    raw = np.array([1, np.nan, -np.inf], "<f4").tobytes()
    response = binary(caller, [tensor(12)], raw, parameters={"binary_data_output": True})
    length = int(response.headers[LENGTH])
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert json.loads(response.data[:length])["outputs"] == [
        {"name": "x", "datatype": "FP32", "shape": [3], "parameters": {"binary_data_size": 12}}
    ]
    assert response.data[length:] == raw


def test_each_output_may_be_wanted_in_its_own_way(caller):
    raw = np.array([1, 2, 3], "<f4").tobytes()
    response = binary(caller, [tensor(12)], raw, outputs=[{"name": "x", "parameters": {"binary_data": False}}])
    assert json.loads(response.data)["outputs"][0]["data"] == [1.0, 2.0, 3.0]
    assert LENGTH not in response.headers


def test_strings_that_are_not_text_go_in_binary_only(caller):
    raw = struct.pack("<I", 2) + b"\xff\xfe"
    given = {"name": "s", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(raw)}}
    signature = {"signature_name": "s"}
    refused = binary(caller, [given], raw, parameters=signature)
    assert refused.status == 400
    assert "not UTF-8" in json.loads(refused.data)["error"]
    response = binary(caller, [given], raw, parameters=signature | {"binary_data_output": True})
    assert response.data.endswith(raw)


@pytest.mark.parametrize(
    ("given", "raw", "message"),
    [
        (tensor(12), b"short", "declares 12 bytes, and 5 are there"),
        (tensor(12), b"a" * 13, "1 bytes follow the last binary tensor"),
        (tensor(-1), b"", "declares -1 bytes"),
        (tensor("12"), b"a" * 12, 'declares "12" bytes'),
        (tensor(8), b"a" * 8, "have 8 bytes"),
        (tensor(12, data=[1]), b"a" * 12, "both data and binary_data_size"),
        (tensor(12, shape=[-3]), b"a" * 12, "not negative"),
        (tensor(12, shape=[1 << 40, 1 << 40]), b"a" * 12, "impossible"),
        (tensor(12, shape="3"), b"a" * 12, "must be a list of numbers"),
        (tensor(12, datatype="FP33"), b"a" * 12, "FP33"),
        (tensor(12, datatype=1), b"a" * 12, "must be a string"),
        (tensor(12, name=None), b"a" * 12, "must be a string"),
    ],
)
def test_a_binary_tensor_that_does_not_fit_is_refused(caller, given, raw, message):
    response = binary(caller, [given], raw)
    assert response.status == 400
    assert message in json.loads(response.data)["error"]


@pytest.mark.parametrize("length", ["-1", "x", "999999", "1"])
def test_a_length_of_the_json_that_does_not_fit_is_refused(caller, length):
    assert binary(caller, [tensor(12)], b"a" * 12, length=length).status == 400


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "inputs must be a list of objects"),
        ({"inputs": [1]}, "inputs must be a list of objects"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2]}]}, "has no data"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1]}]}, "has the shape [1], and not [2]"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [[1, 2]]}]}, "has the shape [1, 2]"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": ["a", 1]}]}, "no regular list"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1e39]}]}, "no regular list"),
        ({"inputs": [{"name": "x", "datatype": "BF16", "shape": [1], "data": [1e39]}]}, "no regular list"),
        ({"inputs": [], "parameters": []}, "parameters must be an object"),
        ({"inputs": [], "parameters": {"a": [1]}}, "must be a string, a number, true or false"),
        ({"inputs": [], "id": 1}, "the id must be a string"),
        ({"inputs": [], "parameters": {"binary_data_output": 1}}, "must be true or false"),
        ({"inputs": [], "outputs": {}}, "outputs must be a list of objects"),
        ({"inputs": []}, "the request has no inputs; the signature has x"),
        ({"inputs": [], "parameters": {"signature_name": "s"}}, "the signature has s"),
    ],
)
def test_a_malformed_request_is_told_what_is_wrong(caller, document, message):
    response = caller.post(INFER, json.dumps(document))
    assert response.status == 400
    assert message in json.loads(response.data)["error"]


def parts(raw: bytes, datatype="FP32", shape=None, pad=0):
    """A request's JSON, that ends ``pad`` bytes behind a multiple of 8."""
    given = {"name": "x", "datatype": datatype, "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [given | {"shape": shape or [len(raw) // 4]}]}).encode()
    return head + b" " * (-len(head) % 8 + pad), raw


def test_a_binary_tensor_is_read_where_it_lies():
    head, raw = parts(np.arange(1000, dtype="<f4").tobytes())
    body = head + raw
    request, (found,), _ = read_infer("m", "", body, len(head))
    assert found.obj is body
    assert bytes(found) == raw
    assert not request.raw_input_contents


@pytest.mark.parametrize("pad", [0, 1, 3, 4])
def test_a_binary_tensor_may_begin_anywhere(caller, pad):
    head, raw = parts(np.arange(1000, dtype="<f4").tobytes(), pad=pad)
    seen = caller.server._application._core.models["m"][3].requests
    response = caller.post(INFER, head + raw, headers={LENGTH: str(len(head))})
    assert json.loads(response.data)["outputs"][0]["data"] == list(map(float, range(1000)))
    assert seen[-1]["x"].flags.aligned
    assert not seen[-1]["x"].flags.writeable


@pytest.mark.parametrize(
    ("datatype", "shape", "pad"), [("BYTES", [1], 0), ("BF16", [1 << 20], 0), ("FP32", [1 << 19], 1)]
)
def test_what_is_copied_of_a_binary_tensor_counts(rest, datatype, shape, pad):
    core = ModelServer()
    core.add_model(
        "m", 3, FakeModel({"serving_default": definition({"x": 1}, {"x": 1})}, lambda _, inputs: dict(inputs))
    )
    size = 2 << 20
    raw = struct.pack("<I", size - 4) + b"a" * (size - 4) if datatype == "BYTES" else bytes(size)
    head, raw = parts(raw, datatype, shape, pad)
    caller = rest(core, limits=RestLimits(threads=2, waiting=8, body_bytes=3 << 20, buffered_bytes=size + (1 << 20)))
    response = caller.post(INFER, head + raw, headers={LENGTH: str(len(head))})
    assert response.status in {413, 503}, response.data[:200]
    wait_until(lambda: caller.server._application.memory.held == 0)


@pytest.mark.parametrize("body", [b'{"instances": []}', b'{"inputs": {}}', b"{}", b'{"instances": [{}]}'])
def test_a_prediction_without_inputs_is_told_so(caller, body):
    response = caller.post("/v1/models/m:predict", body)
    assert response.status == 400, response.data
    assert len(json.loads(response.data)["error"]) > 10
