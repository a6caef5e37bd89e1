"""What Prometheus is to tell people of, and from when on. Each alert has its section in the runbook.

Each rule names the job of the replicas, or of the key brokers, that it looks at, and each alert carries its deployment:
several deployments in one Prometheus neither tell of each other's brokers nor hide each other's alerts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sealserve.kubernetes.plan import Plan
from sealserve.kubernetes.scaling import IN_FLIGHT
from sealserve.kubernetes.yaml_text import Comment, Object, to_yaml

RUNBOOK = "docs/kubernetes-monitoring.md"
_DAY = 86400
# Of the statuses of gRPC, those that are not the caller's fault.
_FAULTS = "INTERNAL|UNAVAILABLE|RESOURCE_EXHAUSTED|DEADLINE_EXCEEDED|UNKNOWN|DATA_LOSS"


@dataclass(frozen=True)
class Alert:
    """One alert.

    :ivar name: unique, and the title of its section in :data:`RUNBOOK`. :ivar expression: PromQL.
    :ivar lasting: for how long it must hold. :ivar summary: one line; :ivar description: what it means.
    """

    name: str
    expression: str
    lasting: str
    severity: Literal["critical", "warning"]
    summary: str
    description: str

    def rule(self, plan: Plan) -> Object:
        """As it stands in a file of rules."""
        return {
            "alert": self.name,
            "expr": self.expression,
            "for": self.lasting,
            "labels": {"severity": self.severity, "deployment": f"{plan.namespace}/{plan.name}"},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook": f"{RUNBOOK}#{self.name.lower()}",
            },
        }


def job_of(plan: Plan) -> str:
    """The job label of replicas' metrics, as the Prometheus Operator makes it of a PodMonitor."""
    return f"{plan.namespace}/{plan.replica}"


def brokers_job_of(plan: Plan) -> str:
    """The same of key brokers, in a cluster; those outside are asked under such a name as well."""
    return f"{plan.keys_namespace or plan.namespace}/{plan.broker_service}"


def groups(plan: Plan) -> list[Object]:
    """The groups of a file of rules."""
    subjects = (("replicas", [*_replicas(plan), *_requests(plan)]), ("brokers", [*_brokers(plan)]))
    return [
        {
            "name": f"sealserve-{plan.namespace}-{plan.name}-{subject}",
            "rules": [alert.rule(plan) for alert in alerts],
        }
        for subject, alerts in subjects
    ]


def prometheus_rule(plan: Plan, labels: dict[str, str]) -> Object:
    """The rules as an object of the Prometheus Operator. :param labels: by which it finds them."""
    rule = plan.object(
        "monitoring.coreos.com/v1", "PrometheusRule", plan.name, "monitoring", spec={"groups": groups(plan)}
    )
    rule["metadata"]["labels"] |= labels
    rule["spec"] = {
        Comment(f"What to do about each of them: {RUNBOOK}."): None,
        Comment(f"Key brokers are those that Prometheus asks under the job's name {brokers_job_of(plan)}."): None,
        **rule["spec"],
    }
    return rule


def rules_file(plan: Plan) -> Object:
    """The rules as a file of Prometheus' own form, in a ConfigMap under ``rules.yaml``."""
    title = f"What to do about each of them: {RUNBOOK}. Jobs are called {job_of(plan)} and {brokers_job_of(plan)}."
    text = to_yaml([{"groups": groups(plan)}], title=title)
    return plan.object("v1", "ConfigMap", f"{plan.name}-rules", "monitoring", data={"rules.yaml": text})


def _replicas(plan: Plan) -> Iterator[Alert]:
    job, name = f'job="{job_of(plan)}"', plan.name
    pods = f'namespace="{plan.namespace}",pod=~"{name}-(replica|edge)-.+"'
    yield Alert(
        "SealserveNoReplicaServing",
        f'(sum(sealserve_replica_state{{{job},state="serving"}}) or vector(0)) == 0',
        "2m",
        "critical",
        f"No replica of {name} serves",
        "Clients get no answer. Either no replica has its key and its model, or Prometheus reaches none.",
    )
    yield Alert(
        "SealserveReplicaWaiting",
        f'sealserve_replica_state{{{job},state="waiting"}} == 1',
        "5m",
        "warning",
        "The replica {{ $labels.pod }} waits for its key",
        "No key broker has granted it a key for five minutes: none answers, or one refuses.",
    )
    yield Alert(
        "SealserveGrantRefused",
        f'sum by (pod) (increase(sealserve_replica_grants_total{{{job},outcome="refused"}}[10m])) > 0',
        "0m",
        "warning",
        "A key broker refuses the replica {{ $labels.pod }}",
        "After three refusals in a row a replica that serves stops. The broker's audit log has the reason.",
    )
    yield Alert(
        "SealserveBrokerAway",
        f'increase(sealserve_replica_grants_total{{{job},outcome="unavailable"}}[15m]) > 2 '
        f'unless ignoring(outcome) increase(sealserve_replica_grants_total{{{job},outcome="granted"}}[15m]) > 0',
        "5m",
        "warning",
        "The replica {{ $labels.pod }} gets no answer from any key broker",
        "Replicas that serve go on. New ones wait, and a revoked grant or a new model reaches nobody.",
    )
    yield Alert(
        "SealserveCrashLoop",
        f"increase(kube_pod_container_status_restarts_total{{{pods}}}[15m]) > 3",
        "0m",
        "critical",
        "The pod {{ $labels.pod }} ends again and again",
        "Its log says why: no memory, no key, no model, no quotes. Known from kube-state-metrics.",
    )
    yield Alert(
        "SealserveCertificateEnds",
        f"min by (job) (sealserve_replica_certificate_expiry_timestamp_seconds{{{job}}}) - time() < {14 * _DAY}",
        "1h",
        "warning",
        f"The certificate of {name} ends in {{{{ $value | humanizeDuration }}}}",
        "Replicas serve with a certificate of their owner's, and follow a renewed one while they run.",
    )
    if plan.deployment.tee == "sgx":
        yield Alert(
            "SealserveEnclaveMemoryShort",
            f"sealserve_replica_enclave_free_bytes{{{job}}} / sealserve_replica_enclave_bytes{{{job}}} < 0.05",
            "5m",
            "warning",
            "The enclave of {{ $labels.pod }} has little memory left",
            "An enclave does not grow: without memory it ends. Its size is measured, and set when the image is built.",
        )


