"""What is wrong with a request, and what its caller is told."""

from __future__ import annotations

import gzip
import json

import pytest
import urllib3

from sealserve.serving.core import ModelServer
from sealserve.serving.rest.limits import RestLimits

PREDICT = "/v1/models/echo:predict"


def told(response):
    return response.status, json.loads(response.data)["error"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "JSON Parse error: The document is empty"),
        ("{", "JSON Parse error: Missing a name for object member. at offset: 1"),
        ('{"instances": [1,]}', "JSON Parse error: Invalid value."),
        ('{"instances": [1 2]}', "JSON Parse error: Missing a comma"),
        ('{"instances": [1e999]}', "JSON Parse error: Number too big to be stored in double."),
        ('{"instances": [' + "9" * 5000 + "]}", "JSON Parse error: Number too big"),
        (b'{"instances": ["\xff"]}', "JSON Parse error: Invalid encoding in string."),
        ("[1]", "JSON Value: [1] Is not object"),
        ("{}", "Missing 'inputs' or 'instances' key"),
        ('{"instances": [1], "inputs": [1]}', "expecting only one of 'inputs' or 'instances' keys to exist"),
        ('{"instances": 1}', "Expecting 'instances' to be an list/array"),
        ('{"instances": []}', "No values in 'instances' array"),
        ('{"instances": [1], "signature_name": 1}', "'signature_name' key must be a string value."),
        ('{"instances": [1], "signature_name": "no"}', 'Serving signature name: "no" not found in signature def'),
        ('{"instances": ["1"]}', 'JSON Value: "1" Type: String is not of expected type: float'),
        ('{"instances": [null]}', "JSON Value: null Type: Null is not of expected type: float"),
        ('{"instances": [true]}', "JSON Value: true Type: True is not of expected type: float"),
        ('{"instances": [{"b64": "aa"}]}', "Type: Object is not of expected type: float"),
        ('{"instances": [1, {"x": 1}]}', "Expecting value/list but got object at item 1 of input list"),
        ('{"instances": [{"x": 1}, 1]}', "Expecting object but got list at item 1 of input list"),
        (
            '{"instances": [{"z": 1}]}',
            "key: z of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does not have",
        ),
        ('{"instances": [{}]}', "keys must be equal to: x"),
        ('{"instances": [[1, 2], [3]]}', "Expecting tensor size: 2 but got: 1"),
        ('{"instances": [[1, 2], [[3, 4]]]}', "Expecting shape [2] but got: [1,2]"),
        ('{"instances": [[[1], 2]]}', "found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        ('{"inputs": [[1, 2], [3]]}', "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        ('{"inputs": [1, [2]]}', "Encountered list at unexpected level: 1 expected < 1"),
        ('{"inputs": {"z": 1}}', "Missing named input: x in 'inputs' object."),
        ('{"inputs": [1e39]}', "JSON Value: 1e+39 Type: Number is not of expected type: float"),
        ('{"signature_name": "i", "inputs": [1.0]}', "JSON Value: 1.0 Type: Number is not of expected type: int32"),
        ('{"signature_name": "i", "inputs": [2147483648]}', "is not of expected type: int32"),
        ('{"signature_name": "u", "inputs": [256]}', "is not of expected type: uint8"),
        ('{"signature_name": "u", "inputs": [-1]}', "is not of expected type: uint8"),
        ('{"signature_name": "l", "inputs": [9223372036854775808]}', "is not of expected type: int64"),
        ('{"signature_name": "b", "inputs": [1]}', "is not of expected type: bool"),
        ('{"signature_name": "s", "inputs": [1]}', "is not of expected type: string"),
        ('{"signature_name": "s", "inputs": ["\\ud800"]}', "is not of expected type: string"),
        ('{"signature_name": "s", "inputs": [{"b64": "*"}]}', "Unable to base64 decode"),
        ('{"signature_name": "s", "inputs": [{"b64": 1}]}', "not formatted correctly for base64 data"),
        ('{"signature_name": "two", "inputs": [1]}', "inputs is a plain value/list, but expecting an object"),
        ('{"signature_name": "two", "instances": [1]}', "instances is a plain list, but expecting list of objects"),
        ('{"signature_name": "two", "instances": [{"a": 1}]}', "keys must be equal to: a,tag"),
    ],
)
def test_a_malformed_request_is_told_what_is_wrong(served, echo, body, message):
    status, error = told(served.post(PREDICT, body))
    assert status == 400
    assert message in error
    assert len(error) < 2000
    assert not echo.requests


