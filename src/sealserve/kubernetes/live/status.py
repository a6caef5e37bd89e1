"""A deployment in a cluster as it is now: its replicas, and what they need around them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sealserve.addresses import Address
from sealserve.errors import UnavailableError
from sealserve.kubernetes.live.api import Cluster
from sealserve.kubernetes.live.autoscaling import Autoscaler, autoscaler_of
from sealserve.kubernetes.live.edge_state import EdgeState, edge_state
from sealserve.kubernetes.live.errors import ClusterRefusedError, ForbiddenError
from sealserve.kubernetes.live.kinds import (
    DEPLOYMENT,
    ENDPOINT_SLICE,
    NETWORK_POLICY,
    SERVICE,
)
from sealserve.kubernetes.live.progress_of import all_unfinished
from sealserve.kubernetes.live.replica_state import ReplicaState, State, creation_failure
from sealserve.kubernetes.live.reporter import Reporter
from sealserve.kubernetes.live.said import served_model
from sealserve.kubernetes.live.templates import TemplateReader, Templates, is_old, newest_first
from sealserve.kubernetes.plan import CANARY, COMPONENT_LABEL, STABLE, Plan

_LINES = 1000
_MOST_ASKED = 20
_MODELS_SECONDS = 30.0
_UNKNOWN = "not known: you may not read it"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Status:
    """A deployment in a cluster.

    :ivar wanted: how many replicas there should be, without a canary's; None if the cluster has none of the
        deployment. :ivar canaries: how many a canary should have; None if there is none.
    :ivar models: pod → the model that it said it serves, as ``NAME/VERSION``.
    :ivar rollout: what a rollout waits for; None if there is none. :ivar trouble: why the cluster makes no pods.
    :ivar autoscaler: the bounds that somebody gave it; None without one. :ivar scaling: why it does not scale.
    :ivar broker: each broker's address as replicas are told it, and what stands behind that name in the cluster.
    :ivar policies: names of the NetworkPolicies that are there, or words about them.
    :ivar templates: that replicas are to have, as far as the cluster has said.
    """

    wanted: int | None
    canaries: int | None = None
    replicas: tuple[ReplicaState, ...] = ()
    models: dict[str, str] = field(default_factory=dict)
    rollout: str | None = None
    trouble: str | None = None
    autoscaler: str | None = None
    scaling: str | None = None
    edge: EdgeState | None = None
    broker: dict[str, str | None] = field(default_factory=dict)
    policies: str | None = None
    templates: Templates = field(default_factory=dict)

    @property
    def serving(self) -> int:
        """How many replicas serve, without a canary's."""
        return sum(each.state is State.SERVING and not each.canary for each in self.replicas)

    @property
    def canaries_serving(self) -> int:
        return sum(each.state is State.SERVING and each.canary for each in self.replicas)

    @property
    def old_serving(self) -> int:
        """How many of those that serve, without a canary's, are from before a rollout."""
        old = [each for each in self.replicas if not each.canary and is_old(each, self.templates)]
        return sum(each.state is State.SERVING for each in old)

    @property
    def complete(self) -> bool:
        """Whether all replicas that are wanted serve, a canary's too, and no rollout is on its way."""
        if self.wanted is None or self.rollout is not None:
            return False
        return self.serving >= self.wanted and self.canaries_serving >= (self.canaries or 0)

    def as_dict(self) -> dict[str, Any]:
        """As scripts read it."""
        edge = self.edge
        return {
            "complete": self.complete,
            "wanted": self.wanted,
            "serving": self.serving,
            "serving_from_before": self.old_serving,
            "canary": None if self.canaries is None else {"wanted": self.canaries, "serving": self.canaries_serving},
            "rollout": self.rollout,
            "trouble": self.trouble,
            "autoscaler": self.autoscaler,
            "scaling": self.scaling,
            "edge": None if edge is None else {"ready": edge.ready, "reason": edge.reason, "doors": edge.doors},
            "broker": self.broker,
            "policies": self.policies,
            "replicas": [
                {
                    **vars(each),
                    "since": None if each.since is None else each.since.isoformat(),
                    "old": is_old(each, self.templates),
                    "model": self.models.get(each.pod),
                }
                for each in self.replicas
            ],
        }