def _requests(plan: Plan) -> Iterator[Alert]:
    job = f'job="{job_of(plan)}"'
    count, latency = ":tensorflow:serving:request_count", ":tensorflow:serving:request_latency_bucket"
    seconds = f"{plan.section.monitoring.p99_seconds:g}" if plan.section.monitoring else "1"
    yield Alert(
        "SealserveErrors",
        f'sum(rate({count}{{{job},status=~"{_FAULTS}"}}[5m])) / sum(rate({count}{{{job}}}[5m])) > 0.05',
        "5m",
        "critical",
        "{{ $value | humanizePercentage }} of requests fail",
        "Not counted: errors that are the caller's.",
    )
    yield Alert(
        "SealserveSlow",
        f"histogram_quantile(0.99, sum by (le) (rate({latency}{{{job}}}[5m]))) / 1e6 > {seconds}",
        "10m",
        "warning",
        "One request of a hundred takes longer than {{ $value | humanizeDuration }}",
        f"More than kubernetes.monitoring.p99_seconds, which is {seconds}.",
    )
    yield Alert(
        "SealserveReplicaFull",
        f"{IN_FLIGHT}{{{job}}} / sealserve_replica_requests_limit{{{job}}} > 0.8",
        "5m",
        "warning",
        "The replica {{ $labels.pod }} has nearly as many requests as it takes",
        "Further ones are refused, and clients try another replica.",
    )
    yield Alert(
        "SealserveRequestsRefused",
        f"sum by (pod) (increase(sealserve_replica_requests_refused_total{{{job}}}[5m])) > 0",
        "5m",
        "warning",
        "The replica {{ $labels.pod }} refuses requests for want of a place",
        "There are more requests than replicas can answer.",
    )


def _brokers(plan: Plan) -> Iterator[Alert]:
    job = f'job="{brokers_job_of(plan)}"'
    yield Alert(
        "SealserveBrokerRefuses",
        _grown(f'sealserve_broker_decisions_total{{{job},outcome="refused"}}', "10m", "reason"),
        "0m",
        "warning",
        "Key brokers refuse enclaves: {{ $labels.reason }}",
        "A replica that its policy does not know, a machine that is behind, or somebody who tries.",
    )
    yield Alert(
        "SealserveBrokerUntrusted",
        f"sealserve_broker_store_trusted{{{job}}} == 0",
        "1m",
        "critical",
        "The key broker {{ $labels.instance }} does not trust its store",
        "It grants nothing. The store was changed by somebody without its key, or is an older copy.",
    )
    yield Alert(
        "SealserveAuditFails",
        f"increase(sealserve_broker_audit_failures_total{{{job}}}[10m]) > 0",
        "0m",
        "critical",
        "The key broker {{ $labels.instance }} cannot record its decisions",
        "What cannot be recorded is refused.",
    )
    yield Alert(
        "SealserveTcbOutOfDate",
        _grown(f'sealserve_broker_evidence_total{{{job},tcb_status=~"OutOfDate.*|Revoked"}}', "1h", "tee, tcb_status"),
        "0m",
        "warning",
        "Enclaves ask from machines whose TCB is {{ $labels.tcb_status }}",
        "Firmware or microcode of a machine is older than what Intel calls safe.",
    )
    yield Alert(
        "SealserveCollateralEnds",
        f"sealserve_broker_collateral_expiry_timestamp_seconds{{{job}}} - time() < {3 * _DAY}",
        "10m",
        "critical",
        "Collateral of the policy {{ $labels.policy }} ends in {{ $value | humanizeDuration }}",
        "Without it no evidence can be judged, and every enclave is refused.",
    )
    yield Alert(
        "SealserveBrokerConnections",
        f"sealserve_broker_connections_open{{{job}}} / sealserve_broker_connections_limit{{{job}}} > 0.8",
        "5m",
        "warning",
        "The key broker {{ $labels.instance }} has nearly as many connections as it takes",
        "Over that, enclaves wait for their key: a storm of starts, or somebody who only connects.",
    )


def _grown(series: str, window: str, labels: str) -> str:
    """That a counter has grown, or is there since: one that begins at 1 has not grown for Prometheus."""
    return f"sum by ({labels}) (increase({series}[{window}]) > 0 or ({series} unless {series} offset {window})) > 0"
