"""What is wrong with nodes, in words: what they are short of, and taints that pods do not tolerate.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/ and
https://kubernetes.io/docs/reference/labels-annotations-taints/.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sealserve.kubernetes.live.kinds import names
from sealserve.kubernetes.live.progress_of import condition
from sealserve.kubernetes.yaml_text import Object

UNNAMED_TAINTS = "untolerated taint(s)"
"""What the scheduler of Kubernetes 1.36 says in the place of naming them."""

_PRESSURES = {
    "DiskPressure": "short of disk (DiskPressure)",
    "MemoryPressure": "short of memory (MemoryPressure)",
    "PIDPressure": "short of process numbers (PIDPressure)",
}
_TAINTS = {
    "node.kubernetes.io/disk-pressure": _PRESSURES["DiskPressure"],
    "node.kubernetes.io/memory-pressure": _PRESSURES["MemoryPressure"],
    "node.kubernetes.io/pid-pressure": _PRESSURES["PIDPressure"],
    "node.kubernetes.io/not-ready": "not ready",
    "node.kubernetes.io/unreachable": "not reachable",
    "node.kubernetes.io/unschedulable": "cordoned",
    "node.kubernetes.io/network-unavailable": "without a network",
}


def pressure(node: Object) -> str | None:
    """What a node is short of; None if it is not."""
    found = [words for kind, words in _PRESSURES.items() if condition(node, kind).get("status") == "True"]
    return " and ".join(found) or None


def refusing(nodes: Iterable[Object], pod: Object) -> str | None:
    """Which nodes have taints that keep a pod away, each with its cause; None if none has.

    :param pod: its ``spec``.
    """
    found: dict[str, list[str]] = {}
    for node in nodes:
        if taints := untolerated(node, pod):
            cause = " and ".join(dict.fromkeys(map(_words, taints)))
            found.setdefault(cause, []).append(str(node["metadata"]["name"]))
    told = [
        f"node{'s' if len(those) > 1 else ''} {names(those)} {'are' if len(those) > 1 else 'is'} {cause}"
        for cause, those in found.items()
    ]
    return "; ".join(told) or None


def untolerated(node: Object, pod: Object) -> list[Object]:
    """A node's taints that keep a pod away. :param pod: its ``spec``."""
    tolerations = pod.get("tolerations") or ()
    return [
        taint
        for taint in node.get("spec", {}).get("taints") or ()
        if taint.get("effect") != "PreferNoSchedule"
        and not any(_tolerates(toleration, taint) for toleration in tolerations)
    ]


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return bool(toleration.get("key") == taint["key"] and toleration.get("value", "") == taint.get("value", ""))


def _words(taint: Object) -> str:
    value = f"={taint['value']}" if taint.get("value") else ""
    return _TAINTS.get(taint["key"]) or f"tainted {taint['key']}{value}:{taint.get('effect')}"
