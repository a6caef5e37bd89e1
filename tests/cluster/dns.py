"""CoreDNS as clusters have it: two pods would be usual, here it is one, with its Corefile in a ConfigMap."""

from __future__ import annotations

from typing import Any

from cluster.addresses import DOMAIN, Addresses
from cluster.node import NODE

NAMESPACE = "kube-system"
CONFIG_MAP = "coredns"
SERVICE = "kube-dns"

COREFILE = f"""\
.:53 {{
    errors
    health {{
       lameduck 5s
    }}
    ready
    kubernetes {DOMAIN} in-addr.arpa ip6.arpa {{
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 5
    }}
    prometheus :9153
    forward . /etc/resolv.conf {{
       max_concurrent 1000
    }}
    cache 5 {{
       disable success {DOMAIN}
       disable denial {DOMAIN}
    }}
    reload 2s 1s
    loadbalance
}}
"""
"""As kubeadm makes it, but for shorter times, which tests wait for, and no ``loop``: there is no resolver above."""

_LABELS = {"k8s-app": "kube-dns"}


def dns_objects(addresses: Addresses, image: str) -> list[dict[str, Any]]:
    """The objects, for ``kubectl apply``."""

    def named(api_version: str, kind: str, name: str, **content: Any) -> dict[str, Any]:
        metadata = {"name": name, "labels": _LABELS}
        if not kind.startswith("Cluster"):
            metadata["namespace"] = NAMESPACE
        return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **content}

    rules = [
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"}
    subjects = [{"kind": "ServiceAccount", "name": "coredns", "namespace": NAMESPACE}]
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]
    return [
        named("v1", "ServiceAccount", "coredns"),
        named("rbac.authorization.k8s.io/v1", "ClusterRole", "system:coredns", rules=rules),
        named("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "system:coredns", roleRef=role, subjects=subjects),
        named("v1", "ConfigMap", CONFIG_MAP, data={"Corefile": COREFILE}),
        named(
            "apps/v1",
            "Deployment",
            "coredns",
            spec={
                "replicas": 1,
                "selector": {"matchLabels": _LABELS},
                "template": {"metadata": {"labels": _LABELS}, "spec": _pod(image)},
            },
        ),
        named("v1", "Service", SERVICE, spec={"clusterIP": addresses.dns, "selector": _LABELS, "ports": ports}),
    ]


def _pod(image: str) -> dict[str, Any]:
    container = {
        "name": "coredns",
        "image": image,
        "args": ["-conf", "/etc/coredns/Corefile"],
        "ports": [{"containerPort": 53, "name": "dns", "protocol": "UDP"}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
    }
    return {
        "serviceAccountName": "coredns",
        "priorityClassName": "system-cluster-critical",
        "dnsPolicy": "Default",
        "nodeSelector": {"kubernetes.io/hostname": NODE},
        "tolerations": [{"operator": "Exists"}],
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": CONFIG_MAP}}],
    }
