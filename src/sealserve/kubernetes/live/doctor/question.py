"""What is asked about which cluster, and what several checks need of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sealserve.deploy.doctor import Finding
from sealserve.kubernetes.live.api import Cluster
from sealserve.kubernetes.live.errors import ClusterRefusedError
from sealserve.kubernetes.live.kinds import NAMESPACE, NODE, POD, SERVICE, Kind
from sealserve.kubernetes.plan import Plan
from sealserve.kubernetes.yaml_text import Object, without_comments

DAEMON_SET = Kind("apps/v1", "DaemonSet", "daemonsets")
_ENDED = ("Succeeded", "Failed")


@dataclass(frozen=True)
class Question:
    """Whether a cluster is fit for a deployment. :ivar rendered: all objects that would be applied."""

    cluster: Cluster
    plan: Plan
    rendered: tuple[Object, ...]

    @cached_property
    def objects(self) -> list[Object]:
        return [without_comments(found) for found in self.rendered]

    @cached_property
    def pods(self) -> list[tuple[str, Object]]:
        """Name of the Deployment → the pod's ``spec``, of everything that would be applied."""
        return [
            (found["metadata"]["name"], found["spec"]["template"]["spec"])
            for found in self.objects
            if found["kind"] == "Deployment"
        ]

    @cached_property
    def replica(self) -> Object:
        """``spec`` of a replica's pod."""
        return dict(self.pods)[self.plan.replica]

    @cached_property
    def wanted(self) -> int:
        """How many replicas there are to be, a canary's too: with an autoscaler, the fewest."""
        scaling = self.plan.section.autoscaling
        least = 0 if scaling is None else scaling.min
        return sum(least if track.count is None else track.count for track in self.plan.tracks)

    @cached_property
    def nodes(self) -> list[Object]:
        return self.cluster.list(NODE)

    @cached_property
    def running(self) -> list[Object]:
        """All pods of the cluster that have not ended."""
        return [pod for pod in self.cluster.list(POD) if pod.get("status", {}).get("phase") not in _ENDED]

    @cached_property
    def services(self) -> list[Object]:
        return self.cluster.list(SERVICE)

    @cached_property
    def daemons(self) -> list[Object]:
        return self.cluster.list(DAEMON_SET)

    @cached_property
    def namespace(self) -> Object | None:
        """The deployment's namespace, if it is there already."""
        return self.cluster.get(NAMESPACE, self.plan.namespace)

    def resources_of(self, version: str) -> set[str]:
        """Plurals of what the API serves of a version such as ``metrics.k8s.io/v1beta1``; nothing if it does not."""
        found = self.cluster.raw(f"/apis/{version}", of=version)
        return set() if found is None else {entry["name"] for entry in found.get("resources") or ()}


Check = Callable[[Question], Iterator[Finding]]


def condition(found: Object, name: str) -> Any:
    """A condition of an object's status: ``True``, ``False`` or ``Unknown``; None if it has none of that name."""
    conditions = found.get("status", {}).get("conditions") or ()
    return next((entry["status"] for entry in conditions if entry["type"] == name), None)


def unseen(check: str, error: ClusterRefusedError) -> Finding:
    """What could not be looked at."""
    return Finding(check, "warning", f"this could not be looked at: {error.message}", error.hint)
