"""Where each replica is on its way to serving, and why it is not further.

From the pod as the API server knows it, and, where that does not say enough, from the last lines of its log
(``pods/log``), from the pod's events, and from nodes. None of it is trusted: whoever runs a node can say what it likes
of its pods. Whether a replica is what it should be is for the key broker and for clients to find out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sealserve.kubernetes.live.image_trouble import image_trouble
from sealserve.kubernetes.live.node_trouble import UNNAMED_TAINTS, pressure, refusing
from sealserve.kubernetes.live.pod_end import disruption, ending_event, is_over, told_end, untold_end
from sealserve.kubernetes.live.progress_of import condition
from sealserve.kubernetes.live.said import Said, last_said
from sealserve.kubernetes.plan import CANARY, COMPONENT_LABEL
from sealserve.kubernetes.yaml_text import Object

CONTAINER = "replica"


class State(StrEnum):
    """How far a replica is."""

    PENDING = "pending"
    UNSCHEDULABLE = "unschedulable"
    PULLING = "pulling"
    IMAGE_UNAVAILABLE = "image-unavailable"
    STARTING = "starting"
    WAITING_FOR_BROKER = "waiting-for-broker"
    REFUSED = "refused"
    SERVING = "serving"
    LEAVING = "leaving"
    FAILED = "failed"


@dataclass(frozen=True)
class ReplicaState:
    """A replica in a cluster.

    :ivar node: where it runs; None if that is not decided. :ivar reason: why it is not serving, for people, not yet
        made harmless for a terminal (:func:`~sealserve.logs.printable`). :ivar since: when the state began.
    :ivar template: hash of the pod template that it was made from (``pod-template-hash``).
    :ivar canary: whether it is one of those of the image that is tried.
    """

    pod: str
    uid: str | None
    node: str | None
    state: State
    reason: str | None
    ready: bool
    restarts: int
    since: datetime | None
    template: str | None
    image: str | None
    canary: bool = False


def replica_state(
    pod: Object, *, log: str | None = None, events: Sequence[Object] = (), nodes: Mapping[str, Object] | None = None
) -> ReplicaState:
    """The state of a replica, from its pod alone as far as that says it.

    :param log: the last lines of its container. :param events: of the pod, the last one last.
    :param nodes: by their names, those that something is wrong with.
    """
    container = container_of(pod)
    state, reason, since = _judge(pod, container, log, events, nodes or {})
    spec, metadata = pod.get("spec", {}), pod["metadata"]
    images = [each.get("image") for each in spec.get("containers", []) if each.get("name") == CONTAINER]
    return ReplicaState(
        pod=str(metadata.get("name")),
        uid=metadata.get("uid"),
        node=spec.get("nodeName"),
        state=state,
        reason=reason,
        ready=condition(pod, "Ready").get("status") == "True",
        restarts=int(container.get("restartCount", 0)),
        since=_deleted(metadata) if state is State.LEAVING else _moment(since or metadata.get("creationTimestamp")),
        template=metadata.get("labels", {}).get("pod-template-hash"),
        image=images[0] if images else None,
        canary=metadata.get("labels", {}).get(COMPONENT_LABEL) == CANARY,
    )


def creation_failure(deployment: Object) -> str | None:
    """Why the cluster makes no pods of a Deployment, if it says so: Pod Security, a quota, an admission webhook."""
    failure = condition(deployment, "ReplicaFailure")
    if failure.get("status") != "True":
        return None
    return str(failure.get("message") or failure.get("reason"))


_Judgement = tuple[State, str | None, str | None]

_NO_IMAGE = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
        "ImageVolumeMountFailed",
    }
)
NOT_YET = frozenset({"ContainerCreating", "PodInitializing"})
"""Why containers wait where nothing is wrong."""


def _judge(
    pod: Object, container: Object, log: str | None, events: Sequence[Object], nodes: Mapping[str, Object]
) -> _Judgement:
    metadata, status = pod["metadata"], pod.get("status", {})
    if metadata.get("deletionTimestamp"):
        return State.LEAVING, disruption(pod), None
    ready = condition(pod, "Ready")
    if is_over(pod):
        return State.FAILED, _end_of_pod(pod, container, events, nodes), ready.get("lastTransitionTime")
    if ready.get("status") == "True":
        return State.SERVING, None, ready.get("lastTransitionTime")
    if (ending := ending_event(events)) is not None:
        return State.FAILED, ending, ready.get("lastTransitionTime")
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        state = State.UNSCHEDULABLE if scheduled.get("reason") == "Unschedulable" else State.PENDING
        words = scheduled.get("message") or scheduled.get("reason")
        if UNNAMED_TAINTS in str(words) and (which := refusing(nodes.values(), pod.get("spec", {}))) is not None:
            words = f"{str(words).rstrip('.')}; {which}"
        return state, words, scheduled.get("lastTransitionTime")
    if not pod.get("spec", {}).get("nodeName"):
        return State.PENDING, "no node is chosen yet", None
    last_event = events[-1] if events else None
    for each in (*status.get("initContainerStatuses", []), container):
        if (found := _judge_container(each, log, last_event, ready)) is not None:
            return found
    return State.PENDING, _event_text(last_event) or "its node has not begun with it", None


def _judge_container(container: Object, log: str | None, event: Object | None, ready: Object) -> _Judgement | None:
    """None if nothing keeps the pod at this container: one of the initial ones that is done, or one that is not yet
    known of."""
    now, last = container.get("state", {}), container.get("lastState", {}).get("terminated")
    if running := now.get("running"):
        if container.get("name") != CONTAINER:
            return State.STARTING, None, running.get("startedAt")
        return _judge_running(container, running, last, log, ready)
    if (ended := now.get("terminated")) is not None:
        done = ended.get("exitCode") == 0 and container.get("name") != CONTAINER
        return None if done else (*_end(ended), ended.get("finishedAt"))
    waiting = now.get("waiting", {})
    why, message = waiting.get("reason"), waiting.get("message")
    if why in _NO_IMAGE:
        return State.IMAGE_UNAVAILABLE, image_trouble(why, str(message or ""), str(container.get("image"))), None
    if last is not None:
        return *_end(last), last.get("finishedAt")
    if why in NOT_YET:
        if event is not None and event.get("reason") == "Pulling":
            return State.PULLING, event.get("message"), event.get("lastTimestamp")
        return State.STARTING, _event_text(event), None
    return (State.FAILED, f"{why}: {message}" if message else why, None) if why else None


def _judge_running(
    container: Object, running: Object, last: Object | None, log: str | None, ready: Object
) -> _Judgement:
    started = running.get("startedAt")
    if container.get("ready"):
        return State.FAILED, "its node does not answer", ready.get("lastTransitionTime")
    if container.get("started") and str(ready.get("lastTransitionTime") or "") > str(started):
        return State.FAILED, "it served, and does not answer any more", ready.get("lastTransitionTime")
    said = None if log is None else last_said(log)
    if said is None:
        before = None if last is None else f"started again after: {_end(last)[1]}"
        return State.STARTING, before, started
    return _STATES[said.doing], said.reason, started


_STATES = {
    "waiting": State.WAITING_FOR_BROKER,
    "refused": State.REFUSED,
    "loading": State.STARTING,
    "ended": State.FAILED,
}


def _end(terminated: Object) -> tuple[State, str]:
    """What ended a container."""
    code, why = terminated.get("exitCode"), terminated.get("reason")
    if why == "OOMKilled":
        return State.FAILED, "OOMKilled: it needed more memory than it may use (resources.memory)"
    said = last_said(str(terminated.get("message") or ""), ended=True) or Said("ended", "")
    words = said.reason or f"it ended with exit code {code}"
    if why not in (None, "Error", "Completed"):
        words = f"{why}: {words}"
    return (State.REFUSED if said.doing == "refused" else State.FAILED), words


def _end_of_pod(pod: Object, container: Object, events: Sequence[Object], nodes: Mapping[str, Object]) -> str:
    if (told := told_end(pod, events)) is not None:
        return told
    terminated = container.get("state", {}).get("terminated", {})
    node = nodes.get(str(pod.get("spec", {}).get("nodeName")), {})
    return untold_end(pressure(node), _end(terminated)[1] if terminated.get("exitCode") else None)


def container_of(pod: Object) -> Object:
    """The status of the replica's container; empty if there is none yet."""
    found: list[Object] = pod.get("status", {}).get("containerStatuses", [])
    return next((each for each in found if each.get("name") == CONTAINER), {})


def _event_text(event: Object | None) -> str | None:
    """What an event warns of. Others tell of steps that go well."""
    if event is None or event.get("type") != "Warning":
        return None
    return f"{event.get('reason')}: {event.get('message')}"


def _deleted(metadata: Object) -> datetime | None:
    """When the pod was deleted: its ``deletionTimestamp`` is the end of the time that it has to finish."""
    end, grace = _moment(metadata["deletionTimestamp"]), metadata.get("deletionGracePeriodSeconds")
    if end is None or not isinstance(grace, int):
        return end
    try:
        return end - timedelta(seconds=grace)
    except OverflowError:
        return end


def _moment(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None
