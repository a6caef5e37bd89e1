"""The logs of a deployment's pods, together: those that are there, and those that come."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from sealserve.errors import InputError, SealserveError, UnavailableError
from sealserve.kubernetes.live.api import Cluster
from sealserve.kubernetes.live.errors import ClusterRefusedError, ForbiddenError
from sealserve.kubernetes.live.kinds import DEPLOYMENT, POD
from sealserve.kubernetes.plan import Plan
from sealserve.kubernetes.yaml_text import Object

MOST_FOLLOWED = 100
"""Pods that are followed at once: each takes a thread and a connection to the API server."""
LOOK_SECONDS = 2.0
"""How often new pods are looked for."""


@dataclass(frozen=True)
class Line:
    """A line of a pod's log. :ivar time: when it was said, RFC 3339 with nanoseconds, by the pod's node."""

    pod: str
    time: str
    text: str


class PodLogs:
    """Logs of a deployment's pods.

    :param pod: one of them alone. :param all_components: those of the edge as well, and not of replicas alone.
    :param tail: of each log the last so many lines. :param since: what was said in the last so many seconds.
    """

    def __init__(
        self,
        cluster: Cluster,
        plan: Plan,
        *,
        pod: str | None = None,
        all_components: bool = False,
        tail: int | None = None,
        since: int | None = None,
    ) -> None:
        self._cluster = cluster
        self._plan = plan
        self._pod = pod
        everything: dict[str, str | tuple[str, ...]] = {"app.kubernetes.io/instance": plan.name}
        self._labels = everything if all_components or pod else plan.every_replica
        self._tail = tail
        self._since = since

    def read(self, *, previous: bool = False) -> list[Line]:
        """What was said up to now, of all pods in the order of time.

        :param previous: by the containers before those that run now. :raises InputError: there is no such pod.
        """
        found: list[Line] = []
        for pod in self._pods():
            name = pod["metadata"]["name"]
            try:
                text = self._cluster.logs(
                    name,
                    namespace=self._plan.namespace,
                    tail=self._tail,
                    since=self._since,
                    previous=previous,
                    timestamps=True,
                    quick=True,
                )
            except ForbiddenError:
                raise
            except ClusterRefusedError:
                if self._pod is not None:
                    raise
                continue  # no container yet, or none before
            except UnavailableError as error:
                if self._pod is not None:
                    raise
                found.append(Line(name, "", f"(its log cannot be had: {error.message})"))
                continue
            found += [_line(name, line) for line in text.splitlines()]
        return sorted(found, key=lambda line: line.time)

    def why_silent(self, *, previous: bool = False, follow: bool = False) -> str | None:
        """Why there may be nothing to read.

        :param follow: whether what comes is waited for. :returns: None if there is something to wait for already.
        """
        cluster, plan = self._cluster, self._plan
        pods = self._pods_or_none()
        if not pods and self._pod is not None:
            return None  # which is an error, and says so
        if not pods:
            there = True  # if it may not be looked for
            with contextlib.suppress(ForbiddenError):
                there = cluster.get(DEPLOYMENT, plan.replica, namespace=plan.namespace) is not None
            if not there:
                return f"there is no Deployment {plan.replica} in {plan.namespace}: `sealserve k8s apply` makes it"
            waiting = ", and the first is waited for" if follow else ""
            return f"there are no replicas now{waiting}: `sealserve k8s status` says why"
        if all(_run_of(pod) is None for pod in pods):
            return "no container has begun yet: `sealserve k8s status` says what it waits for"
        if follow:
            return None
        if previous:
            return "no container ended before those that run now"
        when = "" if self._since is None else f" in the last {self._since} seconds"
        return f"nothing was said{when}"

    def follow(self) -> Iterator[Line]:
        """What was said and what is said from now on, also by pods and containers that are yet to come.

        :raises InputError: there is no such pod, or there are more than :data:`MOST_FOLLOWED`.
        """
        lines: queue.Queue[Line | SealserveError] = queue.Queue(10_000)
        known: set[tuple[str, int]] = set()
        first, look = True, 0.0
        while True:
            if time.monotonic() >= look:
                pods = self._pods() if first or self._pod is None else self._pods_or_none()
                if len(pods) > MOST_FOLLOWED:
                    raise InputError(
                        f"{len(pods)} pods are more than the {MOST_FOLLOWED} that are followed at once",
                        hint="Name one of them, or leave --follow out.",
                    )
                for pod in pods:
                    run = _run_of(pod)
                    if run is not None and run not in known:
                        known.add(run)
                        self._begin(pod["metadata"]["name"], run, lines, whole=not first)
                first, look = False, time.monotonic() + LOOK_SECONDS
            with contextlib.suppress(queue.Empty):
                line = lines.get(timeout=0.2)
                if isinstance(line, SealserveError):
                    raise line
                yield line

    def _begin(self, pod: str, run: tuple[str, int], lines: queue.Queue[Line | SealserveError], *, whole: bool) -> None:
        def follow() -> None:
            last = ""
            try:
                while True:
                    for text in self._cluster.follow_logs(
                        pod,
                        namespace=self._plan.namespace,
                        tail=None if whole or last else self._tail,
                        since=_seconds_since(last) if last else None if whole else self._since,
                        timestamps=True,
                    ):
                        line = _line(pod, text)
                        if line.time > last:  # what is known is told again after an interruption
                            last = line.time
                            lines.put(line)
                    if not self._is_running(pod, run):
                        return
            except ForbiddenError as error:
                lines.put(error)
            except SealserveError:
                return  # the pod is gone

        threading.Thread(target=follow, name=f"log of {pod}", daemon=True).start()

    def _is_running(self, pod: str, run: tuple[str, int]) -> bool:
        time.sleep(0.5)  # until kubelet has said that the container ended
        found = self._cluster.get(POD, pod, namespace=self._plan.namespace)
        return found is not None and _run_of(found) == run and _is_running(found)

    def _pods(self) -> list[Object]:
        pods = self._pods_or_none()
        if self._pod is not None and not pods:
            there = self._cluster.list(POD, namespace=self._plan.namespace, labels=self._labels)
            names = ", ".join(each["metadata"]["name"] for each in there)
            raise InputError(
                f"there is no pod {self._pod} of {self._plan.name} in the namespace {self._plan.namespace}",
                hint=f"There are: {names}." if names else "`sealserve k8s apply` brings the deployment there.",
            )
        return pods

    def _pods_or_none(self) -> list[Object]:
        pods = self._cluster.list(POD, namespace=self._plan.namespace, labels=self._labels)
        return [pod for pod in pods if self._pod is None or pod["metadata"]["name"] == self._pod]


def _run_of(pod: Object) -> tuple[str, int] | None:
    """Which run of the pod's container has a log now; None if none has begun."""
    statuses = pod.get("status", {}).get("containerStatuses") or [{}]
    state = statuses[0].get("state", {})
    if "running" not in state and "terminated" not in state:
        return None
    return pod["metadata"]["uid"], int(statuses[0].get("restartCount", 0))


def _is_running(pod: Object) -> bool:
    return "running" in pod["status"]["containerStatuses"][0].get("state", {})


def _line(pod: str, line: str) -> Line:
    moment, _, text = line.partition(" ")
    return Line(pod, moment, text)


def _seconds_since(moment: str) -> int:
    """Rounded up, and one more for clocks that differ."""
    # Nanoseconds are more than datetime reads.
    then = datetime.fromisoformat(moment[:19]).replace(tzinfo=UTC)
    return max(1, int((datetime.now(UTC) - then).total_seconds()) + 2)
