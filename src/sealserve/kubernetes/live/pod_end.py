"""Why a node ended a pod that was to go on for ever, as far as anything says it.

kubelet tells it in the pod's status, and takes it back: when the containers of a pod that was evicted or rejected end
well, as replicas do, it calls the pod ``Succeeded``, without the reason and the message that it gave before (kubelet
1.36, ``generateAPIPodStatus``). What is left then is the condition ``DisruptionTarget`` of pods that were evicted, the
events, which the API server keeps for an hour, and what the node is short of now. Source of the condition:
https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions.
"""

from __future__ import annotations

from collections.abc import Sequence

from sealserve.kubernetes.live.progress_of import condition
from sealserve.kubernetes.yaml_text import Object

_DISRUPTIONS = {
    "PreemptionByScheduler": "preempted: a pod of higher priority needs its place",
    "DeletionByTaintManager": "its node is lost or tainted",
    "EvictionByEvictionAPI": "evicted, as when its node is drained",
    "DeletionByPodGC": "its node is gone",
}
_BY_NODE = "ended by its node"
_ENDING_EVENTS = frozenset(
    {
        "Evicted",
        "Preempting",
        "NodeShutdown",
        "NodeAffinity",
        "TopologyAffinityError",
        "UnexpectedAdmissionError",
    }
)
_SHORT_OF = "OutOf"
"""Begins the names of events of pods that a node has not got enough for, such as ``OutOfcpu``."""


def is_over(pod: Object) -> bool:
    """Whether a pod has ended for good: replicas that end by themselves are started again, so that its node did it."""
    return pod.get("status", {}).get("phase") in {"Failed", "Succeeded"}


def told_end(pod: Object, events: Sequence[Object] = ()) -> str | None:
    """What its status says of a pod's end, or its events, if one of them does.

    :param events: of the pod, the last one last.
    """
    status = pod.get("status", {})
    if words := ": ".join(filter(None, (status.get("reason"), status.get("message")))):
        return words.strip()
    return disruption(pod) or ending_event(events)


def ending_event(events: Sequence[Object]) -> str | None:
    """What the last event tells that says of a pod that its node ends it; None if none does. No such pod goes on.

    :param events: of the pod, the last one last.
    """
    for event in reversed(events):
        reason = str(event.get("reason"))
        if reason in _ENDING_EVENTS or reason.startswith(_SHORT_OF):
            return f"{reason}: {event.get('message')}".strip()
    return None


def untold_end(short_of: str | None, container: str | None) -> str:
    """What there is to say if neither does.

    :param short_of: what the pod's node is short of. :param container: how its container ended, if that was not well.
    """
    why = "which does not say why" if short_of is None else f"which is {short_of}"
    return f"{_BY_NODE}, {why}{'' if container is None else f'; {container}'}"


def disruption(pod: Object) -> str | None:
    """Why the cluster ends a pod that did nothing wrong; None if it does not."""
    target = condition(pod, "DisruptionTarget")
    if target.get("status") != "True":
        return None
    message = str(target.get("message") or "").strip()
    if target.get("reason") == "TerminationByKubelet":
        return f"{_BY_NODE}: {message}" if message else _BY_NODE
    return _DISRUPTIONS.get(target.get("reason", "")) or message or None
