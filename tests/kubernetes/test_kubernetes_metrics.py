"""What a real replica and a real key broker tell, against what alerts and dashboard ask for."""

from __future__ import annotations

import http.client
import json
import ssl
from pathlib import Path
from typing import Any

import pytest
from kubernetes_cases import CASES, objects_in, of_kind, render
from promql import asked_for, told_by
from replica_parties import Place, answer, free_port
from test_kubernetes_monitoring import OF_KUBERNETES, OF_PROMETHEUS

from sealserve.kubernetes.monitoring import METRICS_PATH

pytestmark = pytest.mark.slow

ELSEWHERE = {
    "sealserve_replica_certificate_expiry_timestamp_seconds",  # of an owner's certificate
}


def fetch(port: int, path: str) -> str:
    """As Prometheus does where it is told not to verify the server."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection("localhost", port, timeout=20, context=context)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == 200
        return response.read().decode()
    finally:
        connection.close()


def expressions(directory: Path) -> list[str]:
    directory.mkdir()
    objects = objects_in(render(directory, CASES["nginx-canary-simulated"]))
    (rules,) = of_kind(objects, "PrometheusRule")
    found = [rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"]]
    for each in of_kind(objects, "ConfigMap"):
        if "grafana_dashboard" in each["metadata"]["labels"]:
            panels = json.loads(next(iter(each["data"].values())))["panels"]
            found += [target["expr"] for panel in panels for target in panel["targets"]]
    return found


def test_every_series_that_is_asked_for_is_told_by_a_replica_or_a_broker(tmp_path: Path) -> None:
    place, administration = Place(tmp_path / "place"), free_port()
    settings: dict[str, Any] = json.loads((place.directory / "broker.yaml").read_text())
    settings["admin"] = {"listen": f"127.0.0.1:{administration}", "tokens": True, "metrics": "open"}
    (place.directory / "broker.yaml").write_text(json.dumps(settings))
    options = ("--rest-listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--broker-timeout", "30")
    with place.replica(*options) as replica:
        port = replica.until("metrics-listening")["port"]
        waiting = fetch(port, METRICS_PATH)
        assert 'sealserve_replica_state{state="waiting"} 1.0' in waiting
        with place.broker():
            with place.client(replica) as client:
                answer(client)
            with place.replica("--deployment", "other") as refused:
                assert refused.wait() != 0
            told = told_by(fetch(port, METRICS_PATH)) | told_by(fetch(administration, "/metrics"))
    assert "refused" in told["sealserve_broker_decisions_total"]["outcome"]
    for query in expressions(tmp_path / "k8s"):
        asked = asked_for(query)
        names = {name for name, _ in asked.series} - OF_KUBERNETES - ELSEWHERE
        assert names <= told.keys(), query
        labels = OF_PROMETHEUS.union(*(told[name] for name in names)) if names else None
        if labels is not None:
            assert asked.grouped - {"le"} <= labels, query
            assert {label for _, matchers in asked.series for label, *_ in matchers} <= labels, query
