"""Metrics have TensorFlow Serving's names, and callers cannot make more of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealserve.serving.core import ModelServer
from sealserve.serving.process.metrics import Metrics


@pytest.fixture
def core():
    core = ModelServer()
    core.configure({"half": {}})
    return core


@pytest.fixture
def metrics(core):
    return Metrics(core)


def lines(metrics, start):
    return [line for line in metrics.text().decode().splitlines() if line.startswith(start)]


def test_requests_are_counted_by_model_and_status(metrics):
    for status in ("OK", "OK", "NOT_FOUND"):
        metrics.request("half", "Predict", "GRPC", status, 0.001)
    assert lines(metrics, ":tensorflow:serving:request_count{") == [
        ':tensorflow:serving:request_count{model_name="half",status="NOT_FOUND"} 1.0',
        ':tensorflow:serving:request_count{model_name="half",status="OK"} 2.0',
    ] or lines(metrics, ":tensorflow:serving:request_count{") == [
        ':tensorflow:serving:request_count{model_name="half",status="OK"} 2.0',
        ':tensorflow:serving:request_count{model_name="half",status="NOT_FOUND"} 1.0',
    ]


def test_latencies_are_microseconds_of_requests_that_were_answered(metrics):
    metrics.request("half", "Predict", "REST", "OK", 0.001)
    metrics.request("half", "Predict", "REST", "INTERNAL", 5.0)
    labels = 'API="Predict",entrypoint="REST",model_name="half"'
    assert lines(metrics, ":tensorflow:serving:request_latency_sum") == [
        f":tensorflow:serving:request_latency_sum{{{labels}}} 1000.0"
    ]
    buckets = lines(metrics, ":tensorflow:serving:request_latency_bucket")
    assert len(buckets) == 34
    assert ',le="10.0",model_name="half"} 0.0' in buckets[0]
    assert 'le="18.0"' in buckets[1]
    assert 'le="+Inf"' in buckets[-1]


def test_counters_have_no_ending_that_tensorflow_serving_does_not_have(metrics):
    metrics.request("half", "Predict", "GRPC", "OK", 0.001)
    with metrics.loading("half", Path("half/1")):
        pass
    metrics.warmed_up(Path("half/1"), 3, 0.01, "success")
    text = metrics.text().decode()
    assert "# TYPE :tensorflow:serving:request_count counter" in text
    assert ':tensorflow:cc:saved_model:load_attempt_count{model_path="half/1",status="success"} 1.0' in text
    assert ':tensorflow:serving:model_warmup_records_read{model_path="half/1",status="success"} 3.0' in text
    ours = [line for line in text.splitlines() if ":tensorflow" in line]
    assert not [line for line in ours if "_total" in line or "_created" in line]


def test_a_load_that_fails_is_counted_as_one(metrics):
    with pytest.raises(ValueError, match="no"), metrics.loading("half", Path("half/1")):
        raise ValueError("no")
    assert lines(metrics, ":tensorflow:cc:saved_model:load_attempt_count{") == [
        ':tensorflow:cc:saved_model:load_attempt_count{model_path="half/1",status="fail"} 1.0'
    ]


def test_names_and_methods_that_callers_make_up_add_nothing(metrics):
    before = None
    for number in range(300):
        metrics.request(f"name-{number}", f"method-{number}", "GRPC", "NOT_FOUND", 0.001)
        metrics.request("half", f"method-{number}", "GRPC", "OK", 0.001)
        if number == 0:
            before = len(metrics.text().splitlines())
    assert len(metrics.text().splitlines()) == before
    assert "name-" not in metrics.text().decode()
    assert "method-" not in metrics.text().decode()


def test_a_model_that_is_configured_no_more_is_forgotten(core, metrics):
    metrics.request("half", "Predict", "GRPC", "OK", 0.001)
    metrics.runtime("half", "openvino").observe(1)
    with metrics.loading("half", Path("half/1")):
        pass
    assert lines(metrics, ":tensorflow:serving:request_count{")
    core.configure({"other": {}})
    assert "half" not in metrics.text().decode()
    core.configure({"half": {}})
    metrics.request("half", "Predict", "GRPC", "OK", 0.001)
    assert lines(metrics, ":tensorflow:serving:request_count{") == [
        ':tensorflow:serving:request_count{model_name="half",status="OK"} 1.0'
    ]


def test_versions_that_come_and_go_do_not_add_up(metrics):
    for number in range(500):
        with metrics.loading("half", Path(f"half/{number}")):
            pass
        metrics.warmed_up(Path(f"half/{number}"), 1, 0.01, "success")
    found = lines(metrics, ":tensorflow:cc:saved_model:load_attempt_count{")
    assert len(found) == len(lines(metrics, ":tensorflow:serving:model_warmup_records_read{")) == 200
    assert ':tensorflow:cc:saved_model:load_attempt_count{model_path="half/499",status="success"} 1.0' in found
    assert not [line for line in found if '"half/299"' in line]
