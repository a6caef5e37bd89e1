"""How far the rollout of a Deployment is, as its status says it.

Source: https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#deployment-status.
"""

from __future__ import annotations

from sealserve.kubernetes.yaml_text import Object


def unfinished(deployment: Object) -> str | None:
    """What a rollout still waits for, in a few words; nothing if it is complete."""
    status, wanted = deployment.get("status", {}), deployment["spec"].get("replicas", 1)
    if not is_observed(deployment):
        return "its change is not seen yet"
    new, every = status.get("updatedReplicas", 0), status.get("replicas", 0)
    if new < wanted:
        return f"{new} of {wanted} new pods are made"
    if (available := min(status.get("availableReplicas", 0), new)) < wanted:
        return f"{available} of {wanted} pods are ready"
    if every > new:
        return f"{every - new} old pods have yet to leave"
    return None


def is_observed(deployment: Object) -> bool:
    """Whether the status is about the Deployment as it is."""
    return int(deployment.get("status", {}).get("observedGeneration", 0)) >= int(deployment["metadata"]["generation"])


def condition(deployment: Object, kind: str) -> Object:
    """A condition of a Deployment; empty if it has none of this kind."""
    found: list[Object] = deployment.get("status", {}).get("conditions", [])
    return next((each for each in found if each["type"] == kind), {})
