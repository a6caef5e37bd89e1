"""What is asked of the API server to explain replicas, how seldom, and that it is done without."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from live_case import Case

from sealserve.errors import UnavailableError
from sealserve.kubernetes.live import kinds, reporter
from sealserve.kubernetes.live.replica_state import ReplicaState, State
from sealserve.kubernetes.live.reporter import Reporter

_UNSCHEDULABLE = {
    "conditions": [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/1 nodes are available: 1 node(s) had untolerated taint(s).",
        }
    ]
}
_EVICTED = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: ephemeral-storage."}
_ENDED = {"phase": "Succeeded"}
_ENDING = {
    "phase": "Running",
    "containerStatuses": [{"name": "replica", "ready": False, "state": {"terminated": {"exitCode": 0}}}],
}


def _full_node(case: Case) -> None:
    case.server.put(
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": "node"},
            "spec": {"taints": [{"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"}]},
            "status": {"conditions": [{"type": "DiskPressure", "status": "True"}]},
        }
    )


def _evicted_event(case: Case, number: int) -> None:
    pod = [pod for pod in case.server.find(kinds.POD) if "replica" in pod["metadata"]["name"]][number]["metadata"]
    told = {"reason": "Evicted", "message": "The node had condition: [DiskPressure].", "type": "Warning"}
    for second, what in enumerate((told, {"reason": "Killing", "message": "Stopping", "type": "Normal"})):
        metadata = {"name": f"{pod['name']}.{second}", "namespace": pod["namespace"]}
        when = {"lastTimestamp": f"2026-01-01T00:00:0{second}Z", "involvedObject": {"kind": "Pod", "uid": pod["uid"]}}
        case.server.put({"apiVersion": "v1", "kind": "Event", "metadata": metadata, **when, **what})


def _states(case: Case, pods: Callable[[int], dict[str, Any]], *, count: int = 2, looks: int = 1) -> list[ReplicaState]:
    """Of so many replicas; the server's log is about the last look alone."""
    case.server.pods = pods
    deployment = next(thing for thing in case.objects if thing["kind"] == "Deployment")
    deployment["spec"]["replicas"] = count
    case.apply()
    _evicted_event(case, 0)
    reader = Reporter(case.cluster, case.plan)
    for _ in range(looks):
        case.server.log.clear()
        found = reader.states()
    return found


@pytest.mark.parametrize("count", [2, 60])
def test_events_and_nodes_are_asked_for_once_however_many_replicas_they_explain(case: Case, count: int) -> None:
    _full_node(case)
    found = _states(case, lambda number: _ENDED if number % 2 == 0 else _UNSCHEDULABLE, count=count)
    assert sorted(case.server.log) == ["GET Event/", "GET Node/", "GET Pod/"]
    reasons = Counter(each.reason for each in found)
    assert reasons["Evicted: The node had condition: [DiskPressure]."] == 1
    assert reasons["ended by its node, which is short of disk (DiskPressure)"] == count // 2 - 1
    unschedulable = "0/1 nodes are available: 1 node(s) had untolerated taint(s); node node is short of disk "
    assert reasons[f"{unschedulable}(DiskPressure)"] == count // 2


def test_they_are_asked_for_again_when_some_seconds_are_over(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    _full_node(case)
    _states(case, lambda _: _ENDED, looks=2)
    assert case.server.log == ["GET Pod/"]
    monkeypatch.setattr(reporter, "_ASK_AGAIN_SECONDS", 0.0)
    _states(case, lambda _: _ENDED, looks=2)
    assert {"GET Event/", "GET Node/"} <= set(case.server.log)


def test_they_are_not_asked_for_where_pods_say_it_themselves(case: Case) -> None:
    (first, second) = _states(case, lambda _: _EVICTED)
    assert first.reason == second.reason == "Evicted: The node was low on resource: ephemeral-storage."
    assert case.server.log == ["GET Pod/"]


@pytest.mark.parametrize("status", [_ENDED, _ENDING])
def test_nodes_are_not_asked_for_where_events_say_it(case: Case, status: dict[str, Any]) -> None:
    (found,) = _states(case, lambda _: status, count=1)
    assert found.reason == "Evicted: The node had condition: [DiskPressure]."
    assert "GET Node/" not in case.server.log


def test_a_reporter_does_without_events_and_nodes_that_it_may_not_read(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter, "_ASK_AGAIN_SECONDS", 0.0)
    case.server.denied = {"events", "nodes"}
    case.server.pods = lambda number: _UNSCHEDULABLE if number else _ENDED
    case.apply()
    reader = Reporter(case.cluster, case.plan)
    requests = []
    for _ in range(2):
        before = case.cluster.requests
        ended, unschedulable = reader.states()
        requests.append(case.cluster.requests - before)
    assert ended.reason == "ended by its node, which does not say why"
    assert (unschedulable.state, unschedulable.reason) == (
        State.UNSCHEDULABLE,
        "0/1 nodes are available: 1 node(s) had untolerated taint(s).",
    )
    assert requests == [3, 1], "what may not be read was asked for again"


def _starting(number: int) -> dict[str, Any]:
    since = f"2026-01-01T00:00:{59 - number:02}Z"
    running = {"name": "replica", "ready": False, "state": {"running": {"startedAt": since}}}
    return {
        "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": since}],
        "containerStatuses": [running],
    }


def test_a_node_that_is_lost_is_asked_once_a_look_and_keeps_no_other_waiting(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods = [
        {"metadata": {"name": f"{node}-{number}", "uid": f"{node}-{number}"}, "spec": {"nodeName": node}}
        | {"status": _starting(20 * (node == "lost") + number)}  # those of the lost node are not ready for longest
        for node in ("lost", "well")
        for number in range(12)
    ]
    asked: list[str] = []

    def log(pod: str, **_: Any) -> str:
        asked.append(pod)
        if pod.startswith("lost"):
            raise UnavailableError("its node does not answer")
        return ""

    monkeypatch.setattr(case.cluster, "logs", log)
    Reporter(case.cluster, case.plan).states(pods)
    assert asked == ["lost-11", *(f"well-{number}" for number in range(11, 2, -1))]


def test_a_look_asks_for_few_logs_those_first_that_are_not_ready_for_longest(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.server.pods = _starting
    deployment = next(thing for thing in case.objects if thing["kind"] == "Deployment")
    deployment["spec"]["replicas"] = 30
    case.apply()
    asked: list[str] = []

    def log(pod: str, **_: Any) -> str:
        asked.append(pod)
        return '{"event": "waiting-for-broker", "reason": "no answer"}'

    monkeypatch.setattr(case.cluster, "logs", log)
    reader = Reporter(case.cluster, case.plan)
    states = reader.states()
    assert sorted(int(pod.rpartition("-")[2]) for pod in asked) == list(range(20, 30))
    assert Counter(each.state for each in states) == {State.WAITING_FOR_BROKER: 10, State.STARTING: 20}
    reader.states()
    reader.states()
    assert len(asked) == len(set(asked)) == 30
    reader.states()
    assert len(asked) == 30, "a log was asked for again at once"
