"""Following a rollout: when it is over, when it has failed, and how little is asked for it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from fake_api_server import ended, serving
from live_case import Case

from sealserve.kubernetes.live import kinds, rollout
from sealserve.kubernetes.live.errors import (
    ConflictError,
    ReplicasRefusedError,
    RolloutFailedError,
    RolloutTimeoutError,
)
from sealserve.kubernetes.live.replica_state import State
from sealserve.kubernetes.live.rollout import Rollout, Snapshot

_REFUSED = ended("broker-refused", "the key broker refused: not-granted")
_PENDING = {
    "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no room"}]
}
_NO_IMAGE = {
    "conditions": [{"type": "Ready", "status": "False"}],
    "containerStatuses": [
        {"name": "replica", "ready": False, "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}
    ],
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "_PAUSE", 0.01)


def _roll_out(case: Case, *, timeout: float = 5) -> list[Snapshot]:
    """Apply, and follow."""
    seen: list[Snapshot] = []
    following = Rollout(case.cluster, case.plan)
    following.follow(case.apply(), timeout=timeout, on_snapshot=seen.append)
    return seen


def _changed(case: Case) -> None:
    case.plan, case.objects = case.deployment("nginx-simulated", resources={"cpu": "2"})


def test_a_rollout_is_over_when_every_replica_serves_and_the_edge_is_ready(case: Case) -> None:
    (snapshot,) = _roll_out(case)
    assert (snapshot.serving, snapshot.wanted, snapshot.waits) == (2, 2, None)
    assert snapshot.edge.ready


def test_a_refused_replica_ends_it_at_once_and_the_old_ones_are_told_of(case: Case) -> None:
    case.apply()
    _changed(case)
    case.server.pods = lambda _: _REFUSED
    with pytest.raises(ReplicasRefusedError, match="not-granted") as caught:
        _roll_out(case)
    assert "The 2 replicas from before still serve" in str(caught.value.hint)
    assert caught.value.exit_code == 4


def test_old_replicas_that_are_refused_do_not_end_it(case: Case) -> None:
    case.server.pods = lambda _: _REFUSED
    case.apply()
    _changed(case)
    case.server.pods = lambda _: serving()
    assert _roll_out(case)[-1].serving == 2


def test_what_was_refused_before_this_apply_is_begun_anew(case: Case) -> None:
    case.server.pods = lambda _: _REFUSED
    case.apply()
    old = [pod["metadata"]["name"] for pod in case.server.find(kinds.POD) if "replica" in pod["metadata"]["name"]]
    with pytest.raises(RolloutTimeoutError):
        _roll_out(case, timeout=0.1)  # the fake has no controller that makes new pods
    assert [line for line in case.server.log if line.startswith("DELETE")] == [f"DELETE Pod/{name}" for name in old]


def test_a_pod_that_has_another_ones_name_by_now_is_left_alone(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    deleted: list[dict[str, Any]] = []
    case.server.pods = lambda _: _REFUSED
    case.apply()
    monkeypatch.setattr(case.cluster, "delete", lambda *_, **options: deleted.append(options))
    with pytest.raises(RolloutTimeoutError):
        _roll_out(case, timeout=0.1)
    uids = {pod["metadata"]["uid"] for pod in case.server.find(kinds.POD)}
    assert deleted
    assert {each["uid"] for each in deleted} <= uids


def test_an_image_that_cannot_be_had_ends_it_after_a_while(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rollout._PATIENCE, State.IMAGE_UNAVAILABLE, 0.05)
    case.server.pods = lambda _: _NO_IMAGE
    with pytest.raises(RolloutFailedError, match=r"gets no image: ErrImagePull: not found \(kubernetes\.image or"):
        _roll_out(case)


def test_pods_that_are_not_made_end_it_with_the_reason(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "_CREATION_PATIENCE", 0.02)
    case.server.pods = lambda _: _PENDING
    following, applied = Rollout(case.cluster, case.plan), case.apply()
    condition = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: small"}
    case.server.get(kinds.DEPLOYMENT, "photos-replica")["status"]["conditions"] = [condition]
    with pytest.raises(RolloutFailedError, match="makes no more pods of photos-replica: exceeded quota: small"):
        following.follow(applied, timeout=5, on_snapshot=lambda _: None)


def test_a_replica_without_a_node_is_waited_for_and_named_when_time_is_up(case: Case) -> None:
    case.server.pods = lambda number: serving() if number else _PENDING
    with pytest.raises(RolloutTimeoutError, match="unschedulable: no room"):
        _roll_out(case, timeout=0.05)


def test_a_broker_that_is_away_when_time_is_up_is_told_with_the_way_to_start_it(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = {"name": "replica", "ready": False, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}
    case.server.pods = lambda _: _NO_IMAGE | {"containerStatuses": [running]}
    log = '{"event": "waiting-for-broker", "reason": "no answer"}'
    monkeypatch.setattr(case.cluster, "logs", lambda *_, **__: log)
    with pytest.raises(RolloutTimeoutError, match="waiting-for-broker: no answer") as caught:
        _roll_out(case, timeout=0.05)
    assert str(caught.value.hint).count("Is the key broker running? On its owner's machine: `sealserve broker run") == 1
    assert "from a pod. Mend the cause and apply again" in str(caught.value.hint)
    assert "goes on in the cluster" not in str(caught.value.hint)


def test_another_apply_meanwhile_is_noticed(case: Case) -> None:
    following, applied = Rollout(case.cluster, case.plan), case.apply()
    case.server.get(kinds.DEPLOYMENT, "photos-replica")["metadata"]["managedFields"][0]["time"] = "2026-01-02T00:00:00Z"
    with pytest.raises(ConflictError, match="applied anew by somebody else"):
        following.follow(applied, timeout=5, on_snapshot=lambda _: None)


def test_replicas_of_a_second_deployment_are_waited_for_too(case: Case) -> None:
    replicas = next(thing for thing in case.objects if thing["kind"] == "Deployment")
    other = copy.deepcopy(replicas)
    other["metadata"]["name"] = "photos-replica-canary"
    other["spec"]["replicas"] = 1
    for metadata in (other["metadata"], other["spec"]["template"]["metadata"]):
        metadata["labels"]["app.kubernetes.io/component"] = "canary"
    case.objects.append(other)
    (snapshot,) = _roll_out(case)
    assert (snapshot.serving, snapshot.wanted, snapshot.old_serving) == (3, 3, 0)
    assert [each.pod.startswith("photos-replica-canary-") for each in snapshot.replicas if each.canary] == [True]
    other["spec"]["template"]["metadata"]["labels"]["other"] = "template"
    case.server.pods = lambda _: _REFUSED
    with pytest.raises(ReplicasRefusedError, match="photos-replica-canary-"):
        _roll_out(case)


def test_requests_do_not_grow_with_the_number_of_replicas(case: Case) -> None:
    requests = []
    for count in (2, 60):
        for thing in case.objects:
            if (thing["kind"], thing["metadata"]["name"]) == ("Deployment", "photos-replica"):
                thing["spec"]["replicas"] = count
        before = case.cluster.requests
        (snapshot,) = _roll_out(case)
        assert snapshot.serving == count
        requests.append(case.cluster.requests - before)
    assert requests[0] == requests[1]
