"""When each alert fires, and when not: Prometheus's own tool says so, where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_cases import CASES, objects_in, of_kind, render

JOB = 'job="serving/photos-replica"'
POD = f'{JOB},pod="a"'
GRANTS = f"sealserve_replica_grants_total{{{POD},outcome="
COUNT, BUCKET = (
    f":tensorflow:serving:request_count{{{POD},status=",
    f":tensorflow:serving:request_latency_bucket{{{POD},le=",
)
BROKER = 'job="serving/photos-broker",instance="b"'
REFUSED = f'sealserve_broker_decisions_total{{{BROKER},outcome="refused",reason="unknown"}}'
EVIDENCE = f'sealserve_broker_evidence_total{{{BROKER},tee="sgx",tcb_status='
RESTARTS = 'kube_pod_container_status_restarts_total{namespace="serving",container="replica",pod='
EXPIRY = f"sealserve_replica_certificate_expiry_timestamp_seconds{{{POD}}}"


@dataclass(frozen=True)
class Case:
    """:ivar series: with values of each minute, as promtool has them. :ivar minutes: when it is looked at."""

    alert: str
    minutes: int
    series: dict[str, str]


FIRING = [
    Case("SealserveNoReplicaServing", 5, {f'sealserve_replica_state{{{POD},state="serving"}}': "0x10"}),
    Case("SealserveNoReplicaServing", 5, {"another": "0x10"}),
    Case("SealserveReplicaWaiting", 6, {f'sealserve_replica_state{{{POD},state="waiting"}}': "1x10"}),
    Case("SealserveGrantRefused", 10, {f'{GRANTS}"refused"}}': "0x3 1x10"}),
    Case("SealserveBrokerAway", 30, {f'{GRANTS}"unavailable"}}': "0+1x40", f'{GRANTS}"granted"}}': "1x40"}),
    Case("SealserveCrashLoop", 15, {f'{RESTARTS}"photos-replica-canary-a-b"}}': "0+1x20"}),
    Case("SealserveCertificateEnds", 120, {EXPIRY: "1000000x200"}),
    Case(
        "SealserveEnclaveMemoryShort",
        10,
        {
            f"sealserve_replica_enclave_free_bytes{{{POD}}}": "1x20",
            f"sealserve_replica_enclave_bytes{{{POD}}}": "100x20",
        },
    ),
    Case("SealserveErrors", 15, {f'{COUNT}"OK"}}': "0+90x30", f'{COUNT}"INTERNAL"}}': "0+10x30"}),
    Case(
        "SealserveSlow",
        20,
        {f'{BUCKET}"500000"}}': "0+50x30", f'{BUCKET}"+Inf"}}': "0+100x30", f'{BUCKET}"3e6"}}': "0+100x30"},
    ),
    Case(
        "SealserveReplicaFull",
        10,
        {
            f"sealserve_replica_requests_in_flight{{{POD}}}": "60x20",
            f"sealserve_replica_requests_limit{{{POD}}}": "64x20",
        },
    ),
    Case("SealserveRequestsRefused", 15, {f"sealserve_replica_requests_refused_total{{{POD}}}": "0+1x20"}),
    Case("SealserveBrokerRefuses", 5, {REFUSED: "_x2 1x20"}),  # the first of its reason
    Case("SealserveBrokerRefuses", 25, {REFUSED: "1x20 2x20"}),
    Case("SealserveBrokerUntrusted", 5, {f"sealserve_broker_store_trusted{{{BROKER}}}": "0x10"}),
    Case("SealserveAuditFails", 5, {f"sealserve_broker_audit_failures_total{{{BROKER}}}": "0x2 1x10"}),
    Case("SealserveTcbOutOfDate", 5, {f'{EVIDENCE}"OutOfDate"}}': "_ 1x10"}),
    Case(
        "SealserveCollateralEnds",
        15,
        {f"sealserve_broker_collateral_expiry_timestamp_seconds{{{BROKER}}}": "100000x20"},
    ),
    Case(
        "SealserveBrokerConnections",
        10,
        {
            f"sealserve_broker_connections_open{{{BROKER}}}": "2900x20",
            f"sealserve_broker_connections_limit{{{BROKER}}}": "3000x20",
        },
    ),
]
QUIET = [
    Case("SealserveNoReplicaServing", 5, {f'sealserve_replica_state{{{POD},state="serving"}}': "1x10"}),
    Case("SealserveBrokerAway", 30, {f'{GRANTS}"unavailable"}}': "0+1x40", f'{GRANTS}"granted"}}': "1+1x40"}),
    Case("SealserveCertificateEnds", 120, {EXPIRY: "2000000x200"}),
    Case("SealserveErrors", 15, {f'{COUNT}"OK"}}': "0+90x30", f'{COUNT}"INVALID_ARGUMENT"}}': "0+10x30"}),
    Case("SealserveSlow", 20, {f'{BUCKET}"500000"}}': "0+100x30", f'{BUCKET}"+Inf"}}': "0+100x30"}),
    Case("SealserveBrokerRefuses", 25, {REFUSED: "_x2 1x40"}),  # long ago
    Case("SealserveTcbOutOfDate", 5, {f'{EVIDENCE}"UpToDate"}}': "_ 1x10"}),
]


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return groups_of(tmp_path_factory.mktemp("alerts"))


def groups_of(directory: Path, name: str = "photos") -> list[dict[str, Any]]:
    case = CASES["nginx-canary-simulated"]
    changes = {**case, "name": name, "tee": "sgx", "image": {"brokers": [f"{name}-broker.serving.svc:4433"]}}
    (found,) = of_kind(objects_in(render(directory, changes)), "PrometheusRule")
    read: list[dict[str, Any]] = found["spec"]["groups"]
    return read


def test_every_alert_is_tried(groups: list[dict[str, Any]]) -> None:
    assert [rule["alert"] for group in groups for rule in group["rules"]] == list(
        dict.fromkeys(case.alert for case in FIRING)
    )


needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not on PATH")


@needs_promtool
def test_alerts_fire_when_they_should_and_not_otherwise(tmp_path: Path, groups: list[dict[str, Any]]) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    promtool("check", "rules", tmp_path / "rules.yaml")
    tests = [*(tried(case, firing=1) for case in FIRING), *(tried(case, firing=0) for case in QUIET)]
    content = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(content))
    promtool("test", "rules", tmp_path / "tests.yaml")


@needs_promtool
def test_of_two_deployments_each_alert_is_told_once_and_by_the_one_that_it_is_about(
    tmp_path: Path, groups: list[dict[str, Any]]
) -> None:
    others = groups_of(tmp_path, "music")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [*groups, *others]}))
    series = {f"sealserve_broker_store_trusted{{{BROKER}}}": "0x10"}
    series |= {
        f'sealserve_replica_state{{job="serving/{name}-replica",pod="a",state="serving"}}': "0x10"
        for name in ("photos", "music")
    }
    told = {"SealserveBrokerUntrusted": ["photos"], "SealserveNoReplicaServing": ["music", "photos"]}
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": [
                {
                    "expr": f'count by (deployment) (ALERTS{{alertname="{alert}",alertstate="firing"}})',
                    "eval_time": "5m",
                    "exp_samples": [{"labels": f'{{deployment="serving/{name}"}}', "value": 1} for name in names],
                }
            ],
        }
        for alert, names in told.items()
    ]
    content = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(content))
    promtool("test", "rules", tmp_path / "tests.yaml")


def tried(case: Case, *, firing: int) -> dict[str, Any]:
    # Of a query and not of the alert, whose labels and words would all have to be said.
    pending = f'count(ALERTS{{alertname="{case.alert}",alertstate="firing"}}) or vector(0)'
    return {
        "interval": "1m",
        "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
        "promql_expr_test": [
            {
                "expr": pending,
                "eval_time": f"{case.minutes}m",
                "exp_samples": [{"labels": "{}", "value": firing}],
            }
        ],
    }


def promtool(*arguments: object) -> None:
    words: Sequence[str] = ["promtool", *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
