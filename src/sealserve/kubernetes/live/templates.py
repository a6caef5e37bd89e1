"""Which replicas are of the pod template that is to run, and which are from before.

A pod says which template it is made from by the label ``pod-template-hash``, which it has from its ReplicaSet; the
ReplicaSet that a Deployment makes pods with now is the one that has the same ``deployment.kubernetes.io/revision``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sealserve.kubernetes.live.api import Cluster
from sealserve.kubernetes.live.kinds import REPLICA_SET
from sealserve.kubernetes.live.progress_of import is_observed
from sealserve.kubernetes.live.replica_state import ReplicaState, State
from sealserve.kubernetes.plan import CANARY, COMPONENT_LABEL, STABLE, Plan
from sealserve.kubernetes.yaml_text import Object

_REVISION = "deployment.kubernetes.io/revision"

Templates = Mapping[str, str | None]
"""Component (``replica`` or ``canary``) → hash of the template that its pods are to have; None if there are to be none
of it. What the cluster has not said yet is not among them."""


class TemplateReader:
    """Reads templates again and again: ReplicaSets, which have the hashes, are asked for once for each revision."""

    def __init__(self, cluster: Cluster, plan: Plan) -> None:
        self._cluster = cluster
        self._plan = plan
        self._hashes: dict[tuple[str, str], str] = {}  # of a Deployment's uid and revision

    def read(self, deployments: Iterable[Object]) -> Templates:
        """The templates of these Deployments, as far as the cluster has seen them and says so.

        :raises ClusterRefusedError: ReplicaSets may not be read.
        """
        by_component = {each["metadata"]["labels"][COMPONENT_LABEL]: each for each in deployments}
        keys = {name: _key(each) for name, each in by_component.items() if is_observed(each)}
        if not set(keys.values()) <= self._hashes.keys():
            self._ask({keys[name]: by_component[name] for name in keys})
        found: dict[str, str | None] = {
            component: self._hashes[key] for component, key in keys.items() if key in self._hashes
        }
        return {each: None for each in (STABLE, CANARY) if each not in by_component} | found

    def _ask(self, deployments: Mapping[tuple[str, str], Object]) -> None:
        for each in self._cluster.list(REPLICA_SET, namespace=self._plan.namespace, labels=self._plan.every_replica):
            metadata = each["metadata"]
            revision = str(metadata.get("annotations", {}).get(_REVISION))
            for key in ((str(owner["uid"]), revision) for owner in metadata.get("ownerReferences", ())):
                if key not in deployments or not _is_before(each, deployments[key]):
                    self._hashes[key] = str(metadata.get("labels", {}).get("pod-template-hash"))


def _is_before(replica_set: Object, deployment: Object) -> bool:
    """Whether the Deployment has a change that its revision does not tell yet, as when its number of replicas changes
    together with its template: it counts no new pods then, and those of that revision are from before.
    """
    new = deployment.get("status", {}).get("updatedReplicas", 0)
    return not new and bool(replica_set.get("status", {}).get("replicas", 0))


def all_known(templates: Templates) -> bool:
    """Whether it is known of every replica if it is from before."""
    return {STABLE, CANARY} <= templates.keys()


def is_current(each: ReplicaState, templates: Templates) -> bool:
    """Whether a replica is known to be of the template that is to run."""
    return each.template is not None and each.template == templates.get(_component(each))


def is_old(each: ReplicaState, templates: Templates) -> bool:
    """Whether a replica is known to be from before."""
    return _component(each) in templates and not is_current(each, templates)


def newest_first(replicas: Iterable[ReplicaState], templates: Templates) -> list[ReplicaState]:
    """New ones, of these first what needs looking at; then those from before."""
    return sorted(replicas, key=lambda each: (is_old(each, templates), each.state is State.SERVING))


def _component(each: ReplicaState) -> str:
    return CANARY if each.canary else STABLE


def _key(deployment: Object) -> tuple[str, str]:
    metadata = deployment["metadata"]
    return str(metadata.get("uid")), str(metadata.get("annotations", {}).get(_REVISION))
