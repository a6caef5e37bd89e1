"""What is wrong with nodes is told in words that say which, and why."""

from __future__ import annotations

from typing import Any

import pytest

from sealserve.kubernetes.live.node_trouble import pressure, refusing

DISK = {"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"}
GPU = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}
LOST = [{"key": "node.kubernetes.io/unreachable", "effect": effect} for effect in ("NoSchedule", "NoExecute")]
SHORT = "short of disk (DiskPressure)"


def _node(number: int, *taints: dict[str, str], **conditions: str) -> dict[str, Any]:
    found = [{"type": kind, "status": value} for kind, value in conditions.items()]
    spec = {"taints": list(taints)} if taints else {}
    return {"metadata": {"name": f"node-{number}"}, "spec": spec, "status": {"conditions": found}}


@pytest.mark.parametrize(
    ("conditions", "told"),
    [
        ({"DiskPressure": "True", "MemoryPressure": "False", "Ready": "True"}, SHORT),
        ({"PIDPressure": "True", "MemoryPressure": "True"}, "short of memory (MemoryPressure) and short of process"),
        ({"DiskPressure": "Unknown", "Ready": "Unknown"}, None),
        ({}, None),
    ],
)
def test_a_node_says_what_it_is_short_of(conditions: dict[str, str], told: str | None) -> None:
    found = pressure(_node(1, **conditions))
    assert (found or "").startswith(told or "")
    assert (found is None) == (told is None)


def test_nodes_that_keep_a_pod_away_are_named_with_the_cause() -> None:
    nodes = [
        _node(1, DISK),
        _node(2),
        _node(3, DISK, GPU),
        _node(4, *LOST),
        *(_node(each, GPU) for each in range(5, 11)),
    ]
    told = refusing(nodes, {})
    assert told is not None
    assert told.split("; ") == [
        f"node node-1 is {SHORT}",
        f"node node-3 is {SHORT} and tainted gpu=yes:NoSchedule",
        "node node-4 is not reachable",
        "nodes node-5, node-6, node-7, node-8 and 2 more are tainted gpu=yes:NoSchedule",
    ]


@pytest.mark.parametrize(
    ("toleration", "kept_away"),
    [
        ({"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}, False),
        ({"key": "gpu", "operator": "Exists"}, False),
        ({"operator": "Exists"}, False),
        ({"key": "gpu", "value": "no"}, True),
        ({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}, True),
    ],
)
def test_a_taint_that_is_tolerated_keeps_nobody_away(toleration: dict[str, str], kept_away: bool) -> None:
    assert (refusing([_node(1, GPU)], {"tolerations": [toleration]}) is not None) == kept_away


def test_a_taint_that_only_discourages_keeps_nobody_away() -> None:
    assert refusing([_node(1, GPU | {"effect": "PreferNoSchedule"})], {}) is None
