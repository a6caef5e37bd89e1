"""``sealserve bench``: what it counts, and that a stall is not hidden."""

from __future__ import annotations

import asyncio
import json
import time

import grpc
import numpy as np
import pytest
from click.testing import CliRunner
from client_parties import SECRET_INPUT
from hypothesis import given
from hypothesis import strategies as st

from sealserve.cli.bench import _show, bench
from sealserve.client.aio import AsyncClient
from sealserve.client.bench import Plan, measure
from sealserve.client.histogram import Histogram
from sealserve.errors import InputError, PolicyRefusedError

INPUTS = {"images": SECRET_INPUT}


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return lambda *arguments: CliRunner().invoke(bench, arguments)


def test_everything_is_counted(run, replica, policy_file):
    result = run(
        *(replica.target, "--policy", policy_file, "-c", "1", "-c", "3"),
        *("--count", "20", "--batch", "2", "--warm-up", "4", "--json"),
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [row["concurrency"] for row in found["results"]] == [1, 3]
    for row in found["results"]:
        assert (row["requests"], row["errors"], row["replicas"]) == (20, {}, {"replica-1": 20})
        latency = row["latency_ms"]
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]
        assert row["inputs_per_second"] == pytest.approx(2 * row["requests_per_second"], rel=0.01)
    assert replica.predicted == 2 * (20 + 4)
    assert all(found["verification"][f"{name}_ms"] > 0 for name in ("connect", "evidence", "appraise", "appraise_cpu"))
    assert found["request_bytes"] == 2 * 224 * 224 * 3


def test_what_was_measured_is_written_and_drawn(run, replica, policy_file, tmp_path):
    common = (replica.target, "--policy", policy_file, "-c", "1", "-c", "2", "--count", "12")
    result = run(*common, "--output", "bench.json", "--plot", "bench.svg")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "bench.json").read_text())
    for row in found["results"]:
        assert row["replica_latency_ms"].keys() == row["replicas"].keys() == {"replica-1"}
        assert row["replica_latency_ms"]["replica-1"] == row["latency_ms"]
        assert 0 < row["client_cpu_share"] < 2
        assert row["begun_late_ms"] is None
    drawn = (tmp_path / "bench.svg").read_text()
    assert drawn.startswith("<?xml")
    assert drawn.count("<!-- ") > 20, "axes, labels and lines"


def test_a_plot_that_cannot_be_written_is_told_before_anything_is_measured(run, replica, policy_file):
    for name in ("plot.txt", "missing/plot.svg"):
        result = run(replica.target, "--policy", policy_file, "--count", "1", "--plot", name)
        assert isinstance(result.exception, InputError)
    assert replica.log == []


def test_how_late_an_open_loop_began_is_told(start_good, policy):
    def predict(message, context):
        if replica.predicted == 1:
            time.sleep(0.3)
        return replica.honest_predict(message, context)

    replica = start_good(predict=predict)
    outcome = measured(replica, policy, Plan(1, count=5, rate=100))
    assert outcome.most_late > 0.2
    assert outcome.as_dict()["begun_late_ms"] > 200


def test_the_spread_over_replicas_is_told_of_each(replica, second_replica, policy, balance):
    target = balance(replica.target, second_replica.target).target

    async def main():
        async with AsyncClient(target, policy, max_connections=2) as client:
            return await measure(client, INPUTS, Plan(2, count=30), model="classifier", batch=1)

    outcome = asyncio.run(main())
    assert set(outcome.replicas) == {"replica-1", "replica-2"}
    assert sum(latencies.count for latencies in outcome.replicas.values()) == outcome.latencies.count == 30


def test_people_get_a_table(run, replica, policy_file):
    result = run(replica.target, "--policy", policy_file, "--duration", "0.2", "--rate", "50")
    assert result.exit_code == 0, result.output
    for word in ("SIMULATED - NO PROTECTION", "Before the first byte", "p99.9", "answered by replica-1"):
        assert word in result.output


def test_the_table_fits_80_columns_also_when_answers_take_minutes(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    names = ("p50", "p90", "p99", "p99.9", "max")
    row = {
        "concurrency": 4096,
        "requests_per_second": 12345.6,
        "inputs_per_second": 123456.7,
        "latency_ms": dict.fromkeys(names, 123456.789),
        "errors": {"UNAVAILABLE": 12},
        "replicas": {f"replica-{number}": 1000 for number in (1, 2, 3)},
        "replica_latency_ms": {f"replica-{number}": dict.fromkeys(names, 123.456) for number in (1, 2, 3)},
        "client_cpu_share": 0.99,
    }
    _show({"attested": False, "model": "classifier", "target": "127.0.0.1:8500", "request_bytes": 9, "results": [row]})
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("answers/s" in line for line in lines)
    assert any(line.split().count("123457") == 5 for line in lines)
    assert "123.46 ms" in " ".join(lines)


def test_without_evidence_is_said(run, start_good, owner):
    replica = start_good(credentials=owner.credentials())
    common = (replica.target, "--count", "2", "--server-name", owner.name, "--ca", str(owner.path("ca.pem")))
    result = run(*common, "--insecure-without-evidence", "--model", "classifier")
    assert result.exit_code == 0, result.output
    assert "WITHOUT EVIDENCE" in result.output
    assert isinstance(run(*common).exception, InputError)


def test_a_refused_replica_gets_no_load(run, bad_replica, policy_file):
    assert isinstance(run(bad_replica.target, "--policy", policy_file, "--count", "3").exception, PolicyRefusedError)
    assert set(bad_replica.log) == {"GetEvidence"}


def measured(replica, policy, plan):
    async def main():
        async with AsyncClient(replica.target, policy, max_connections=plan.concurrency) as client:
            return await measure(client, INPUTS, plan, model="classifier", batch=1)

    return asyncio.run(main())


def test_a_stall_counts_for_the_requests_that_it_kept_waiting(start_good, policy):
    def predict(message, context):
        if replica.predicted == 3:
            time.sleep(0.5)
        return replica.honest_predict(message, context)

    replica = start_good(predict=predict)
    plan = Plan(1, count=20, rate=100)
    late = measured(replica, policy, plan).latencies
    # One request stalled for half a second; all that were due meanwhile were late as well.
    assert late.percentile(50) > 0.2


def test_failures_are_counted_by_cause_and_are_no_latencies(start_good, policy):
    def predict(message, context):
        if replica.predicted % 2:
            context.abort(grpc.StatusCode.INTERNAL, "broken")
        return replica.honest_predict(message, context)

    replica = start_good(predict=predict)
    outcome = measured(replica, policy, Plan(1, count=10))
    assert outcome.errors == {"server-fault": 5}
    assert outcome.latencies.count == 5


@given(st.lists(st.floats(1e-5, 100), min_size=1, max_size=200), st.sampled_from([1.0, 50.0, 90.0, 99.0, 100.0]))
def test_percentiles_are_right_to_less_than_a_percent(values, percent):
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    exact = float(np.percentile(values, percent, method="inverted_cdf"))
    assert histogram.percentile(percent) == pytest.approx(exact, rel=0.006)
    assert histogram.mean == pytest.approx(sum(values) / len(values))
