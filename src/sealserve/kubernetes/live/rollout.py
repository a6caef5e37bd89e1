"""Following a rollout until every replica serves, or it is known that none will.

However many replicas there are, one look takes the same number of requests, and looks are further apart when they take
longer.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sealserve.kubernetes.live.advice import advice_about, go_on_by_themselves
from sealserve.kubernetes.live.api import FIELD_MANAGER, Cluster
from sealserve.kubernetes.live.edge_state import EdgeState, edge_state
from sealserve.kubernetes.live.errors import (
    ClusterRefusedError,
    ConflictError,
    ForbiddenError,
    ReplicasRefusedError,
    RolloutFailedError,
    RolloutTimeoutError,
)
from sealserve.kubernetes.live.kinds import DEPLOYMENT, POD
from sealserve.kubernetes.live.progress_of import all_unfinished, condition, is_observed
from sealserve.kubernetes.live.replica_state import ReplicaState, State, creation_failure
from sealserve.kubernetes.live.reporter import Reporter
from sealserve.kubernetes.live.templates import TemplateReader, Templates, all_known, is_current, is_old
from sealserve.kubernetes.plan import CANARY, COMPONENT_LABEL, STABLE, Plan
from sealserve.kubernetes.yaml_text import Object

_PAUSE = 0.5
_STUCK = frozenset({State.REFUSED, State.IMAGE_UNAVAILABLE, State.FAILED})
_PATIENCE = {State.REFUSED: 0.0, State.IMAGE_UNAVAILABLE: 20.0, State.FAILED: 30.0}
"""Seconds after which the rollout has failed if a new replica is in such a state: registries may be busy, once."""
_MOST_ENDS = 3
_CREATION_PATIENCE = 10.0


@dataclass(frozen=True)
class Snapshot:
    """A rollout at one moment.

    :ivar templates: that replicas are to have, as far as the cluster has said.
    :ivar waits: what the rollout waits for; None if it is over. :ivar advice: what may help replicas that wait.
    """

    replicas: tuple[ReplicaState, ...]
    templates: Templates
    wanted: int
    waits: str | None
    edge: EdgeState
    advice: str | None = None

    @property
    def serving(self) -> int:
        """How many replicas serve that are as they are to be."""
        return sum(each.state is State.SERVING and self.is_current(each) for each in self.replicas)

    @property
    def canaries(self) -> int:
        """How many of them are a canary's."""
        return sum(each.canary and each.state is State.SERVING and self.is_current(each) for each in self.replicas)

    @property
    def old_serving(self) -> int:
        """How many of those from before serve."""
        return sum(each.state is State.SERVING and self.is_old(each) for each in self.replicas)

    def is_current(self, each: ReplicaState) -> bool:
        """Whether a replica is of the template that is to run."""
        return is_current(each, self.templates)

    def is_old(self, each: ReplicaState) -> bool:
        """Whether a replica is known to be from before."""
        return is_old(each, self.templates)


