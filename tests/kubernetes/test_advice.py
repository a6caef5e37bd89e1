"""What people are told to do about replicas that do not come up, and when nothing has to be done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kubernetes_cases import CASES, write_deployment

from sealserve.deploy import load_deployment
from sealserve.kubernetes.live.advice import advice_about, go_on_by_themselves
from sealserve.kubernetes.live.replica_state import ReplicaState, State
from sealserve.kubernetes.plan import Plan, plan_for_reading

_NO_SECRET = (
    'FailedMount: MountVolume.SetUp failed for volume "platform" : secret "photos-simulated-platform" not found'
)
_NO_ROOM = "0/3 nodes are available: 1 Insufficient cpu, 2 Insufficient memory. preemption: 0/3 nodes are available."


def _plan(directory: Path, case: str = "nginx-simulated") -> Plan:
    return plan_for_reading(load_deployment(write_deployment(directory, CASES[case])))


def _replica(state: State, reason: str | None = None) -> ReplicaState:
    return ReplicaState("photos-replica-1", "1", "node", state, reason, False, 0, None, "template", None)


def test_the_address_at_which_pods_look_for_the_broker_is_named_with_its_setting(tmp_path: Path) -> None:
    waiting = [_replica(State.WAITING_FOR_BROKER, "no answer")] * 2
    told = advice_about(_plan(tmp_path), waiting)
    assert told is not None
    assert told.count("Pods look for it at 192.0.2.10:4433 (kubernetes.broker in deployment.yaml)") == 1
    assert "`sealserve k8s doctor --probe`" in told
    told = advice_about(_plan(tmp_path, "nginx-sgx"), waiting)
    assert "(image.brokers in deployment.yaml)" in str(told)


@pytest.mark.parametrize(
    ("state", "reason", "told"),
    [
        (State.STARTING, _NO_SECRET, "`sealserve k8s apply` makes the Secret photos-simulated-platform"),
        (State.UNSCHEDULABLE, _NO_ROOM, "No node has as much cpu, memory left as a replica asks for: ask for less"),
        (State.STARTING, 'FailedMount: secret "theirs" not found', None),
        (State.STARTING, None, None),
        (State.FAILED, "Insufficient words", None),
    ],
)
def test_what_helps_depends_on_what_is_missing(
    tmp_path: Path, state: State, reason: str | None, told: str | None
) -> None:
    found = advice_about(_plan(tmp_path), [_replica(state, reason)])
    assert (found is None) if told is None else (told in str(found))


@pytest.mark.parametrize(
    ("state", "reason", "alone"),
    [
        (State.SERVING, None, True),
        (State.LEAVING, None, True),
        (State.STARTING, "attested; the model is being loaded", True),
        (State.PULLING, 'Pulling image "x"', True),
        (State.PENDING, "no node is chosen yet", True),
        (State.STARTING, _NO_SECRET, False),
        (State.STARTING, "started again after: it ended with exit code 1", False),
        (State.UNSCHEDULABLE, _NO_ROOM, False),
        (State.REFUSED, "not-granted", False),
        (State.WAITING_FOR_BROKER, "no answer", False),
        (State.IMAGE_UNAVAILABLE, "ErrImagePull", False),
        (State.FAILED, "OOMKilled", False),
    ],
)
def test_replicas_are_said_to_go_on_by_themselves_only_where_they_do(state: State, reason: Any, *, alone: bool) -> None:
    assert go_on_by_themselves([_replica(State.SERVING), _replica(state, reason)]) == alone