def test_who_wants_a_receipt_gets_no_answer_without_one(served, echo):
    response = served.post(PREDICT, '{"inputs": 1}', headers={"Sealserve-Receipt-Nonce-Bin": "AAAAAAAAAAAAAAAAAAAAAA"})
    assert response.status == 400
    assert "no receipts over REST" in told(response)[1]
    assert not echo.requests


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        ('{"inputs": 1}', 1.0),
        ('{"inputs": []}', []),
        ('{"inputs": [[], []]}', [[], []]),
        ('{"inputs": {"x": [1]}}', [1.0]),
        ('{"inputs": [1], "inputs": [2]}', [1.0]),
        ('\ufeff {"inputs": [1]} and more', [1.0]),
        ('{"signature_name": "s", "inputs": "é"}', "é"),
        ('{"signature_name": "s", "inputs": [{"b64": "YQ"}, {"b64": "YQ=="}, "b"]}', ["a", "a", "b"]),
        ('{"signature_name": "l", "inputs": [-9223372036854775808, 9223372036854775807]}', [-(1 << 63), (1 << 63) - 1]),
        ('{"signature_name": "b", "inputs": [[true], [false]]}', [[True], [False]]),
        ('{"signature_name": "d", "inputs": [1e300, 18446744073709551616]}', [1e300, 18446744073709551616.0]),
    ],
)
def test_what_tensorflow_serving_takes_is_taken(served, body, outputs):
    response = served.post(PREDICT, body.encode())
    assert (response.status, json.loads(response.data)) == (200, {"outputs": outputs})


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/nothing", 404, "Malformed request: GET /nothing"),
        ("POST", "/", 404, "Malformed request: POST /"),
        ("GET", "/v1/nothing", 400, "Malformed request: GET /v1/nothing"),
        ("POST", "/v1/models/echo", 400, "Malformed request: POST /v1/models/echo"),
        ("GET", "/v1/models/echo:predict", 400, "Malformed request: GET /v1/models/echo:predict"),
        ("POST", "/v1/models/echo:run", 400, "Malformed request: POST /v1/models/echo:run"),
        ("PUT", PREDICT, 400, f"Malformed request: PUT {PREDICT}"),
        ("DELETE", "/v1/models/echo", 400, "Malformed request: DELETE /v1/models/echo"),
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("GET", "/v1/models/none", 404, "Could not find any versions of model none"),
        ("GET", "/v1/models/none/metadata", 404, "Servable not found for request: Latest(none)"),
        ("GET", "/v1/models/echo/versions/99999999999999999999", 400, "Failed to convert version"),
        ("GET", "/v1/models/echo/versions/x", 400, "Malformed request"),
        ("GET", "/v1/models/%ff", 400, "Failed to decode model name"),
        ("GET", "/v1/models/" + "a" * 2000, 400, "at most 1024"),
        ("POST", "/healthz", 405, "Malformed request: POST /healthz"),
        ("DELETE", "/v2/health/live", 405, "Malformed request"),
        ("GET", "/v2/models/echo/infer", 405, "Malformed request"),
        ("GET", "/v2/nothing", 404, "Malformed request"),
    ],
)
def test_a_path_that_nobody_knows_is_told_so(served, method, path, status, message):
    found, error = told(served.http.request(method, served.url + path))
    assert (found, error[: len(message)]) == (status, message) or (found == status and message in error)


def test_a_model_that_is_not_there_is_not_found(served):
    body = '{"instances": [1]}'
    assert told(served.post("/v1/models/none:predict", body)) == (404, "Servable not found for request: Latest(none)")
    assert told(served.post("/v1/models/echo/versions/7:predict", body))[0] == 404
    assert told(served.post("/v1/models/echo/labels/x:predict", body)) == (
        400,
        "Unrecognized servable version label: x",
    )


def test_names_in_paths_may_be_escaped_and_the_rest_in_any_case(rest, echo):
    core = ModelServer()
    core.add_model("ä b/c", 1, echo)
    response = rest(core).post("/V1/Models/%C3%A4%20b%2Fc:Predict", '{"instances": [1]}')
    assert json.loads(response.data) == {"predictions": [1.0]}


def test_an_output_that_is_not_text_is_refused_and_not_changed(served):
    body = '{"signature_name": "s", "instances": [{"b64": "/w=="}]}'
    status, error = told(served.post(PREDICT, body))
    assert status == 400
    assert "not UTF-8" in error


def test_a_gzip_body_is_read(served):
    body = gzip.compress(b'{"instances": [1]}')
    response = served.post(PREDICT, body, headers={"Content-Encoding": "gzip"})
    assert json.loads(response.data) == {"predictions": [1.0]}


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (b"not gzip", "gzip", 400),
        (gzip.compress(b'{"instances": [1]}')[:-9], "gzip", 400),
        (gzip.compress(b" " * (1 << 20)), "gzip", 413),
        (b"{}", "br", 415),
        (b"{}", "gzip, gzip", 415),
    ],
    ids=["not gzip", "cut", "too large", "another", "twice"],
)
def test_an_encoding_is_no_way_around_the_limits(rest, echo, body, encoding, status):
    core = ModelServer()
    core.add_model("echo", 1, echo)
    caller = rest(core, limits=RestLimits(threads=1, body_bytes=64 << 10))
    assert told(caller.post(PREDICT, body, headers={"Content-Encoding": encoding}))[0] == status
    assert not echo.requests


