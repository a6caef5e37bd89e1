"""What every pod of ours has in common: the *restricted* Pod Security Standard, and how pods spread and leave.

The standard: https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted.
"""

from __future__ import annotations

from sealserve.kubernetes.plan import Plan
from sealserve.kubernetes.yaml_text import Comment, Object

DRAIN_SECONDS = 10
"""Between the moment from which a pod is to get no new connections, and SIGTERM."""


def container_security() -> Object:
    """``securityContext`` of a container."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def pod_security(user: int) -> Object:
    """``securityContext`` of a pod. :param user: who all its processes run as."""
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def spread(plan: Plan, component: str) -> list[object]:
    """``topologySpreadConstraints``: over nodes and zones, where there are several."""
    return [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": plan.labels(component)},
            "matchLabelKeys": ["pod-template-hash"],
        }
        for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
    ]


def drain(seconds: int = DRAIN_SECONDS) -> Object:
    """``lifecycle`` of a container."""
    return {
        Comment(
            "The pod is taken out of DNS and endpoints when its deletion begins; until everybody has heard of it, it "
            "goes on answering."
        ): None,
        "preStop": {"sleep": {"seconds": seconds}},
    }


def service_account(plan: Plan, name: str, component: str) -> Object:
    """An account that can do nothing, and has no token to try."""
    return plan.object("v1", "ServiceAccount", name, component, automountServiceAccountToken=False)


def disruption_budget(plan: Plan, name: str, component: str) -> Object:
    """One pod at a time may be evicted, as when nodes are drained."""
    return plan.object(
        "policy/v1",
        "PodDisruptionBudget",
        name,
        component,
        spec={
            "maxUnavailable": 1,
            Comment("A pod that is not ready must not keep a node from being drained."): None,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": plan.labels(component)},
        },
    )


def rolling_update() -> Object:
    """``strategy`` of a Deployment: a new pod is ready before an old one goes."""
    return {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
