"""What a pod's status, its log and its events say of a replica."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sealserve.kubernetes.live.replica_state import State, creation_failure, replica_state

REFUSAL = {
    "error": "the key broker broker.example:4433 refused to release a key (measurement-not-allowed, decision 12)",
    "reason": "grant-refused",
    "hint": "The broker's log and its audit log say why.",
}
CREATED, SCHEDULED, STARTED, LATER = (f"2026-11-30T05:00:{second:02}Z" for second in (0, 1, 5, 50))


def _pod(
    *,
    container: dict[str, Any] | None = None,
    ready: str = "False",
    ready_since: str = CREATED,
    conditions: list[dict[str, Any]] | None = None,
    node: str | None = "node-1",
    init: dict[str, Any] | None = None,
    deleted: str | None = None,
    **status: Any,
) -> dict[str, Any]:
    statuses = [] if container is None else [{"name": "replica", "restartCount": 0, "ready": False} | container]
    found = [{"type": "Ready", "status": ready, "lastTransitionTime": ready_since}, *(conditions or [])]
    if node is not None:
        found.append({"type": "PodScheduled", "status": "True", "lastTransitionTime": SCHEDULED})
    metadata = {"name": "photos-replica-1", "uid": "1", "creationTimestamp": CREATED}
    return {
        "metadata": metadata
        | {"labels": {"pod-template-hash": "abc"}}
        | ({} if deleted is None else {"deletionTimestamp": deleted}),
        "spec": {"containers": [{"name": "replica", "image": "photos@sha256:1"}]}
        | ({} if node is None else {"nodeName": node}),
        "status": {
            "phase": "Pending",
            "conditions": found,
            "containerStatuses": statuses,
            "initContainerStatuses": [] if init is None else [{"name": "platform"} | init],
        }
        | status,
    }


def _waiting(why: str, words: str = "", **last: Any) -> dict[str, Any]:
    waiting = {"reason": why} | ({"message": words} if words else {})
    return {"state": {"waiting": waiting}} | ({"lastState": {"terminated": last}} if last else {})


RUNNING = {"state": {"running": {"startedAt": STARTED}}, "started": False}
TERMINATED = {"exitCode": 4, "reason": "Error", "finishedAt": LATER}


@pytest.mark.parametrize(
    ("pod", "state", "reason"),
    [
        (_pod(container=RUNNING | {"ready": True}, ready="True", ready_since=LATER), State.SERVING, ""),
        (_pod(node=None), State.PENDING, "no node is chosen"),
        (_pod(), State.PENDING, "its node has not begun"),
        (
            _pod(
                node=None,
                conditions=[
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/3 nodes are available: 3 Insufficient sgx.intel.com/epc.",
                    }
                ],
            ),
            State.UNSCHEDULABLE,
            "3 Insufficient sgx.intel.com/epc",
        ),
        (_pod(container=_waiting("ImagePullBackOff", "not found")), State.IMAGE_UNAVAILABLE, "ImagePullBackOff: not f"),
        (
            _pod(container=_waiting("PodInitializing"), init=_waiting("ErrImagePull", "denied")),
            State.IMAGE_UNAVAILABLE,
            "ErrImagePull: denied",
        ),
        (_pod(container=_waiting("ContainerCreating")), State.STARTING, ""),
        (
            _pod(container=_waiting("CreateContainerError", "no such user")),
            State.FAILED,
            "CreateContainerError: no suc",
        ),
        (_pod(container=RUNNING), State.STARTING, ""),
        (_pod(container=RUNNING | {"ready": True}, ready_since=LATER), State.FAILED, "its node does not answer"),
        (_pod(container=RUNNING | {"started": True}, ready_since=LATER), State.FAILED, "does not answer any more"),
        (_pod(container=RUNNING | {"started": True}, ready_since=CREATED), State.STARTING, ""),
        (
            _pod(container=_waiting("CrashLoopBackOff", "back-off", **TERMINATED, message=json.dumps(REFUSAL))),
            State.REFUSED,
            "measurement-not-allowed, decision 12",
        ),
        (
            _pod(
                container=RUNNING | {"lastState": {"terminated": {"exitCode": 5, "message": '{"error": "no quote"}'}}}
            ),
            State.STARTING,
            "started again after: no quote",
        ),
        (
            _pod(container={"state": {"terminated": TERMINATED | {"message": "a line\nerror: Mapping failed\n"}}}),
            State.FAILED,
            "error: Mapping failed",
        ),
        (_pod(container={"state": {"terminated": {"exitCode": 139}}}), State.FAILED, "exit code 139"),
        (
            _pod(container=_waiting("CrashLoopBackOff", reason="OOMKilled", exitCode=137)),
            State.FAILED,
            "OOMKilled: it needed more memory",
        ),
        (
            _pod(phase="Failed", reason="Evicted", message="The node was low on resource: ephemeral-storage."),
            State.FAILED,
            "Evicted: The node was low on resource: ephemeral-storage.",
        ),
        (
            _pod(
                deleted=LATER,
                conditions=[{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}],
            ),
            State.LEAVING,
            "preempted",
        ),
        (_pod(deleted=LATER, container=RUNNING | {"ready": True}, ready="True"), State.LEAVING, ""),
    ],
)
def test_a_pod_says_how_far_its_replica_is(pod: dict[str, Any], state: State, reason: str) -> None:
    found = replica_state(pod)
    assert found.state is state
    assert reason in (found.reason or "")
    assert bool(reason) == bool(found.reason)


@pytest.mark.parametrize(
    ("last", "state", "reason"),
    [
        (
            {"event": "waiting-for-broker", "reason": "no key broker answered"},
            State.WAITING_FOR_BROKER,
            "no key broker",
        ),
        ({"event": "broker-failed", "reason": "connection refused"}, State.WAITING_FOR_BROKER, "connection refused"),
        ({"event": "grant-refused", "reason": "refused (decision 3)"}, State.REFUSED, "decision 3"),
        ({"event": "key-granted", "model": "m"}, State.STARTING, "attested"),
        (REFUSAL, State.REFUSED, "decision 12"),
    ],
)
def test_the_log_of_a_running_replica_says_what_it_waits_for(last: dict[str, str], state: State, reason: str) -> None:
    log = '{"event": "something-else"}\n' + json.dumps(last) + "\nno JSON\n[1]\n{broken\n"
    found = replica_state(_pod(container=RUNNING), log=log)
    assert found.state is state
    assert reason in (found.reason or "")


@pytest.mark.parametrize(
    ("event", "state", "reason"),
    [
        ({"type": "Normal", "reason": "Pulling", "message": "Pulling image x"}, State.PULLING, "Pulling image x"),
        ({"type": "Normal", "reason": "Pulled", "message": "Pulled image x"}, State.STARTING, None),
        (
            {"type": "Warning", "reason": "FailedMount", "message": 'secret "photos-simulated-platform" not found'},
            State.STARTING,
            'FailedMount: secret "photos-simulated-platform" not found',
        ),
    ],
)
def test_events_say_what_a_pod_without_a_container_waits_for(
    event: dict[str, str], state: State, reason: str | None
) -> None:
    found = replica_state(_pod(container=_waiting("ContainerCreating")), events=[event])
    assert (found.state, found.reason) == (state, reason)


_PULL = (
    'rpc error: code = NotFound desc = failed to pull and unpack image "r.example/photos:1": failed to resolve '
    'reference "r.example/photos:1": '
)


@pytest.mark.parametrize(
    ("why", "message", "told"),
    [
        (
            "ErrImagePull",
            _PULL + "r.example/photos:1: not\nfound",
            "ErrImagePull: r.example/photos:1: not f",
        ),
        (
            "ImagePullBackOff",
            f'Back-off pulling image "r.example/photos:1": ErrImagePull: {_PULL}r.example/photos:1: not found',
            "ErrImagePull: r.example/photos:1: not found",
        ),
        ("ImagePullBackOff", 'Back-off pulling image "x"', 'ImagePullBackOff: Back-off pulling image "x"'),
        (
            "ErrImagePull",
            'failed to pull image "sealserve.local/photos-model:1@sha256:0": no such host',
            "this node does not have the image sealserve.local/photos-model:1@sha256:0: load the archive (docs/kuber",
        ),
        ("InvalidImageName", "", "InvalidImageName"),
    ],
)
def test_why_an_image_cannot_be_had_is_told_in_one_line(why: str, message: str, told: str) -> None:
    reason = replica_state(_pod(container=_waiting(why, message))).reason
    assert reason is not None
    assert reason.startswith(told)
    assert "\n" not in reason


_EVICTION = "The node was low on resource: ephemeral-storage. Threshold quantity: 64Mi, available: 31Mi. "
_BY_KUBELET = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet", "message": _EVICTION}
_DONE = {"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}
_KILLED = {"state": {"terminated": {"exitCode": 137, "reason": "Error"}}}
_LOST = {"exitCode": 137, "reason": "ContainerStatusUnknown", "message": "The container could not be located"}
_EVICTED_EVENT = {"type": "Warning", "reason": "Evicted", "message": "The node had condition: [DiskPressure]. "}
_OUT_OF_CPU = {"type": "Warning", "reason": "OutOfcpu", "message": "Node didn't have enough resource: cpu"}
_OTHER_EVENTS = [
    {"type": "Warning", "reason": "Unhealthy", "message": "Readiness probe failed"},
    {"type": "Normal", "reason": "Killing", "message": "Stopping container replica"},
]
_NOT_REGISTERED = {"type": "Warning", "reason": "FailedMount", "message": 'object "serving"/"ca" not registered'}
_REJECTED = "Evicted: The node had condition: [DiskPressure]."
_FULL = {"status": {"conditions": [{"type": "DiskPressure", "status": "True"}]}}
_UNTOLD = "ended by its node, which does not say why"


@pytest.mark.parametrize(
    ("pod", "events", "node", "reason"),
    [
        # What kubelet leaves of an evicted replica that ended in good order.
        (
            _pod(container=_DONE, phase="Succeeded", conditions=[_BY_KUBELET]),
            [],
            {},
            f"ended by its node: {_EVICTION.strip()}",
        ),
        (
            _pod(container=_DONE, phase="Succeeded", conditions=[_BY_KUBELET | {"message": ""}]),
            [],
            {},
            "ended by its node",
        ),
        # Of one that it rejected when it was started anew.
        (
            _pod(container=_DONE, phase="Succeeded"),
            [_OUT_OF_CPU, _EVICTED_EVENT, *_OTHER_EVENTS],
            _FULL,
            _REJECTED,
        ),
        (
            _pod(container=_DONE, phase="Succeeded"),
            [_OUT_OF_CPU],
            {},
            "OutOfcpu: Node didn't have enough resource: cpu",
        ),
        (
            _pod(
                phase="Failed", reason="Evicted", message="Pod was rejected: The node had condition: [DiskPressure]. "
            ),
            _OTHER_EVENTS,
            {},
            "Evicted: Pod was rejected: The node had condition: [DiskPressure].",
        ),
        (
            _pod(container=_DONE, phase="Succeeded"),
            _OTHER_EVENTS,
            _FULL,
            "ended by its node, which is short of disk (DiskPressure)",
        ),
        (_pod(container=_DONE, phase="Succeeded"), _OTHER_EVENTS, {}, _UNTOLD),
        (_pod(phase="Failed"), [], {}, _UNTOLD),
        (_pod(container=_KILLED, phase="Failed"), [], {}, f"{_UNTOLD}; it ended with exit code 137"),
        (
            _pod(container={"state": {"terminated": _LOST}}, phase="Failed"),
            [],
            {},
            f"{_UNTOLD}; ContainerStatusUnknown: The container could not be located",
        ),
    ],
)
def test_a_replica_that_its_node_ended_is_told_with_the_cause_as_far_as_anything_says_it(
    pod: dict[str, Any], events: list[dict[str, Any]], node: dict[str, Any], reason: str
) -> None:
    found = replica_state(pod, events=events, nodes={"node-2": _FULL, "node-1": node})
    assert (found.state, found.reason) == (State.FAILED, reason)


def test_a_replica_that_is_over_is_so_since_it_was_not_ready_any_more() -> None:
    found = replica_state(_pod(container=_DONE, phase="Succeeded", ready_since=LATER))
    assert found.since is not None
    assert found.since.isoformat() == "2026-11-30T05:00:50+00:00"


def test_a_replica_that_its_node_ends_leaves_with_the_cause() -> None:
    found = replica_state(_pod(deleted=LATER, container=RUNNING, conditions=[_BY_KUBELET]))
    assert (found.state, found.reason) == (State.LEAVING, f"ended by its node: {_EVICTION.strip()}")


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("1 node(s) had untolerated taint(s).", "1 node(s) had untolerated taint(s); node node-1 is cordoned"),
        ("1 node(s) had untolerated taint {gpu: yes}.", "1 node(s) had untolerated taint {gpu: yes}."),
        ("1 Insufficient cpu.", "1 Insufficient cpu."),
    ],
)
def test_taints_that_the_scheduler_does_not_name_are_named(message: str, told: str) -> None:
    taint = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
    node = {"metadata": {"name": "node-1"}, "spec": {"taints": [taint]}}
    scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    pod = _pod(node=None, conditions=[scheduled])
    assert replica_state(pod, nodes={"node-1": node}).reason == told
    assert replica_state(pod).reason == message


@pytest.mark.parametrize(
    ("grace", "since"),
    [(30, "2026-11-30T05:00:20+00:00"), (0, "2026-11-30T05:00:50+00:00"), (None, "2026-11-30T05:00:50+00:00")],
)
def test_a_replica_leaves_since_it_was_deleted_and_not_since_its_time_is_up(grace: int | None, since: str) -> None:
    pod = _pod(deleted=LATER, container=RUNNING)
    pod["metadata"]["deletionGracePeriodSeconds"] = grace
    found = replica_state(pod)
    assert found.since is not None
    assert found.since.isoformat() == since


def test_a_deployment_says_why_it_has_no_pods() -> None:
    message = 'pods "x" is forbidden: violates PodSecurity "restricted:latest"'
    failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}
    assert creation_failure({"status": {"conditions": [failure]}}) == message
    assert creation_failure({"status": {"conditions": [failure | {"status": "False"}]}}) is None
    assert creation_failure({}) is None