def test_a_body_above_the_limit_is_refused_before_it_is_read(rest, echo):
    core = ModelServer()
    core.add_model("echo", 1, echo)
    caller = rest(core, limits=RestLimits(threads=1, body_bytes=1000))
    assert b"413 " in caller.all_of(b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n" % PREDICT.encode())
    chunk = b"3E9\r\n" + b" " * 1001 + b"\r\n"
    head = b"POST %s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" % PREDICT.encode()
    assert b"413 " in caller.all_of(head + chunk)
    assert caller.post(PREDICT, b'{"instances": [1]}'.ljust(1000)).status == 200


def test_a_caller_who_sends_too_much_can_read_why(rest, echo):
    core = ModelServer()
    core.add_model("echo", 1, echo)
    caller = rest(core, limits=RestLimits(threads=1, body_bytes=1000))
    for body in (b" " * (8 << 20), iter([b" " * (1 << 20)] * 8)):
        status, error = told(caller.http.request("POST", caller.url + PREDICT, body=body))
        assert (status, error) == (413, "a request has at most 1000 bytes")


def test_json_that_would_become_too_large_is_refused_unparsed(rest, echo):
    core = ModelServer()
    core.add_model("echo", 1, echo)
    caller = rest(core, limits=RestLimits(threads=1, body_bytes=1 << 20, buffered_bytes=2 << 20))
    bomb = b'{"instances": [' + b"[]," * 100_000 + b"[]]}"
    assert told(caller.post(PREDICT, bomb)) == (413, told(caller.post(PREDICT, bomb))[1])
    assert caller.post(PREDICT, b'{"instances": [1]}').status == 200


def test_json_of_any_depth_ends_in_an_answer(served):
    for bomb in ("[" * 100_000, '{"a":' * 100_000, '{"instances": ' + "[" * 5_000 + "]" * 5_000 + "}"):
        assert served.post(PREDICT, bomb).status == 400
    assert served.post(PREDICT, '{"instances": [1]}').status == 200


def test_expect_100_continue_is_answered_when_the_body_is_wanted(served):
    head = b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 18\r\nExpect: 100-continue\r\n\r\n" % PREDICT.encode()
    with served.raw(head) as connection:
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b'{"instances": [1]}')
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK")


def test_health_readiness_and_metrics(rest, echo):
    core = ModelServer()
    caller = rest(core, metrics=lambda: b"requests 1\n")
    assert caller.get("/healthz").status == caller.get("/livez").status == caller.get("/v2/health/live").status == 200
    assert caller.get("/readyz").status == caller.get("/v2/health/ready").status == 503
    core.add_model("echo", 1, echo)
    assert caller.get("/readyz").status == caller.get("/v2/health/ready").status == 200
    caller.server.set_serving(False)
    assert caller.get("/readyz").status == 503
    assert caller.get("/healthz").status == 200
    response = caller.get("/monitoring/prometheus/metrics")
    assert response.data == b"requests 1\n"
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_requests_are_counted_by_model_operation_and_outcome(rest, echo):
    seen = []

    class Observer:
        def request(self, model, method, api, status, seconds):
            seen.append((model, method, api, status, seconds >= 0))

    core = ModelServer()
    core.observer = Observer()
    core.add_model("echo", 1, echo)
    caller = rest(core)
    caller.post(PREDICT, '{"instances": [1]}')
    caller.post(PREDICT, "{}")
    caller.post("/v1/models/invented:predict", "{}")
    caller.get("/healthz")
    assert seen == [
        ("echo", "Predict", "REST", "OK", True),
        ("echo", "Predict", "REST", "INVALID_ARGUMENT", True),
        ("", "Predict", "REST", "NOT_FOUND", True),
    ]


def test_a_defect_of_an_engine_is_an_error_inside_the_server(rest, echo):
    echo._answer = lambda *_: 1 / 0
    core = ModelServer()
    core.add_model("echo", 1, echo)
    caller = rest(core)
    assert told(caller.post(PREDICT, '{"instances": [1]}')) == (500, "an error inside the server; its log has more")
    assert caller.get("/healthz").status == 200


def test_a_pool_of_connections_is_reused(served):
    pool = urllib3.HTTPConnectionPool("127.0.0.1", served.port, maxsize=1)
    for _ in range(5):
        assert pool.request("POST", PREDICT, body='{"instances": [1]}').status == 200
    assert pool.num_connections == 1
    pool.close()
