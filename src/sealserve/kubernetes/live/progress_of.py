"""How far the rollout of a Deployment is, as its status says it.

Source: https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#deployment-status.
"""

from __future__ import annotations

from collections.abc import Iterable

from sealserve.kubernetes.yaml_text import Object


def unfinished(deployment: Object) -> str | None:
    """What a rollout still waits for, in a few words; nothing if it is complete."""
    status, wanted = deployment.get("status", {}), deployment["spec"].get("replicas", 1)
    if not is_observed(deployment):
        return "its change is not seen yet"
    new, every = status.get("updatedReplicas", 0), status.get("replicas", 0)
    if new < wanted:
        return f"{new} of {wanted} new pods are made"
    # Not availableReplicas: what minReadySeconds waits for is the next step of a rollout, which says so itself.
    if (ready := min(status.get("readyReplicas", 0), new)) < wanted:
        return f"{ready} of {wanted} pods are ready"
    if every > new:
        return f"{every - new} old pods have yet to leave"
    return None


def all_unfinished(deployments: Iterable[Object]) -> str | None:
    """What several rollouts wait for; where there is more than one Deployment, by its name."""
    found = {each["metadata"]["name"]: unfinished(each) for each in deployments}
    told = [f"{name}: {why}" if len(found) > 1 else why for name, why in found.items() if why is not None]
    return "; ".join(told) or None


def is_observed(deployment: Object) -> bool:
    """Whether the status is about the Deployment as it is."""
    return int(deployment.get("status", {}).get("observedGeneration", 0)) >= int(deployment["metadata"]["generation"])


def condition(thing: Object, kind: str) -> Object:
    """A condition of a Deployment or a pod; empty if it has none of this kind."""
    found: list[Object] = thing.get("status", {}).get("conditions") or []
    return next((each for each in found if each.get("type") == kind), {})
