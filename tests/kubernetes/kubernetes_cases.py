"""Deployments for clusters, of every kind of edge, tee and source of the model, and what is rendered from them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from sealserve.kubernetes import render_kubernetes

MODEL_SIZE = 100_000_000
AUTHORITY = "-----BEGIN CERTIFICATE-----\nbm90IG9uZQ==\n-----END CERTIFICATE-----\n"
REPLICA = "registry.example/team/classifier@sha256:" + 64 * "1"
CANARY = "registry.example/team/classifier@sha256:" + 64 * "4"
NGINX = "nginx:1.29@sha256:" + 64 * "2"

SMALLEST: dict[str, Any] = {
    "name": "photos",
    "model": {"name": "classifier", "path": "model"},
    "image": {"brokers": ["broker.example:4433"], "broker_ca": "ca.pem"},
    "kubernetes": {"image": REPLICA, "sealed_model": {"claim": "sealed-model"}, "edge": {"image": NGINX}},
}

# Kind of edge and tee → what is different from the smallest.
CASES: dict[str, dict[str, Any]] = {
    "nginx-simulated": {
        "gateway": {"rest_listen": "127.0.0.1:8501"},
        "image": {"brokers": ["photos-broker.serving.svc:4433"]},
        "kubernetes": {
            "namespace": "serving",
            "sealed_model": {"host_path": "/srv/sealed"},
            "broker": "192.0.2.10:4433",
        },
    },
    "nginx-sgx": {
        "tee": "sgx",
        "replicas": {"threads": 4},
        "kubernetes": {"edge": {"image": NGINX, "service": "ClusterIP", "resolver": "dns-default.openshift-dns.svc"}},
    },
    "gateway-sgx": {
        "tee": "sgx",
        "cloud": "azure-dcsv3",
        "gateway": {"rest_listen": "127.0.0.1:8501"},
        "tls": {"server_name": "classifier.example"},
        "kubernetes": {
            "sealed_model": {"image": REPLICA},
            "edge": {
                "kind": "gateway",
                "gateway": "photos",
                "gateway_class": "nginx",
                "controller_namespace": "photos",
            },
            "resources": {"cpu": "500m", "memory": "2Gi"},
            "autoscaling": {"min": 2, "max": 8},
        },
    },
    "gateway-simulated": {
        "tls": {"mode": "two-way"},
        "gateway": {"rest_listen": "127.0.0.1:8501"},
        "kubernetes": {"edge": {"kind": "gateway", "gateway": "shared", "controller_namespace": "traefik"}},
    },
    "transport-server-sgx": {
        "tee": "sgx",
        "cloud": "alibaba-g7t:cn-hangzhou",
        "model": {"engine": "tensorflow-serving"},
        "kubernetes": {"edge": {"kind": "transport-server", "controller_namespace": "nginx-ingress"}},
    },
    "nginx-canary-simulated": {
        "gateway": {"rest_listen": "127.0.0.1:8501"},
        "kubernetes": {
            "namespace": "serving",
            "canary": {"image": CANARY, "weight": 5, "count": 2},
            "monitoring": {"namespace": "monitoring", "labels": {"release": "prometheus"}},
            "autoscaling": {"min": 2, "max": 8, "requests": 8, "through": "prometheus"},
        },
    },
    "gateway-canary-sgx": {
        "tee": "sgx",
        "kubernetes": {
            "edge": {"kind": "gateway", "gateway": "shared", "controller_namespace": "traefik"},
            "canary": {"image": CANARY},
            "monitoring": {"namespace": "monitoring", "rules": False, "dashboard": False},
            "autoscaling": {
                "max": 8,
                "cpu": 80,
                "requests": 8,
                "through": "keda",
                "server": "http://prometheus-operated.monitoring.svc:9090",
            },
        },
    },
    "node-port-simulated": {
        "image": {"brokers": ["photos-broker.photos.svc.cluster.local:4433"]},
        "kubernetes": {"broker": "broker.owner.example:4433", "edge": {"kind": "node-port"}},
    },
}


def content(changes: dict[str, Any]) -> dict[str, Any]:
    """The smallest deployment with ``changes``; what chooses one of several is replaced as a whole."""
    return _merged(copy.deepcopy(SMALLEST), changes)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    for key, value in changes.items():
        whole = key in {"edge", "sealed_model"} or not isinstance(value, dict)
        base[key] = value if whole else _merged(base.get(key, {}), value)
    return base


def write_deployment(directory: Path, changes: dict[str, Any]) -> Path:
    """A ``deployment.yaml`` in ``directory``, with the authority of its brokers beside it."""
    (directory / "ca.pem").write_text(AUTHORITY)
    path = directory / "deployment.yaml"
    path.write_text(yaml.safe_dump(content(changes)))
    return path


def render(directory: Path, changes: dict[str, Any]) -> Path:
    """Where the deployment's objects were rendered to."""
    output = directory / "k8s"
    render_kubernetes(write_deployment(directory, changes), output, model_size=MODEL_SIZE)
    return output


def objects_in(output: Path) -> list[dict[str, Any]]:
    """All objects that the kustomization names."""
    names = yaml.safe_load((output / "kustomization.yaml").read_text())["resources"]
    return [found for name in names for found in yaml.safe_load_all((output / name).read_text())]


def of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [found for found in objects if found["kind"] == kind]
