"""The autoscaler that says how many replicas there are, and whether it can."""

from __future__ import annotations

from dataclasses import dataclass

from sealserve.kubernetes.live.api import Cluster
from sealserve.kubernetes.live.kinds import AUTOSCALER, DEPLOYMENT
from sealserve.kubernetes.plan import Plan
from sealserve.kubernetes.yaml_text import Object

_DISABLED = "ScalingDisabled"  # somebody wants no replicas


@dataclass(frozen=True)
class Autoscaler:
    """A HorizontalPodAutoscaler. :ivar bounds: its name, and how few and how many replicas it makes.

    :ivar trouble: why it does not scale, in its own words: most often nobody tells it what it asks for. None if it
        scales, or has not said anything yet.
    """

    bounds: str
    trouble: str | None


def autoscaler_of(cluster: Cluster, plan: Plan) -> Autoscaler | None:
    """The one that says how many replicas there are, whoever made it. :raises ForbiddenError: it may not be read."""
    for each in cluster.list(AUTOSCALER, namespace=plan.namespace):
        spec = each["spec"]
        target = spec["scaleTargetRef"]
        if target.get("kind") == DEPLOYMENT.name and target.get("name") == plan.replica:
            bounds = f"{each['metadata']['name']}: {spec.get('minReplicas', 1)} to {spec['maxReplicas']}"
            return Autoscaler(bounds, _trouble(each.get("status") or {}))
    return None


def _trouble(status: Object) -> str | None:
    for condition in status.get("conditions") or ():
        inactive = condition["type"] == "ScalingActive" and condition["status"] == "False"
        if inactive and condition.get("reason") != _DISABLED:
            words = ": ".join(filter(None, (condition.get("reason"), condition.get("message"))))
            return f"the autoscaler does not scale ({' '.join(words.split())}): see `sealserve k8s doctor`"
    return None