class Rollout:
    """The rollout of what is about to be applied: made before, and followed after.

    Replicas that failed before are none of its failures.
    """

    def __init__(self, cluster: Cluster, plan: Plan) -> None:
        self._cluster = cluster
        self._plan = plan
        self._reporter = Reporter(cluster, plan)
        self._applied: dict[str, str | None] = {}  # names of Deployments, and when each was changed
        self._templates = TemplateReader(cluster, plan)
        self._since: dict[tuple[str, object], float] = {}
        before: list[ReplicaState] = []
        with contextlib.suppress(ForbiddenError):  # applying tells of it, with everything else that is not permitted
            before = self._reporter.states()
        self._before = frozenset((each.pod, each.restarts) for each in before if each.state in _STUCK)
        self._served = frozenset(each.uid for each in before if each.state is State.SERVING)

    def follow(self, applied: Sequence[Object], *, timeout: float, on_snapshot: Callable[[Snapshot], None]) -> Snapshot:
        """Wait until replicas and edge are ready.

        :param applied: the objects as they were then. :param timeout: in seconds.
        :raises ReplicasRefusedError: the key broker refuses new replicas.
        :raises RolloutFailedError: they cannot run. :raises RolloutTimeoutError: they are not ready in time.
        :raises ConflictError: another apply changed the Deployment meanwhile.
        """
        until = time.monotonic() + timeout
        self._applied = {
            thing["metadata"]["name"]: _applied_at(thing) for thing in applied if self._has_replicas(thing)
        }
        begun = False
        while True:
            started = time.monotonic()
            deployments, snapshot = self._look()
            on_snapshot(snapshot)
            if snapshot.waits is None and snapshot.edge.ready:
                return snapshot
            if all_known(snapshot.templates) and not begun:
                self._begin_anew(snapshot)
                begun = True
            self._require_hope(deployments, snapshot)
            now = time.monotonic()
            if now >= until:
                raise self._late(snapshot, timeout)
            time.sleep(min(max(_PAUSE, 3 * (now - started)), until - now))

    def nothing_new(self, snapshot: Snapshot) -> bool:
        """Whether the replicas that serve now did so before, so that none of them has attested since."""
        serving = {each.uid for each in snapshot.replicas if each.state is State.SERVING}
        return bool(self._served) and serving <= self._served

    def look(self) -> Snapshot:
        """The rollout now."""
        return self._look()[1]

    def _begin_anew(self, snapshot: Snapshot) -> None:
        """Have replicas tried at once that failed before this apply: kubelet would let them wait for minutes."""
        for each in snapshot.replicas:
            if each.state in _STUCK and snapshot.is_current(each) and (each.pod, each.restarts) in self._before:
                with contextlib.suppress(ClusterRefusedError):  # it ends anyway, or tries again by itself
                    self._cluster.delete(POD, each.pod, namespace=self._plan.namespace, uid=each.uid)

    def _look(self) -> tuple[list[Object], Snapshot]:
        deployments = self._deployments()
        replicas = tuple(self._reporter.states())
        snapshot = Snapshot(
            replicas=replicas,
            templates=self._templates.read(deployments),
            wanted=sum(int(each["spec"].get("replicas", 1)) for each in deployments),
            waits=all_unfinished(deployments),
            edge=edge_state(self._cluster, self._plan),
            advice=advice_about(self._plan, replicas),
        )
        return deployments, snapshot

    def _has_replicas(self, thing: Object) -> bool:
        labels = thing["metadata"].get("labels", {})
        return bool(thing["kind"] == DEPLOYMENT.name and labels.get(COMPONENT_LABEL) in (STABLE, CANARY))

    def _deployments(self) -> list[Object]:
        """The Deployments of replicas that were applied."""
        listed = self._cluster.list(DEPLOYMENT, namespace=self._plan.namespace, labels=self._plan.every_replica)
        found = {each["metadata"]["name"]: each for each in listed}
        for name, moment in self._applied.items():
            if name not in found or _applied_at(found[name]) != moment:
                happened = "applied anew" if name in found else "deleted"
                raise ConflictError(
                    f"the Deployment {name} was {happened} by somebody else while its rollout was waited for",
                    status=409,
                    hint="Apply again when nobody else does.",
                )
        return [each for name, each in found.items() if name in self._applied or not self._applied]

    def _require_hope(self, deployments: list[Object], snapshot: Snapshot) -> None:
        now = time.monotonic()
        current = {(each.pod, each.state): each for each in snapshot.replicas if self._is_stuck(each, snapshot)}
        failures = [(each["metadata"]["name"], why) for each in deployments if (why := creation_failure(each))]
        keys: set[tuple[str, object]] = {*current, *([("", "creation")] if failures else [])}
        self._since = {key: self._since.get(key, now) for key in keys}
        if failures and now - self._since["", "creation"] >= _CREATION_PATIENCE:
            name, why = failures[0]
            raise RolloutFailedError(f"the cluster makes no more pods of {name}: {why}", hint=_ways_on(snapshot))
        for key, each in current.items():
            if now - self._since[key] >= _PATIENCE[each.state] or each.restarts >= _MOST_ENDS:
                raise self._failure(each, snapshot)
        if any(map(_is_overdue, deployments)):
            raise RolloutFailedError(
                f"the rollout got no further in time: {_reasons(snapshot)}", hint=_ways_on(snapshot)
            )

    def _is_stuck(self, each: ReplicaState, snapshot: Snapshot) -> bool:
        """Whether a new replica fails now: not one from before, nor as it failed before this apply."""
        return each.state in _STUCK and snapshot.is_current(each) and (each.pod, each.restarts) not in self._before

    def _failure(self, each: ReplicaState, snapshot: Snapshot) -> ReplicasRefusedError | RolloutFailedError:
        why = each.reason or each.state
        if each.state is State.REFUSED:
            return ReplicasRefusedError(
                f"the key broker refuses the replica {each.pod}: {why}", hint=_ways_on(snapshot)
            )
        setting = " (kubernetes.image or kubernetes.sealed_model)" if each.state is State.IMAGE_UNAVAILABLE else ""
        what = "gets no image" if each.state is State.IMAGE_UNAVAILABLE else "does not come up"
        return RolloutFailedError(f"the replica {each.pod} {what}: {why}{setting}", hint=_ways_on(snapshot))

    def _late(self, snapshot: Snapshot, timeout: float) -> RolloutTimeoutError:
        why = _reasons(snapshot) if snapshot.waits else f"the edge is not: {snapshot.edge.reason}"
        shown = "`sealserve k8s status` shows how it stands."
        if go_on_by_themselves(snapshot.replicas):
            shown = "The rollout goes on in the cluster: `sealserve k8s status` shows it."
        return RolloutTimeoutError(
            f"not everything is ready after {timeout:.0f} seconds: {why}",
            hint=" ".join(filter(None, (shown, snapshot.advice, _ways_on(snapshot)))),
        )


def _reasons(snapshot: Snapshot) -> str:
    """What the rollout waits for, and why replicas do not serve, each reason once."""
    waiting = [each for each in snapshot.replicas if each.state not in {State.SERVING, State.LEAVING}]
    told = dict.fromkeys(f"{each.state}: {each.reason}" if each.reason else str(each.state) for each in waiting)
    return "; ".join([snapshot.waits or "", *told]).removeprefix("; ")


def _ways_on(snapshot: Snapshot) -> str:
    if snapshot.old_serving:
        return (
            f"The {snapshot.old_serving} replicas from before still serve. Mend the cause and apply again; or apply "
            "the deployment as it was, and the new ones leave."
        )
    return "Mend the cause and apply again; `sealserve k8s delete` takes everything away."


def _is_overdue(deployment: Object) -> bool:
    late = condition(deployment, "Progressing").get("reason") == "ProgressDeadlineExceeded"
    return late and is_observed(deployment)


def _applied_at(deployment: Object) -> str | None:
    """When the Deployment was changed by an apply of ours."""
    for entry in deployment["metadata"].get("managedFields", ()):
        if (entry["manager"], entry["operation"]) == (FIELD_MANAGER, "Apply"):
            return str(entry.get("time"))
    return None
