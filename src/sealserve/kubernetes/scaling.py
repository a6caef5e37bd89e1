"""More replicas when there is more to do, by CPU or by requests in flight: Kubernetes' own autoscaler, or KEDA's.

``HorizontalPodAutoscaler``: https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/.
``ScaledObject``: https://keda.sh/docs/latest/reference/scaledobject-spec/ and .../scalers/prometheus/.
"""

from __future__ import annotations

from sealserve.deploy.kubernetes_section import AutoscalingSection
from sealserve.kubernetes.plan import Plan
from sealserve.kubernetes.yaml_text import Comment, Object

IN_FLIGHT = "sealserve_replica_requests_in_flight"
_BEHAVIOR: Object = {
    Comment(
        "A new replica attests and loads its model before it takes anything off the others, and is not asked for twice "
        "meanwhile. The key broker is to see no storm."
    ): None,
    "scaleUp": {
        "stabilizationWindowSeconds": 30,
        "selectPolicy": "Max",
        "policies": [
            {"type": "Percent", "value": 100, "periodSeconds": 60},
            {"type": "Pods", "value": 2, "periodSeconds": 60},
        ],
    },
    Comment("A pause between two bursts is no reason to unload a model."): None,
    "scaleDown": {
        "stabilizationWindowSeconds": 300,
        "policies": [{"type": "Percent", "value": 50, "periodSeconds": 60}],
    },
}


def autoscaler(plan: Plan) -> list[Object]:
    """The HorizontalPodAutoscaler or ScaledObject, if one is asked for."""
    wanted = plan.section.autoscaling
    if wanted is None:
        return []
    return [_scaled_object(plan, wanted) if wanted.through == "keda" else _horizontal(plan, wanted)]


def pods_of(plan: Plan) -> str:
    """The stable replicas' pods, and no canary, as a regular expression of their names."""
    return f"{plan.replica}-[a-z0-9]+-[a-z0-9]+"


def _horizontal(plan: Plan, wanted: AutoscalingSection) -> Object:
    metrics: list[Object] = []
    if wanted.cpu_aim is not None:
        target: Object = {"type": "Utilization", "averageUtilization": wanted.cpu_aim}
        metrics.append({"type": "Resource", "resource": {"name": "cpu", "target": target}})
    if wanted.requests is not None:
        target = {"type": "AverageValue", "averageValue": str(wanted.requests)}
        metrics.append(
            {
                Comment(
                    "From prometheus-adapter, which has to be told the rule in docs/kubernetes-monitoring.md."
                ): None,
                "type": "Pods",
                "pods": {"metric": {"name": IN_FLIGHT}, "target": target},
            }
        )
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": plan.replica},
        "minReplicas": wanted.min,
        "maxReplicas": wanted.max,
        "metrics": metrics,
        "behavior": _BEHAVIOR,
    }
    return plan.object("autoscaling/v2", "HorizontalPodAutoscaler", plan.replica, "replica", spec=spec)


def _scaled_object(plan: Plan, wanted: AutoscalingSection) -> Object:
    series = f'{IN_FLIGHT}{{namespace="{plan.namespace}",pod=~"{pods_of(plan)}"}}'
    triggers: list[Object] = [
        {
            "type": "prometheus",
            "metricType": "AverageValue",
            "metadata": {
                "serverAddress": wanted.server,
                "query": f"sum(avg_over_time({series}[1m]))",
                "threshold": str(wanted.requests),
                Comment("No numbers are not the number 0: see fallback."): None,
                "ignoreNullValues": "false",
            },
        }
    ]
    if wanted.cpu_aim is not None:
        triggers.append({"type": "cpu", "metricType": "Utilization", "metadata": {"value": str(wanted.cpu_aim)}})
    spec = {
        "scaleTargetRef": {"name": plan.replica},
        "minReplicaCount": wanted.min,
        "maxReplicaCount": wanted.max,
        Comment(
            "While Prometheus does not answer, there are as many replicas as there were, and at least these."
        ): None,
        "fallback": {"failureThreshold": 3, "replicas": wanted.min, "behavior": "currentReplicasIfHigher"},
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _BEHAVIOR}},
        "triggers": triggers,
    }
    return plan.object("keda.sh/v1alpha1", "ScaledObject", plan.replica, "replica", spec=spec)