class StatusReader:
    """Reads the status again and again."""

    def __init__(self, cluster: Cluster, plan: Plan) -> None:
        self._cluster = cluster
        self._plan = plan
        self._reporter = Reporter(cluster, plan)
        self._templates = TemplateReader(cluster, plan)
        self._models: dict[str, str] = {}
        self._models_read = float("-inf")

    def read(self) -> Status:
        """The status now. What may not be read is left out, or said to be so.

        :raises ForbiddenError: neither Deployments nor pods may be read.
        """
        cluster, plan = self._cluster, self._plan
        deployments = cluster.list(DEPLOYMENT, namespace=plan.namespace, labels=plan.every_replica)
        wanted = {
            each["metadata"]["labels"][COMPONENT_LABEL]: int(each["spec"].get("replicas", 1)) for each in deployments
        }
        if STABLE not in wanted:
            return Status(wanted=None)
        templates: Templates = {}
        with contextlib.suppress(ClusterRefusedError):  # who may not read ReplicaSets gets no marks
            templates = self._templates.read(deployments)
        replicas = tuple(newest_first(self._reporter.states(), templates))
        scaler = _unless_forbidden(lambda: autoscaler_of(cluster, plan), _UNKNOWN)
        return Status(
            wanted=wanted[STABLE],
            canaries=wanted.get(CANARY),
            replicas=replicas,
            models=self._served_models([each for each in replicas if each.state is State.SERVING]),
            rollout=all_unfinished(deployments),
            trouble=next(filter(None, map(creation_failure, deployments)), None),
            autoscaler=scaler.bounds if isinstance(scaler, Autoscaler) else scaler,
            scaling=scaler.trouble if isinstance(scaler, Autoscaler) else None,
            edge=self._edge(),
            broker={str(address): self._behind(address) for address in plan.brokers},
            policies=_unless_forbidden(self._policies, _UNKNOWN),
            templates=templates,
        )

    def _served_models(self, replicas: list[ReplicaState]) -> dict[str, str]:
        """By the replicas' logs, one request for each of them now and then; not for large deployments."""
        if len(replicas) > _MOST_ASKED:
            return {}
        again = time.monotonic() - self._models_read >= _MODELS_SECONDS
        silent: set[str | None] = set()
        for pod, node in ((each.pod, each.node) for each in replicas):
            if node in silent or (pod in self._models and not again):
                continue
            try:
                log = self._cluster.logs(pod, namespace=self._plan.namespace, tail=_LINES, quick=True)
            except ClusterRefusedError:
                continue
            except UnavailableError:
                silent.add(node)
                continue
            if (found := served_model(log)) is not None:
                self._models[pod] = f"{found[0]}/{found[1]}"
        if again:
            self._models_read = time.monotonic()
        return {each.pod: self._models[each.pod] for each in replicas if each.pod in self._models}

    def _edge(self) -> EdgeState:
        try:
            return edge_state(self._cluster, self._plan)
        except ClusterRefusedError as error:
            return EdgeState(False, error.message)

    def _behind(self, address: Address) -> str | None:
        """What a broker's name leads to; None for names that are not the deployment's to explain."""
        plan = self._plan
        if plan.section.broker is None or address.host.split(".")[0] != plan.broker_service:
            return None
        return _unless_forbidden(self._broker_service, _UNKNOWN)

    def _broker_service(self) -> str:
        cluster, plan = self._cluster, self._plan
        service = cluster.get(SERVICE, plan.broker_service, namespace=plan.namespace)
        if service is None:
            return f"nothing: there is no Service {plan.broker_service}"
        if (name := service["spec"].get("externalName")) is not None:
            return str(name)
        labels = {"kubernetes.io/service-name": plan.broker_service}
        slices = cluster.list(ENDPOINT_SLICE, namespace=plan.namespace, labels=labels)
        addresses = [
            address for each in slices for point in each.get("endpoints") or () for address in point["addresses"]
        ]
        return ", ".join(addresses) or "nothing: its EndpointSlice has no address"

    def _policies(self) -> str:
        labels = {"app.kubernetes.io/instance": self._plan.name}
        found = self._cluster.list(NETWORK_POLICY, namespace=self._plan.namespace, labels=labels)
        return ", ".join(each["metadata"]["name"] for each in found) or "none"


def _unless_forbidden(read: Callable[[], _T], otherwise: str) -> _T | str:
    try:
        return read()
    except ForbiddenError:
        return otherwise
