"""For Prometheus: whom to ask for metrics, and what to tell people of, with its operator or without; for Grafana a
dashboard.

``PodMonitor`` and ``PrometheusRule``: https://prometheus-operator.dev/docs/api-reference/api/.
"""

from __future__ import annotations

from sealserve.deploy.images.programs import brokers_of
from sealserve.kubernetes.alerts import prometheus_rule, rules_file
from sealserve.kubernetes.dashboard import dashboard
from sealserve.kubernetes.plan import COMPONENT_LABEL, Plan
from sealserve.kubernetes.yaml_text import Comment, Object

METRICS_PATH = "/monitoring/prometheus/metrics"


def monitoring_objects(plan: Plan) -> list[Object]:
    """The PodMonitor of replicas, rules of alerts and a dashboard, as far as they are asked for.

    Without the operator there are no objects of its kinds, which a cluster would not know.
    """
    wanted = plan.section.monitoring
    if wanted is None:
        return []
    objects = [_pod_monitor(plan, wanted.labels)] if wanted.operator else []
    if wanted.rules:
        objects.append(prometheus_rule(plan, wanted.labels) if wanted.operator else rules_file(plan))
    if wanted.dashboard:
        objects.append(_dashboard(plan))
    return objects


def broker_monitor_objects(plan: Plan, component: str) -> list[Object]:
    """The PodMonitor of key brokers that run as pods, if monitoring by the operator is asked for.

    :param plan: whose namespace is the brokers'. :param component: in their labels; their port is called ``admin``.
    """
    wanted = plan.section.monitoring
    if wanted is None or not wanted.operator:
        return []
    endpoint = {
        "port": "admin",
        "path": "/metrics",
        "scheme": "https",
        Comment(
            "A viewer's token. Unlike replicas, brokers are verified: whoever gets the token can read with it."
        ): None,
        "authorization": {"credentials": {"name": broker_metrics_secret(plan), "key": "token"}},
        "tlsConfig": {
            "ca": {"secret": {"name": broker_metrics_secret(plan), "key": "ca.pem"}},
            "serverName": brokers_of(plan.deployment)[0].host,
        },
    }
    spec = {"selector": {"matchLabels": plan.labels(component)}, "podMetricsEndpoints": [endpoint]}
    monitor = plan.object("monitoring.coreos.com/v1", "PodMonitor", plan.broker_service, component, spec=spec)
    monitor["metadata"]["labels"] |= wanted.labels
    return [monitor]


def broker_metrics_secret(plan: Plan) -> str:
    """Name of the Secret with ``token``, a viewer's, and ``ca.pem``, the authority of the brokers' certificates."""
    return f"{plan.broker_service}-metrics"


def _pod_monitor(plan: Plan, labels: dict[str, str]) -> Object:
    tracks = [track.component for track in plan.tracks]
    selector = {name: value for name, value in plan.labels("").items() if value}
    endpoint = {
        "port": "metrics",
        "path": METRICS_PATH,
        "scheme": "https",
        Comment(
            "A replica makes its key when it starts, and its certificate carries evidence, which Prometheus does not "
            "read. What it is told decides nothing about trust."
        ): None,
        "tlsConfig": {"insecureSkipVerify": True},
    }
    spec = {
        "selector": {
            "matchLabels": selector,
            "matchExpressions": [{"key": COMPONENT_LABEL, "operator": "In", "values": tracks}],
        },
        Comment("Tells a canary from the others."): None,
        "podTargetLabels": [COMPONENT_LABEL],
        "podMetricsEndpoints": [endpoint],
    }
    monitor = plan.object("monitoring.coreos.com/v1", "PodMonitor", plan.replica, "replica", spec=spec)
    monitor["metadata"]["labels"] |= labels
    return monitor


def _dashboard(plan: Plan) -> Object:
    name = f"{plan.name}-dashboard"
    found = plan.object("v1", "ConfigMap", name, "monitoring", data={f"{plan.namespace}-{name}.json": dashboard(plan)})
    found["metadata"]["labels"] |= {
        Comment("Grafana's sidecar looks for this label; let it look into all namespaces."): None,
        "grafana_dashboard": "1",
    }
    return found
