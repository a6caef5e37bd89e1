"""The edge of our own: nginx in front of replicas, which it finds by the headless Service's name."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from sealserve.addresses import Address
from sealserve.gateway import GatewayPort, Nginx, render_nginx
from sealserve.kubernetes.plan import Plan
from sealserve.kubernetes.pods import (
    DRAIN_SECONDS,
    container_security,
    disruption_budget,
    drain,
    pod_security,
    rolling_update,
    service_account,
    spread,
)
from sealserve.kubernetes.yaml_text import Comment, Object

_USER = 101  # nginx's own in its images
_COUNT = 2
_RUNTIME = "/run/nginx"
_CONFIGURATION = "/etc/sealserve"
_SHUTDOWN_SECONDS = 30
_NGINX = Nginx(Path("nginx"), (1, 27, 3), stream_module=None)
"""What the image has to be: names are looked up again from 1.27.3 on, and nginx's images have stream built in."""


def nginx_objects(plan: Plan) -> list[Object]:
    """nginx's account, configuration, Deployment, budget and Service."""
    configuration = _configuration(plan)
    return [
        service_account(plan, plan.edge, "edge"),
        plan.object("v1", "ConfigMap", plan.edge, "edge", data={"nginx.conf": configuration}),
        _deployment(plan, digest=sha256(configuration.encode()).hexdigest()[:16]),
        disruption_budget(plan, plan.edge, "edge"),
        _service(plan),
    ]


def _configuration(plan: Plan) -> str:
    stable, *canary = (f"{track.service}.{plan.namespace}.svc.cluster.local" for track in plan.tracks)
    ports = {
        name: GatewayPort(
            Address("0.0.0.0", port),  # noqa: S104 - of the pod
            [Address(stable, port)],
            [Address(host, port) for host in canary],
        )
        for name, port in plan.ports.items()
    }
    return render_nginx(
        nginx=_NGINX,
        grpc=ports["grpc"],
        rest=ports.get("rest"),
        server_name=plan.deployment.tls.server_name,
        runtime_dir=Path(_RUNTIME),
        user=None,
        connections=4000,
        shutdown_seconds=_SHUTDOWN_SECONDS,
        canary_percent=0 if plan.section.canary is None else plan.section.canary.weight,
        resolver=Address(plan.section.edge.resolver, 53),
        access_log=Path("/dev/stdout"),
        probed=True,  # by kubelet
    )


def _deployment(plan: Plan, *, digest: str) -> Object:
    container = {
        "name": "nginx",
        "image": plan.section.edge.image,
        "command": ["nginx", "-e", "stderr", "-p", _RUNTIME, "-c", f"{_CONFIGURATION}/nginx.conf"],
        "ports": [{"name": name, "containerPort": port} for name, port in plan.ports.items()],
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": container_security(),
        Comment(
            "nginx listens when it has read its configuration; whether there are replicas is not its readiness."
        ): None,
        "readinessProbe": {"tcpSocket": {"port": "grpc"}, "periodSeconds": 2, "failureThreshold": 2},
        "livenessProbe": {"tcpSocket": {"port": "grpc"}, "periodSeconds": 10, "failureThreshold": 6},
        "lifecycle": drain(),
        "volumeMounts": [
            {"name": "configuration", "mountPath": _CONFIGURATION, "readOnly": True},
            {"name": "run", "mountPath": _RUNTIME},
        ],
    }
    pod = {
        "serviceAccountName": plan.edge,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(_USER),
        "terminationGracePeriodSeconds": DRAIN_SECONDS + _SHUTDOWN_SECONDS + 10,
        "topologySpreadConstraints": spread(plan, "edge"),
        "containers": [container],
        "volumes": [
            {"name": "configuration", "configMap": {"name": plan.edge}},
            {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        ],
    }
    annotations = {
        Comment("Changes with the configuration, which nginx reads at its start."): None,
        "sealserve.dev/configuration": digest,
    }
    spec = {
        "replicas": _COUNT,
        "strategy": rolling_update(),
        "selector": {"matchLabels": plan.labels("edge")},
        "template": {"metadata": {"labels": plan.all_labels("edge"), "annotations": annotations}, "spec": pod},
    }
    return plan.object("apps/v1", "Deployment", plan.edge, "edge", spec=spec)


def _service(plan: Plan) -> Object:
    kind = plan.section.edge.service
    local: Object = {}
    if kind != "ClusterIP":
        local = {
            Comment("nginx bounds the connections of one address, and has to see it."): None,
            "externalTrafficPolicy": "Local",
        }
    return plan.object(
        "v1",
        "Service",
        plan.name,
        "edge",
        spec={
            "type": kind,
            **local,
            "selector": plan.labels("edge"),
            "ports": [{"name": name, "port": port, "targetPort": name} for name, port in plan.ports.items()],
        },
    )
