"""Reads replicas' states again and again, and no more than is useful of what explains them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from sealserve.errors import UnavailableError
from sealserve.kubernetes.live.api import Cluster
from sealserve.kubernetes.live.errors import ClusterRefusedError, ForbiddenError
from sealserve.kubernetes.live.kinds import EVENT, NODE, POD
from sealserve.kubernetes.live.node_trouble import UNNAMED_TAINTS, pressure
from sealserve.kubernetes.live.pod_end import is_over, told_end
from sealserve.kubernetes.live.progress_of import condition
from sealserve.kubernetes.live.replica_state import CONTAINER, ReplicaState, State, container_of, replica_state
from sealserve.kubernetes.plan import Plan
from sealserve.kubernetes.yaml_text import Object

_ASK_AGAIN_SECONDS = 3.0
_MOST_ASKED = 10
_LINES = 20
_T = TypeVar("_T")


class Reporter:
    """Reads replicas' states, and asks for logs, events and nodes no more often than is useful: each look takes the
    logs of ten pods at most, and each log, the list of events and that of nodes are asked for once in three seconds,
    and only if a replica is not explained without. Does without what it may not read.

    :param cluster: read from. :param plan: whose replicas.
    """

    def __init__(self, cluster: Cluster, plan: Plan) -> None:
        self._cluster = cluster
        self._plan = plan
        self._logs: dict[tuple[str, int], tuple[float, str | None]] = {}
        self._may_read_logs = True
        self._events = _Seldom(self._read_events)
        self._nodes = _Seldom(self._read_nodes)

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
        if state.state is State.UNSCHEDULABLE and UNNAMED_TAINTS in str(state.reason):
            return replica_state(pod, nodes=self._nodes.read())
        if state.state is State.FAILED and is_over(pod) and told_end(pod) is None:
            events = self._events_of(pod)
            return replica_state(pod, events=events, nodes=None if told_end(pod, events) else self._nodes.read())
        begins = state.state in {State.STARTING, State.PENDING} and state.node is not None
        if begins or (state.state is State.FAILED and not is_over(pod) and _is_terminated(pod)):
            return replica_state(pod, events=self._events_of(pod))
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
        left = _MOST_ASKED
        for pod in sorted(due, key=lambda pod: (asked[_run_of(pod)][0], _unready_since(pod))):
            node = pod.get("spec", {}).get("nodeName")
            if not self._may_read_logs or not left:
                break
            if node in lost:  # which is no turn: pods of other nodes do not wait for its
                continue
            left -= 1
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

    def _events_of(self, pod: Object) -> list[Object]:
        return self._events.read().get(str(pod["metadata"].get("uid")), [])

    def _read_events(self) -> dict[str, list[Object]]:
        """By the pods' uids, the last one last."""
        events = self._cluster.list(EVENT, namespace=self._plan.namespace, fields={"involvedObject.kind": "Pod"})
        found: dict[str, list[Object]] = {}
        for event in sorted(events, key=_event_time):
            found.setdefault(str(event.get("involvedObject", {}).get("uid")), []).append(event)
        return found

    def _read_nodes(self) -> dict[str, Object]:
        """By their names, those that something is wrong with, or that are not for every pod."""
        nodes = self._cluster.list(NODE)
        return {
            node["metadata"]["name"]: node for node in nodes if pressure(node) or node.get("spec", {}).get("taints")
        }


class _Seldom(Generic[_T]):
    """What a list says, by name: asked for once in three seconds; nothing where it may not be read.

    :param ask: for the list.
    """

    def __init__(self, ask: Callable[[], dict[str, _T]]) -> None:
        self._ask = ask
        self._asked = float("-inf")
        self._found: dict[str, _T] = {}
        self._permitted = True

    def read(self) -> dict[str, _T]:
        if self._permitted and time.monotonic() - self._asked >= _ASK_AGAIN_SECONDS:
            try:
                self._found = self._ask()
            except ForbiddenError:
                self._permitted = False
            self._asked = time.monotonic()
        return self._found


def _is_silent(pod: Object, state: ReplicaState) -> bool:
    """Whether only its log can say what it does."""
    return state.state is State.STARTING and bool(container_of(pod).get("state", {}).get("running"))


def _is_terminated(pod: Object) -> bool:
    """Whether its container is about to be started again, or has been ended by its node, which has yet to say so."""
    return bool(container_of(pod).get("state", {}).get("terminated"))


def _run_of(pod: Object) -> tuple[str, int]:
    return str(pod["metadata"].get("uid")), int(container_of(pod).get("restartCount", 0))


def _unready_since(pod: Object) -> str:
    return str(condition(pod, "Ready").get("lastTransitionTime") or pod["metadata"].get("creationTimestamp") or "")


def _event_time(event: Object) -> str:
    return str(
        event.get("lastTimestamp") or event.get("eventTime") or event.get("metadata", {}).get("creationTimestamp") or ""
    )
