"""A dashboard for Grafana, as the JSON that it imports.

Its fields: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

from sealserve.kubernetes.alerts import brokers_job_of, job_of
from sealserve.kubernetes.plan import Plan
from sealserve.kubernetes.scaling import IN_FLIGHT

_SCHEMA = 39
_COLUMNS = 3
_WIDTH = _HEIGHT = 8  # of 24 in a row
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Panel:
    """A picture.

    :ivar queries: PromQL → how its lines are called. :ivar unit: as Grafana calls it.
    """

    title: str
    queries: dict[str, str]
    unit: str = "short"
    kind: Literal["timeseries", "stat"] = "timeseries"
    stacked: bool = False


def dashboard(plan: Plan) -> str:
    """The text of the dashboard."""
    panels = [_rendered(panel, number) for number, panel in enumerate(panels_of(plan))]
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    content = {
        "uid": sha256(f"{plan.namespace}/{plan.name}".encode()).hexdigest()[:20],
        "title": f"sealserve: {plan.namespace}/{plan.name}",
        "tags": ["sealserve"],
        "schemaVersion": _SCHEMA,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [source]},
        "panels": panels,
    }
    return json.dumps(content, indent=1) + "\n"


def panels_of(plan: Plan) -> list[Panel]:
    """The pictures, from left to right and from top to bottom."""
    job = f'job="{job_of(plan)}"'
    brokers = f'job="{brokers_job_of(plan)}"'
    count, latency = ":tensorflow:serving:request_count", ":tensorflow:serving:request_latency_bucket"
    containers = f'namespace="{plan.namespace}",pod=~"{plan.replica}-.+",container="replica"'
    panels = [
        Panel("Replicas", {f"sum by (state) (sealserve_replica_state{{{job}}})": "{{state}}"}, kind="stat"),
        Panel(
            "Versions served",
            {f"count by (model_name, version) (sealserve_model_state{{{job}}} == 30)": "{{model_name}} {{version}}"},
            kind="stat",
        ),
        Panel(
            "Collateral: time left",
            {
                f"min by (policy, platform) (sealserve_broker_collateral_expiry_timestamp_seconds{{{brokers}}})"
                " - time()": "{{policy}}"
            },
            "s",
            "stat",
        ),
        Panel(
            "Requests by status", {f"sum by (status) (rate({count}{{{job}}}[5m]))": "{{status}}"}, "reqps", stacked=True
        ),
        Panel(
            "Time of answers",
            {
                f"histogram_quantile({share}, sum by (le) (rate({latency}{{{job}}}[5m]))) / 1e6": name
                for share, name in ((0.5, "median"), (0.9, "90 %"), (0.99, "99 %"))
            },
            "s",
        ),
        Panel("Requests in flight", {f"sum by (pod) ({IN_FLIGHT}{{{job}}})": "{{pod}}"}),
        Panel(
            "Attestations of clients",
            {f"sum(rate(sealserve_replica_attestation_seconds_count{{{job}}}[5m]))": "answered"},
            "ops",
        ),
        Panel(
            "Time of an attestation",
            {
                "histogram_quantile(0.95, sum by (le) "
                f"(rate(sealserve_replica_attestation_seconds_bucket{{{job}}}[5m])))": "95 %"
            },
            "s",
        ),
        Panel(
            "Replicas asking for keys",
            {f"sum by (outcome) (rate(sealserve_replica_grants_total{{{job}}}[5m]))": "{{outcome}}"},
            "ops",
        ),
        Panel(
            "Decisions of key brokers",
            {
                f"sum by (outcome, reason) (rate(sealserve_broker_decisions_total{{{brokers}}}[5m]))": (
                    "{{outcome}} {{reason}}"
                )
            },
            "ops",
        ),
        Panel(
            "Enclaves by TCB status",
            {
                f"sum by (tee, tcb_status) (increase(sealserve_broker_evidence_total{{{brokers}}}[1h]))": (
                    "{{tee}} {{tcb_status}}"
                )
            },
        ),
        Panel(
            "Time of a key broker's decision",
            {
                "histogram_quantile(0.95, sum by (le) "
                f"(rate(sealserve_broker_decision_duration_seconds_bucket{{{brokers}}}[5m])))": "95 %"
            },
            "s",
        ),
        Panel("Memory allocated", {f"sealserve_replica_allocated_bytes{{{job}}}": "{{pod}}"}, "bytes"),
        # By kubelet: inside an enclave nobody tells a process what it used.
        Panel(
            "CPUs used",
            {f"sum by (pod) (rate(container_cpu_usage_seconds_total{{{containers}}}[5m]))": "{{pod}}"},
        ),
        Panel(
            "Requests refused for want of a place",
            {f"sum by (pod) (rate(sealserve_replica_requests_refused_total{{{job}}}[5m]))": "{{pod}}"},
            "reqps",
        ),
    ]
    if plan.canary is not None:
        kind = "app_kubernetes_io_component"
        failed = f'sum by ({kind}) (rate({count}{{{job},status!="OK"}}[5m]))'
        slow = f"histogram_quantile(0.99, sum by (le, {kind}) (rate({latency}{{{job}}}[5m]))) / 1e6"
        panels += [
            Panel("Canary: requests", {f"sum by ({kind}) (rate({count}{{{job}}}[5m]))": f"{{{{{kind}}}}}"}, "reqps"),
            Panel("Canary: requests that fail", {failed: f"{{{{{kind}}}}}"}, "reqps"),
            Panel("Canary: time of answers, 99 %", {slow: f"{{{{{kind}}}}}"}, "s"),
        ]
    if plan.deployment.tee == "sgx":
        free = f"sealserve_replica_enclave_free_bytes{{{job}}}"
        panels.append(Panel("Memory of the enclave, free", {free: "{{pod}}"}, "bytes"))
    return panels


def _rendered(panel: Panel, number: int) -> dict[str, Any]:
    row, column = divmod(number, _COLUMNS)
    custom = {"stacking": {"mode": "normal"}, "fillOpacity": 20} if panel.stacked else {}
    return {
        "id": number + 1,
        "title": panel.title,
        "type": panel.kind,
        "datasource": _SOURCE,
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": custom}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": query, "legendFormat": name}
            for index, (query, name) in enumerate(panel.queries.items())
        ],
    }
