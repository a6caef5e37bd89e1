"""Where each replica is on its way to serving, and why it is not further.

From the pod as the API server knows it, and, where that does not say enough, from the last lines of its log
(``pods/log``) and from the pod's events. None of it is trusted: whoever runs a node can say what it likes of its pods.
Whether a replica is what it should be is for the key broker and for clients to find out.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sealserve.errors import UnavailableError
from sealserve.kubernetes.live.api import Cluster
from sealserve.kubernetes.live.errors import ClusterRefusedError, ForbiddenError
from sealserve.kubernetes.live.image_trouble import image_trouble
from sealserve.kubernetes.live.kinds import EVENT, POD
from sealserve.kubernetes.live.progress_of import condition
from sealserve.kubernetes.live.said import Said, last_said
from sealserve.kubernetes.plan import CANARY, COMPONENT_LABEL, Plan
from sealserve.kubernetes.yaml_text import Object

CONTAINER = "replica"
_ASK_AGAIN_SECONDS = 3.0
_MOST_ASKED = 10
_LINES = 20


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


class Reporter:
    """Reads replicas' states again and again, and asks for logs and events no more often than is useful: each look
    takes the logs of ten pods at most, and each log and the list of events are asked for once in three seconds. Does
    without what it may not read.

    :param cluster: read from. :param plan: whose replicas.
    """

    def __init__(self, cluster: Cluster, plan: Plan) -> None:
        self._cluster = cluster
        self._plan = plan
        self._logs: dict[tuple[str, int], tuple[float, str | None]] = {}
        self._events: tuple[float, dict[str, Object]] = (float("-inf"), {})
        self._may_read_logs = self._may_read_events = True

    def states(self, pods: Iterable[Object] | None = None) -> list[ReplicaState]:
        """Of all replicas, or of these pods, in the order of their names."""
        if pods is None:
            pods = self._cluster.list(POD, namespace=self._plan.namespace, labels=self._plan.every_replica)
        pods = sorted(pods, key=lambda pod: str(pod["metadata"].get("name")))
        self._ask_for_logs(pods)
        return [self._state(pod) for pod in pods]

    def _state(self, pod: Object) -> ReplicaState:
        state = replica_state(pod)
        if _is_silent(pod, state):
            return replica_state(pod, log=self._logs.get(_run_of(pod), (0, None))[1])
        if state.state in {State.STARTING, State.PENDING} and state.node is not None:
            return replica_state(pod, event=self._last_events().get(str(pod["metadata"].get("uid"))))
        return state

    def _ask_for_logs(self, pods: list[Object]) -> None:
        """Of the pods that do not say themselves what they wait for: by turns, and those first that are not ready for
        longest.
        """
        silent = [pod for pod in pods if _is_silent(pod, replica_state(pod))]
        asked = {run: self._logs.get(run, (float("-inf"), None)) for run in map(_run_of, silent)}
        self._logs = {run: found for run, found in asked.items() if run in self._logs}
        now, lost = time.monotonic(), set()
        due = [pod for pod in silent if now - asked[_run_of(pod)][0] >= _ASK_AGAIN_SECONDS]
        for pod in sorted(due, key=lambda pod: (asked[_run_of(pod)][0], _unready_since(pod)))[:_MOST_ASKED]:
            node = pod.get("spec", {}).get("nodeName")
            if not self._may_read_logs or node in lost:
                continue
            text = None
            try:
                text = self._log(pod)
            except ForbiddenError:
                self._may_read_logs = False
            except ClusterRefusedError:
                pass  # it is gone, or its container has not begun
            except UnavailableError:
                lost.add(node)
            self._logs[_run_of(pod)] = (time.monotonic(), text)

    def _log(self, pod: Object) -> str:
        metadata = pod["metadata"]
        return self._cluster.logs(
            str(metadata.get("name")), namespace=self._plan.namespace, container=CONTAINER, tail=_LINES, quick=True
        )

    def _last_events(self) -> dict[str, Object]:
        asked, found = self._events
        if self._may_read_events and time.monotonic() - asked >= _ASK_AGAIN_SECONDS:
            try:
                events = self._cluster.list(
                    EVENT, namespace=self._plan.namespace, fields={"involvedObject.kind": "Pod"}
                )
                found = {
                    str(event.get("involvedObject", {}).get("uid")): event for event in sorted(events, key=_event_time)
                }
            except ForbiddenError:
                self._may_read_events = False
            self._events = (time.monotonic(), found)
        return found


def replica_state(pod: Object, *, log: str | None = None, event: Object | None = None) -> ReplicaState:
    """The state of a replica, from its pod alone as far as that says it.

    :param log: the last lines of its container. :param event: the last one of the pod.
    """
    container = _container(pod)
    state, reason, since = _judge(pod, container, log, event)
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
_DISRUPTIONS = {
    "PreemptionByScheduler": "preempted: a pod of higher priority needs its place",
    "DeletionByTaintManager": "its node is lost or tainted",
    "EvictionByEvictionAPI": "evicted, as when its node is drained",
    "DeletionByPodGC": "its node is gone",
    "TerminationByKubelet": "ended by its node",
}


def _judge(pod: Object, container: Object, log: str | None, event: Object | None) -> _Judgement:
    metadata, status = pod["metadata"], pod.get("status", {})
    if metadata.get("deletionTimestamp"):
        return State.LEAVING, _disruption(pod), None
    if status.get("phase") == "Failed":
        # Of a node that was full, or too short of a device, or that shut down.
        words = ": ".join(filter(None, (status.get("reason"), status.get("message")))) or _disruption(pod)
        return State.FAILED, words or _end(container.get("state", {}).get("terminated", {}))[1], None
    ready = condition(pod, "Ready")
    if ready.get("status") == "True":
        return State.SERVING, None, ready.get("lastTransitionTime")
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        waits = scheduled.get("reason") == "Unschedulable"
        state = State.UNSCHEDULABLE if waits else State.PENDING
        return state, scheduled.get("message") or scheduled.get("reason"), scheduled.get("lastTransitionTime")
    if not pod.get("spec", {}).get("nodeName"):
        return State.PENDING, "no node is chosen yet", None
    for each in (*status.get("initContainerStatuses", []), container):
        if (found := _judge_container(each, log, event, ready)) is not None:
            return found
    return State.PENDING, _event_text(event) or "its node has not begun with it", None


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


def _disruption(pod: Object) -> str | None:
    target = condition(pod, "DisruptionTarget")
    if target.get("status") != "True":
        return None
    return _DISRUPTIONS.get(target.get("reason", "")) or target.get("message")


def _container(pod: Object) -> Object:
    """The status of the replica's container; empty if there is none yet."""
    found: list[Object] = pod.get("status", {}).get("containerStatuses", [])
    return next((each for each in found if each.get("name") == CONTAINER), {})


def _is_silent(pod: Object, state: ReplicaState) -> bool:
    """Whether only its log can say what it does."""
    return state.state is State.STARTING and bool(_container(pod).get("state", {}).get("running"))


def _run_of(pod: Object) -> tuple[str, int]:
    return str(pod["metadata"].get("uid")), int(_container(pod).get("restartCount", 0))


def _unready_since(pod: Object) -> str:
    return str(condition(pod, "Ready").get("lastTransitionTime") or pod["metadata"].get("creationTimestamp") or "")


def _event_text(event: Object | None) -> str | None:
    """What an event warns of. Others tell of steps that go well."""
    if event is None or event.get("type") != "Warning":
        return None
    return f"{event.get('reason')}: {event.get('message')}"


def _event_time(event: Object) -> str:
    return str(
        event.get("lastTimestamp") or event.get("eventTime") or event.get("metadata", {}).get("creationTimestamp") or ""
    )


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
