"""Alerts, dashboard and autoscaler: what they ask Prometheus for, and what replicas tell."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from kubernetes_cases import CASES, REPLICA, content, objects_in, of_kind, render, write_deployment
from promql import asked_for, told_by

from sealserve.deploy import load_deployment
from sealserve.enclave.metrics import ReplicaMetrics
from sealserve.enclave.statistics import State, Statistics
from sealserve.errors import ConfigurationError
from sealserve.kubernetes.monitoring import METRICS_PATH, broker_monitor_objects
from sealserve.kubernetes.plan import Plan, check
from sealserve.kubernetes.scaling import IN_FLIGHT
from sealserve.kubernetes.yaml_text import without_comments
from sealserve.serving.core import ModelServer
from sealserve.serving.load import Load
from sealserve.serving.rest.server import METRICS_PATH as PATH_OF_REPLICAS

DOCS = Path(__file__).parents[2] / "docs"
RUNBOOK = (DOCS / "kubernetes-monitoring.md").read_text()
CASE = CASES["nginx-canary-simulated"]
# What Prometheus puts on every series, and PodMonitors on those of pods.
OF_PROMETHEUS = {"job", "instance", "namespace", "pod", "app_kubernetes_io_component"}
# https://github.com/kubernetes/kube-state-metrics/blob/main/docs/metrics/workload/pod-metrics.md, and of kubelet:
# https://github.com/google/cadvisor/blob/master/docs/storage/prometheus.md
OF_KUBERNETES = {"kube_pod_container_status_restarts_total", "container_cpu_usage_seconds_total"}


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return objects_in(render(tmp_path_factory.mktemp("monitoring"), {**CASE, "tee": "sgx"}))


def rules(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    (found,) = of_kind(objects, "PrometheusRule")
    return [rule for group in found["spec"]["groups"] for rule in group["rules"]]


def dashboard(objects: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = (each for each in of_kind(objects, "ConfigMap") if "grafana_dashboard" in each["metadata"]["labels"])
    (text,) = found["data"].values()
    read: dict[str, Any] = json.loads(text)
    return read


def queries(objects: list[dict[str, Any]]) -> list[str]:
    targets = [target["expr"] for panel in dashboard(objects)["panels"] for target in panel["targets"]]
    return [*(rule["expr"] for rule in rules(objects)), *targets]


def replicas_exposition() -> dict[str, dict[str, set[str]]]:
    core, statistics = ModelServer(), Statistics(expires=lambda: 1.0)
    metrics = ReplicaMetrics(core, statistics, tee="sgx")
    statistics.loads["GRPC"] = lambda: Load(1, 64, 0)
    statistics.asked("granted")
    core.observer.request("m", "Predict", "GRPC", "OK", 0.1)  # type: ignore[union-attr]
    return told_by(metrics.text().decode())


def test_replicas_tell_what_alerts_and_dashboard_ask_for(objects: list[dict[str, Any]]) -> None:
    told = replicas_exposition()
    told["sealserve_model_state"] = {"model_name": {"m"}, "version": {"1"}}  # of a loaded model
    assert told["sealserve_replica_state"]["state"] == set(get_args(State))
    for query in queries(objects):
        asked = asked_for(query)
        labels = set(OF_PROMETHEUS)
        for name, matchers in asked.series:
            if name.startswith("sealserve_broker_") or name in OF_KUBERNETES:
                continue  # see the test with a broker
            assert name in told, query
            labels |= set(told[name])
            for label, operator, value in matchers:
                assert label in labels, query
                if operator.endswith("Equal") and label not in OF_PROMETHEUS:
                    assert value in told[name][label], query
        if not any(name.startswith("sealserve_broker_") for name, _ in asked.series):
            assert asked.grouped - {"le"} <= labels, query


def test_replicas_are_asked_where_they_tell(objects: list[dict[str, Any]]) -> None:
    (monitor,) = of_kind(objects, "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["path"] == METRICS_PATH == PATH_OF_REPLICAS
    pods = {each["metadata"]["name"]: each["spec"]["template"] for each in of_kind(objects, "Deployment")}
    (expression,) = monitor["spec"]["selector"]["matchExpressions"]
    for name, pod in pods.items():
        labels = pod["metadata"]["labels"]
        chosen = monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
        chosen = chosen and labels[expression["key"]] in expression["values"]
        assert chosen == ("replica" in name)
        ports = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}
        assert ports.get(endpoint["port"]) == (8502 if chosen else None)
    job = f"{monitor['metadata']['namespace']}/{monitor['metadata']['name']}"
    assert jobs_of(objects) == {"replica": {job}, "broker": {"serving/photos-broker"}}


def jobs_of(objects: list[dict[str, Any]]) -> dict[str, set[str]]:
    """Whose series queries ask for: each selector has to say it, or it has those of other deployments, too."""
    found: dict[str, set[str]] = {"replica": set(), "broker": set()}
    for name, matchers in (series for query in queries(objects) for series in asked_for(query).series):
        if name not in OF_KUBERNETES:
            (job,) = (value for label, operator, value in matchers if (label, operator) == ("job", "MatchOp.Equal"))
            found["broker" if name.startswith("sealserve_broker_") else "replica"].add(job)
    return found


def test_queries_about_brokers_in_the_cluster_ask_for_the_job_of_their_monitor(tmp_path: Path) -> None:
    brokers = {"image": REPLICA, "namespace": "keys", "database": {"url": "postgresql://db/keys?sslmode=verify-full"}}
    changes = {
        "image": {"brokers": ["photos-broker.keys.svc:4433"]},
        "kubernetes": {"brokers": brokers, "monitoring": {"namespace": "monitoring"}},
    }
    assert jobs_of(objects_in(render(tmp_path, changes)))["broker"] == {"keys/photos-broker"}
    deployment = load_deployment(write_deployment(tmp_path, changes))
    theirs = check(deployment).model_copy(update={"namespace": "keys"})
    (monitor,) = broker_monitor_objects(Plan(deployment, theirs, (), "1Gi", "1", None, None), "key-broker")
    assert (monitor["metadata"]["namespace"], monitor["metadata"]["name"]) == ("keys", "photos-broker")


def test_each_alert_has_its_section_in_the_runbook_and_each_section_its_alert(objects: list[dict[str, Any]]) -> None:
    sections = re.findall(r"^### (Sealserve\w+)$", RUNBOOK, re.MULTILINE)
    names = [rule["alert"] for rule in rules(objects)]
    assert sections == names
    for rule in rules(objects):
        notes = rule["annotations"]
        assert notes["runbook"] == f"docs/kubernetes-monitoring.md#{rule['alert'].lower()}"
        assert notes["summary"]
        assert notes["description"].endswith(".")
        assert rule["labels"]["severity"] in {"critical", "warning"}


def test_alerts_use_labels_that_their_expressions_keep(objects: list[dict[str, Any]]) -> None:
    for rule in rules(objects):
        used = {label for text in rule["annotations"].values() for label in re.findall(r"\$labels\.(\w+)", text)}
        aggregated = re.match(r"(sum|min) by \(([^)]*)\)", rule["expr"])
        if aggregated:
            assert used <= set(aggregated[2].split(", ")), rule["alert"]
        elif re.match(r"\(?(sum|histogram_quantile)\(", rule["expr"]):
            assert not used, rule["alert"]


def test_panels_are_beside_each_other(objects: list[dict[str, Any]]) -> None:
    found = dashboard(objects)
    panels = found["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    places = [(each["gridPos"]["x"], each["gridPos"]["y"]) for each in panels]
    assert len(set(places)) == len(panels)
    assert all(x + panel["gridPos"]["w"] <= 24 for (x, _), panel in zip(places, panels, strict=True))
    variable = found["templating"]["list"][0]["name"]
    assert {panel["datasource"]["uid"] for panel in panels} == {f"${{{variable}}}"}


def test_an_autoscaler_looks_at_the_replicas_that_it_scales(tmp_path: Path) -> None:
    (scaled,) = of_kind(objects_in(render(tmp_path, CASES["gateway-canary-sgx"])), "ScaledObject")
    by_requests, by_cpu = scaled["spec"]["triggers"]
    assert by_cpu["metadata"] == {"value": "80"}
    ((name, matchers),) = {series[0]: series for series in asked_for(by_requests["metadata"]["query"]).series}.values()
    assert name == IN_FLIGHT in replicas_exposition()
    values = {label: value for label, _, value in matchers}
    assert values["namespace"] == "photos"
    assert re.fullmatch(values["pod"], "photos-replica-6d4cf56db6-x2v8q")
    assert not re.fullmatch(values["pod"], "photos-replica-canary-6d4cf56db6-x2v8q")
    assert not re.fullmatch(values["pod"], "photos-replica-two-replica-6d4cf56db6-x2v8q")


def test_the_rule_for_the_adapter_gives_what_the_autoscaler_asks_for(objects: list[dict[str, Any]]) -> None:
    (example,) = (text for text in re.findall(r"```yaml\n(.*?)```", RUNBOOK, re.DOTALL) if "seriesQuery" in text)
    (rule,) = yaml.safe_load(example)["rules"]["custom"]
    (scaler,) = of_kind(objects, "HorizontalPodAutoscaler")
    (metric,) = scaler["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == IN_FLIGHT
    (series,) = asked_for(rule["seriesQuery"]).series
    assert series[0] == IN_FLIGHT
    filled = rule["metricsQuery"].replace("<<.Series>>", IN_FLIGHT).replace("<<.GroupBy>>", "pod")
    filled = filled.replace("<<.LabelMatchers>>", 'namespace="serving",pod=~"a|b"')
    assert {name for name, _ in asked_for(filled).series} == {IN_FLIGHT}


def test_the_scrape_configuration_of_the_documentation_gives_the_labels_that_rules_ask_for() -> None:
    (example,) = (text for text in re.findall(r"```yaml\n(.*?)```", RUNBOOK, re.DOTALL) if "kubernetes_sd" in text)
    replicas, brokers = yaml.safe_load(example)["scrape_configs"]
    assert (replicas["job_name"], brokers["job_name"]) == ("serving/photos-replica", "serving/photos-broker")
    assert replicas["metrics_path"] == METRICS_PATH
    given = {each["target_label"] for each in replicas["relabel_configs"] if "target_label" in each}
    assert {"namespace", "pod", "app_kubernetes_io_component"} <= given


def test_brokers_are_verified_before_they_are_shown_a_token(tmp_path: Path) -> None:
    deployment = load_deployment(write_deployment(tmp_path, CASE))
    plan = Plan(deployment, check(deployment), (), "1Gi", "1", None, None)
    (monitor,) = map(without_comments, broker_monitor_objects(plan, "key-broker"))
    assert monitor["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"] == "key-broker"
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["authorization"] == {"credentials": {"name": "photos-broker-metrics", "key": "token"}}
    assert endpoint["tlsConfig"] == {
        "ca": {"secret": {"name": "photos-broker-metrics", "key": "ca.pem"}},
        "serverName": "broker.example",
    }
    without = load_deployment(write_deployment(tmp_path, {}))
    assert broker_monitor_objects(Plan(without, check(without), (), "1Gi", "1", None, None), "key-broker") == []


def test_nothing_of_it_is_there_unless_it_is_asked_for(tmp_path: Path) -> None:
    found = objects_in(render(tmp_path, CASES["nginx-simulated"]))
    assert not {"PodMonitor", "PrometheusRule"} & {each["kind"] for each in found}
    (container,) = of_kind(found, "Deployment")[0]["spec"]["template"]["spec"]["containers"]
    assert "--metrics-listen" not in container["args"]


def test_without_the_operator_metrics_are_told_and_no_object_is_of_its_kinds(
    tmp_path: Path, objects: list[dict[str, Any]]
) -> None:
    section = {**CASE["kubernetes"], "monitoring": {"namespace": "monitoring", "operator": False}}
    output = render(tmp_path, {**CASE, "tee": "sgx", "kubernetes": section})
    found = objects_in(output)
    assert not [each for each in found if each["apiVersion"].startswith("monitoring.coreos.com")]
    ports = [port for each in of_kind(found, "Deployment") for port in each["spec"]["template"]["spec"]["containers"]]
    assert 8502 in {port["containerPort"] for container in ports for port in container["ports"]}
    assert of_kind(found, "NetworkPolicy") == of_kind(objects, "NetworkPolicy")
    (file,) = (each for each in of_kind(found, "ConfigMap") if each["metadata"]["name"] == "photos-rules")
    (with_operator,) = of_kind(objects, "PrometheusRule")
    assert yaml.safe_load(file["data"]["rules.yaml"]) == with_operator["spec"]
    assert "  rules.yaml: |\n" in (output / "monitoring.yaml").read_text()
    assert dashboard(found) == dashboard(objects)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"autoscaling": {"max": 4, "requests": 8}}, "autoscaling.requests: needs through"),
        ({"autoscaling": {"max": 4, "through": "keda"}}, "autoscaling.through: goes with requests"),
        ({"autoscaling": {"max": 4, "requests": 8, "through": "keda"}}, "keda needs server"),
        (
            {"autoscaling": {"max": 4, "requests": 8, "through": "prometheus", "server": "http://p:9090"}},
            "autoscaling.server: goes with through: keda",
        ),
        (
            {"autoscaling": {"max": 4, "requests": 8, "through": "keda", "server": "p:9090/{x}"}},
            "autoscaling.server: must be a URL",
        ),
        ({"autoscaling": {"max": 4, "requests": 8, "through": "prometheus"}}, "needs the section monitoring"),
        ({"monitoring": {}}, "kubernetes.monitoring.namespace"),
        ({"monitoring": {"namespace": "m", "labels": {"a b": "c"}}}, "must be a label's name"),
        ({"monitoring": {"namespace": "m", "labels": {"a": "c d"}}}, "must be a label's value"),
    ],
)
def test_a_setting_that_cannot_be_is_reported_by_its_name(
    tmp_path: Path, section: dict[str, Any], message: str
) -> None:
    file = tmp_path / "deployment.yaml"
    file.write_text(yaml.safe_dump(content({"kubernetes": section})))
    with pytest.raises(ConfigurationError, match=message):
        load_deployment(file)


def test_the_unmodified_server_has_no_metrics_that_could_be_told(tmp_path: Path) -> None:
    changes = {
        "tee": "sgx",
        "model": {"engine": "tensorflow-serving"},
        "kubernetes": {"monitoring": {"namespace": "monitoring"}},
    }
    with pytest.raises(ConfigurationError, match="REST port alone"):
        render(tmp_path, changes)
