"""Nodes without machines, by kwok (https://kwok.sigs.k8s.io): pods on them are ready at once and run nothing."""

from __future__ import annotations

from typing import Any

LABEL = {"type": "kwok"}
"""Of every such node; kwok looks after no others."""

TAINT = {"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}
"""Of nodes that only pods which tolerate it may come to."""


def fake_node(number: int, *, tainted: bool, resources: dict[str, str]) -> dict[str, Any]:
    """The Node object. :param resources: what it has beside CPU, memory and place for pods, as SGX's."""
    name = f"kwok-{number}"
    capacity = {"cpu": "64", "memory": "256Gi", "pods": "200", **resources}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {**LABEL, "kubernetes.io/hostname": name, "kubernetes.io/os": "linux"},
            "annotations": {"node.alpha.kubernetes.io/ttl": "0", "kwok.x-k8s.io/node": "fake"},
        },
        "spec": {"taints": [TAINT]} if tainted else {},
        "status": {"allocatable": capacity, "capacity": capacity},
    }
