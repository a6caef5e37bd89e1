"""Nodes: which can run replicas, and how many fit on them beside what runs there already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from sealserve.deploy.doctor import Finding
from sealserve.kubernetes.live.doctor.question import Question, condition
from sealserve.kubernetes.live.kinds import names
from sealserve.kubernetes.live.node_trouble import untolerated
from sealserve.kubernetes.yaml_text import Object

ARCHITECTURE = "amd64"
"""Of images of sealserve: Gramine, and what is measured, are for x86-64."""


def examine_nodes(question: Question) -> Iterator[Finding]:
    """Nodes that are ready, of the right architecture, with room for the replicas."""
    nodes = question.nodes
    ready = ready_nodes(question)
    if not ready:
        yield Finding("nodes", "problem", f"none of {len(nodes)} nodes is ready", "kubectl describe nodes")
        return
    level_text = f"{len(ready)} of {len(nodes)} nodes are ready"
    yield Finding("nodes", "ok" if len(ready) == len(nodes) else "warning", level_text)
    others = [_name(node) for node in ready if _architecture(node) != ARCHITECTURE]
    if len(others) == len(ready):
        yield Finding("architecture", "problem", f"no node is {ARCHITECTURE}, which images are for", "Add such nodes.")
        return
    if others:
        text = f"{names(others)} {'is' if len(others) == 1 else 'are'} not {ARCHITECTURE}: pods fail there"
        yield Finding("architecture", "warning", text, "Taint them, or use images that have their architecture too.")
    else:
        yield Finding("architecture", "ok", f"they are {ARCHITECTURE}")
    yield from _room(question)


def _room(question: Question) -> Iterator[Finding]:
    fitting = fitting_replicas(question)
    total, wanted = sum(fitting.values()), question.wanted
    asked = ", ".join(f"{amount} {name}" for name, amount in _shown(question.replica).items())
    nodes = f"{len(fitting)} node{'' if len(fitting) == 1 else 's'}"
    text = f"{total} replicas fit on {nodes} (each asks for {asked}), and {wanted} are wanted"
    mend = "Add nodes, or ask for less: kubernetes.resources, replicas.count."
    if total < wanted:
        yield Finding("room", "problem", text, mend)
    elif total == wanted:
        yield Finding("room", "warning", f"{text}: a rolling update needs room for one more", mend)
    else:
        yield Finding("room", "ok", text)


def ready_nodes(question: Question) -> list[Object]:
    """Nodes that take pods."""
    return [
        node
        for node in question.nodes
        if condition(node, "Ready") == "True" and not node.get("spec", {}).get("unschedulable")
    ]


def fitting_replicas(question: Question) -> dict[str, int]:
    """How many replicas fit on each node that may run them, those that run there counted in.

    As the scheduler counts: what is allocatable, less what pods ask for.
    """
    asked = requests(question.replica) | {"pods": Decimal(1)}
    fitting = {}
    for node in ready_nodes(question):
        if _architecture(node) != ARCHITECTURE or untolerated(node, question.replica):
            continue
        left = room_left(question, node)
        fitting[_name(node)] = max(0, min(int(left.get(name, 0) // amount) for name, amount in asked.items() if amount))
    return fitting


def room_left(question: Question, node: Object) -> dict[str, Decimal]:
    """What of a node's resources nobody else has asked for."""
    left = {name: quantity(amount) for name, amount in node["status"].get("allocatable", {}).items()}
    own = [question.plan.labels(track.component).items() for track in question.plan.tracks]
    for pod in question.running:
        labels = (pod["metadata"].get("labels") or {}).items()
        is_own = pod["metadata"].get("namespace") == question.plan.namespace and any(each <= labels for each in own)
        if pod["spec"].get("nodeName") == _name(node) and not is_own:
            for name, amount in (requests(pod["spec"]) | {"pods": Decimal(1)}).items():
                left[name] = left.get(name, Decimal(0)) - amount
    return left


def requests(pod: Mapping[str, Any]) -> dict[str, Decimal]:
    """What a pod asks for in all: its containers together, or an init container alone if that asks for more."""
    together: dict[str, Decimal] = {}
    alone: dict[str, Decimal] = {}
    sidecars = [one for one in pod.get("initContainers") or () if one.get("restartPolicy") == "Always"]
    for container in [*pod["containers"], *sidecars]:
        for name, amount in _of_container(container).items():
            together[name] = together.get(name, Decimal(0)) + amount
    for container in pod.get("initContainers") or ():
        for name, amount in _of_container(container).items():
            alone[name] = max(alone.get(name, Decimal(0)), amount)
    return {name: max(together.get(name, Decimal(0)), alone.get(name, Decimal(0))) for name in {*together, *alone}}


def quantity(text: Any) -> Decimal:
    """A quantity of the API, such as ``500m`` or ``4Gi``."""
    return Decimal(parse_quantity(text))  # type: ignore[no-untyped-call]


def _of_container(container: Mapping[str, Any]) -> dict[str, Decimal]:
    asked = container.get("resources") or {}
    # What has a limit and no request is asked for as the limit says.
    both = {**(asked.get("limits") or {}), **(asked.get("requests") or {})}
    return {name: quantity(amount) for name, amount in both.items()}


def _shown(pod: Object) -> dict[str, str]:
    return dict(pod["containers"][0]["resources"]["requests"])


def _name(node: Object) -> str:
    return str(node["metadata"]["name"])


def _architecture(node: Object) -> str:
    return str((node["metadata"].get("labels") or {}).get("kubernetes.io/arch", ARCHITECTURE))
