"""The Gateway API with Traefik as its controller, in a cluster for as long as a test needs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cluster.builds import TRAEFIK, module_directory
from cluster.cluster import Cluster
from cluster.images import program_image

NAME = "traefik"
"""Of its namespace, and of its GatewayClass."""

_GROUP = "gateway.networking.k8s.io"
_ROUTES = ("httproutes", "grpcroutes", "tcproutes", "tlsroutes")
_KINDS = ("gatewayclasses", "gateways", *_ROUTES, "referencegrants", "backendtlspolicies")
_READ = ["get", "list", "watch"]


@contextmanager
def traefik(cluster: Cluster, ports: dict[str, int]) -> Iterator[None]:
    """Kinds of the Gateway API, and a controller that serves them; at the end, nothing of it.

    :param ports: name → port on which it takes connections, at the node's address too.
    """
    # Of the experimental channel, which has TLSRoute in v1alpha2 as well: it is what Traefik 3.6 reads.
    definitions = module_directory("gateway-api", "sigs.k8s.io/gateway-api") / "config" / "crd" / "experimental"
    files = [f"--filename={definitions / f'{_GROUP}_{kind}.yaml'}" for kind in _KINDS]
    objects = _objects(cluster.add_image(program_image(cluster.program(TRAEFIK))), cluster.addresses.node, ports)
    try:
        cluster.kubectl("create", *files)
        cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", *files)
        cluster.apply(objects)
        cluster.kubectl("--namespace", NAME, "rollout", "status", f"deployment/{NAME}", "--timeout=120s")
        yield
    finally:
        cluster.kubectl("delete", "--ignore-not-found", "--timeout=100s", *files)
        cluster.kubectl("delete", "--ignore-not-found", f"clusterrole/{NAME}", f"clusterrolebinding/{NAME}")
        cluster.kubectl("delete", "--ignore-not-found", "--timeout=100s", f"namespace/{NAME}")


def _objects(image: str, address: str, ports: dict[str, int]) -> list[dict[str, Any]]:
    roles = "rbac.authorization.k8s.io"
    own = {"name": NAME, "namespace": NAME}
    rules = [
        {"apiGroups": [""], "resources": ["namespaces", "services", "secrets", "configmaps"], "verbs": _READ},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": _READ},
        {"apiGroups": [_GROUP], "resources": list(_KINDS), "verbs": _READ},
        {"apiGroups": [_GROUP], "resources": [f"{kind}/status" for kind in _KINDS], "verbs": ["update"]},
    ]
    container = {
        "name": NAME,
        "image": image,
        "args": [
            "--global.checknewversion=false",
            "--providers.kubernetesgateway=true",
            "--providers.kubernetesgateway.experimentalchannel=true",
            f"--providers.kubernetesgateway.statusaddress.ip={address}",
            *(f"--entrypoints.{name}.address=:{port}" for name, port in ports.items()),
        ],
        "ports": [{"name": name, "containerPort": port, "hostPort": port} for name, port in ports.items()],
        "readinessProbe": {"tcpSocket": {"port": next(iter(ports))}, "periodSeconds": 1},
    }
    labels = {"app": NAME}
    pod = {"serviceAccountName": NAME, "containers": [container], "terminationGracePeriodSeconds": 1}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAME}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": own},
        {"apiVersion": f"{roles}/v1", "kind": "ClusterRole", "metadata": {"name": NAME}, "rules": rules},
        {
            "apiVersion": f"{roles}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": NAME},
            "roleRef": {"apiGroup": roles, "kind": "ClusterRole", "name": NAME},
            "subjects": [{"kind": "ServiceAccount", **own}],
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": own,
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
        {
            "apiVersion": f"{_GROUP}/v1",
            "kind": "GatewayClass",
            "metadata": {"name": NAME},
            "spec": {"controllerName": "traefik.io/gateway-controller"},
        },
    ]
