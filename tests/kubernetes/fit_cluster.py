"""A cluster that is fit for every deployment of the tests, as its API tells of it."""

from __future__ import annotations

from typing import Any

from api_server import ApiServer
from corefiles import KUBEADM


def fit_cluster(server: ApiServer) -> None:
    """Put the cluster's objects into ``server``."""
    server.objects |= {
        "/api/v1/nodes": [node("a"), node("b")],
        "/api/v1/pods": [],
        "/api/v1/services": [],
        "/apis/apps/v1/daemonsets": [_named("calico-node", "kube-system")],
        "/api/v1/namespaces/photos": _namespace("photos"),
        "/api/v1/namespaces/serving": _namespace("serving"),
        "/api/v1/namespaces/kube-system/services/kube-dns": {"spec": {}},
        "/api/v1/namespaces/openshift-dns/services/dns-default": {"spec": {}},
        "/api/v1/namespaces/kube-system/configmaps/coredns": {"data": {"Corefile": KUBEADM}},
        "/api/v1/namespaces/photos/persistentvolumeclaims/sealed-model": {
            "spec": {"accessModes": ["ReadOnlyMany"]},
            "status": {"phase": "Bound"},
        },
        **_apis(
            ("metrics.k8s.io/v1beta1", ["pods"]),
            ("gateway.networking.k8s.io/v1", ["gateways", "gatewayclasses", "tlsroutes"]),
            ("k8s.nginx.org/v1", ["transportservers"]),
        ),
        "/apis/gateway.networking.k8s.io/v1/gatewayclasses/nginx": {
            "spec": {"controllerName": "gateway.nginx.org/nginx-gateway-controller"},
            "status": {"conditions": [{"type": "Accepted", "status": "True"}]},
        },
        "/apis/networking.k8s.io/v1/ingressclasses/nginx": {"spec": {}},
        "/apis/apps/v1/namespaces/nginx-ingress/daemonsets": [],
        "/apis/apps/v1/namespaces/nginx-ingress/deployments": [
            {"spec": {"template": {"spec": {"containers": [{"args": ["-enable-tls-passthrough"]}]}}}}
        ],
    }
    server.answers |= {
        ("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews"): lambda _, __: (
            201,
            {"status": {"userInfo": {"username": "ops"}}},
        ),
        ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"): lambda _, __: (
            201,
            {"status": {"allowed": True}},
        ),
    }
    for namespace in ("photos", "serving"):
        server.answers["POST", f"/api/v1/namespaces/{namespace}/pods"] = lambda query, _: (
            (403, {"message": 'pods "x" is forbidden: violates PodSecurity "restricted:latest": privileged'})
            if query.get("dryRun") == ["All"]
            else (201, {})
        )


def node(name: str, **allocatable: str) -> dict[str, Any]:
    """A node that is ready and free."""
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/arch": "amd64"}},
        "spec": {"providerID": f"azure:///{name}"},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "nodeInfo": {"kubeletVersion": "v1.36.3"},
            "allocatable": {
                "cpu": "15890m",
                "memory": "64Gi",
                "pods": "110",
                "sgx.intel.com/epc": "32Gi",
                "sgx.intel.com/enclave": "110",
                "sgx.intel.com/provision": "110",
                **allocatable,
            },
        },
    }


def pod_on(node: str, namespace: str = "others", **requests: str) -> dict[str, Any]:
    """A pod of somebody else."""
    return {
        "metadata": {"name": "p", "namespace": namespace},
        "spec": {"nodeName": node, "containers": [{"name": "c", "resources": {"requests": requests}}]},
        "status": {"phase": "Running"},
    }


def _namespace(name: str) -> dict[str, Any]:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"metadata": {"name": name, "labels": labels}, "status": {"phase": "Active"}}


def _named(name: str, namespace: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace}}


def _apis(*served: tuple[str, list[str]]) -> dict[str, Any]:
    return {f"/apis/{version}": {"resources": [{"name": name} for name in names]} for version, names in served}
