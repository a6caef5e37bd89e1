"""All checks, one after the other, and what they found together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sealserve.deploy.doctor import Finding
from sealserve.kubernetes.live.api import Cluster
from sealserve.kubernetes.live.doctor.account import examine_account, examine_version
from sealserve.kubernetes.live.doctor.edge import examine_edge, examine_kinds
from sealserve.kubernetes.live.doctor.name_service import examine_name_service
from sealserve.kubernetes.live.doctor.needs import (
    examine_monitoring,
    examine_namespace,
    examine_scaling,
    examine_secrets,
    examine_storage,
)
from sealserve.kubernetes.live.doctor.nodes import examine_nodes
from sealserve.kubernetes.live.doctor.policies import examine_network_plugin, examine_pod_security
from sealserve.kubernetes.live.doctor.probe import examine_broker
from sealserve.kubernetes.live.doctor.question import Check, Question, unseen
from sealserve.kubernetes.live.doctor.sgx import examine_sgx
from sealserve.kubernetes.live.errors import ClusterRefusedError
from sealserve.kubernetes.plan import Plan
from sealserve.kubernetes.rendering import objects_by_file

CHECKS: dict[str, Check] = {
    "version": examine_version,
    "permissions": examine_account,
    "nodes": examine_nodes,
    "sgx": examine_sgx,
    "kinds": examine_kinds,
    "edge": examine_edge,
    "pod-security": examine_pod_security,
    "network-policies": examine_network_plugin,
    "autoscaling": examine_scaling,
    "monitoring": examine_monitoring,
    "dns": examine_name_service,
    "namespace": examine_namespace,
    "storage": examine_storage,
    "secrets": examine_secrets,
}


@dataclass(frozen=True)
class ClusterReport:
    """What was found. :ivar server: the cluster that was looked at."""

    server: str
    deployment: str
    namespace: str
    findings: tuple[Finding, ...]

    @property
    def ready(self) -> bool:
        """Whether the deployment can run there."""
        return all(finding.level != "problem" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {
            "cluster": self.server,
            "deployment": self.deployment,
            "namespace": self.namespace,
            "ready": self.ready,
            "findings": [finding.as_dict() for finding in self.findings],
        }


def examine_cluster(
    cluster: Cluster, plan: Plan, *, probe: bool = False, on_progress: Callable[[str], None] = lambda _: None
) -> ClusterReport:
    """Look at a cluster, and change nothing in it. What an account may not look at is a finding.

    :param probe: start a pod for some seconds, which asks for the key broker. It is removed again.
    :param on_progress: called with what takes a while.
    :raises UnavailableError: the cluster cannot be reached.
    """
    rendered = tuple(found for objects in objects_by_file(plan).values() for found in objects)
    question = Question(cluster, plan, rendered)
    findings: list[Finding] = []
    for name, check in CHECKS.items():
        try:
            findings += check(question)
        except ClusterRefusedError as error:
            findings.append(unseen(name, error))
    if probe:
        findings += examine_broker(question, on_progress)
    else:
        text = "whether pods reach the key broker was not tried"
        findings.append(Finding("broker", "note", text, "sealserve k8s doctor --probe"))
    return ClusterReport(cluster.server, plan.name, plan.namespace, tuple(findings))
