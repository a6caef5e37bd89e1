"""Which objects of a cluster belong to a deployment, by their labels."""

from __future__ import annotations

from collections.abc import Iterable

from sealserve.kubernetes.live import kinds
from sealserve.kubernetes.live.api import Cluster
from sealserve.kubernetes.live.errors import ForbiddenError, MissingKindError
from sealserve.kubernetes.live.kinds import Kind
from sealserve.kubernetes.yaml_text import Object

_INSTANCE, _MANAGER = "app.kubernetes.io/instance", "app.kubernetes.io/managed-by"

KEPT_BY_APPLY = frozenset({kinds.VOLUME, kinds.CLAIM, kinds.SECRET})
"""What is not removed because it is not rendered any more: data, and secrets."""

MADE = (
    kinds.TLS_ROUTE,
    kinds.GATEWAY,
    kinds.TRANSPORT_SERVER,
    kinds.SCALED_OBJECT,
    kinds.AUTOSCALER,
    kinds.POD_MONITOR,
    kinds.SERVICE_MONITOR,
    kinds.PROMETHEUS_RULE,
    kinds.DEPLOYMENT,
    kinds.REPLICA_SET,
    kinds.DISRUPTION_BUDGET,
    kinds.ENDPOINT_SLICE,
    kinds.SERVICE,
    kinds.NETWORK_POLICY,
    kinds.CONFIG_MAP,
    kinds.SECRET,
    kinds.SERVICE_ACCOUNT,
    kinds.CLAIM,
    kinds.VOLUME,
)
"""Every kind that a rendering may have, whatever its settings, but the namespace. ReplicaSets are among them without
their Deployment, if deleting was interrupted."""


def selector(name: str) -> dict[str, str]:
    """The labels of all objects of the deployment ``name``."""
    return {_INSTANCE: name, _MANAGER: "sealserve"}


def owned_objects(cluster: Cluster, *, name: str, namespace: str) -> list[Object]:
    """All objects of the deployment ``name`` in a namespace, and its PersistentVolumes that are for claims there.

    What a controller made, such as the EndpointSlices of a Service, goes with its owner and is left out. Kinds that
    are not Kubernetes' own are passed over where the cluster does not have them or does not show them to us: whoever
    may not list them has not made any.
    """
    found: list[Object] = []
    for kind in served(cluster, MADE):
        try:
            things = cluster.list(kind, namespace=namespace if kind.namespaced else None, labels=selector(name))
        except MissingKindError:
            continue
        except ForbiddenError:
            if kind.comes_with is None and kind.namespaced:
                raise
            continue
        found += [thing for thing in things if _is_ours(thing, kind, namespace)]
    return found


def names_of_others(cluster: Cluster, objects: Iterable[Object], *, name: str) -> list[str]:
    """Which of the objects to be applied have the names of other deployments' objects, each with whose it is.

    Deployments in one namespace may come to the same name of a Service (``photos`` has ``photos-edge``, and so has
    ``photos-edge``), those of two namespaces to that of a volume; a Gateway's is chosen. All are applied under one
    field manager, so that the API server would see no conflict.
    """
    found = []
    for thing in objects:
        kind, metadata = kinds.kind_of(thing), thing["metadata"]
        if kind not in (kinds.SERVICE, kinds.GATEWAY, kinds.VOLUME):
            continue
        live = cluster.get(kind, metadata["name"], namespace=metadata.get("namespace"))
        if live is None:
            continue
        labels, what = live["metadata"].get("labels") or {}, kinds.describe(thing)
        if labels.get(_MANAGER) == "sealserve" and labels.get(_INSTANCE) != name:
            found.append(f"{what} is the deployment {labels.get(_INSTANCE)}'s")
        elif kind == kinds.VOLUME and _claim(live) != _claim(thing):
            found.append(f"{what} is for {_claim(live)}")
    return found


def key_brokers_in(cluster: Cluster, namespace: str) -> list[str]:
    """Names of Deployments of key brokers in a namespace, whose Secrets are the keys of their owner."""
    labels = {"app.kubernetes.io/component": "key-broker", _MANAGER: "sealserve"}
    return [thing["metadata"]["name"] for thing in cluster.list(kinds.DEPLOYMENT, namespace=namespace, labels=labels)]


def served(cluster: Cluster, wanted: Iterable[Kind]) -> list[Kind]:
    """Those kinds that the cluster has. Kubernetes' own are taken to be there."""
    answers: dict[str, set[str]] = {}
    for kind in wanted:
        if kind.comes_with is not None and kind.api_version not in answers:
            told = cluster.raw(f"/apis/{kind.api_version}", of=kind.api_version) or {}
            answers[kind.api_version] = {resource["name"] for resource in told.get("resources", ())}
    return [kind for kind in wanted if kind.comes_with is None or kind.plural in answers[kind.api_version]]


def _claim(volume: Object) -> str:
    claim = volume["spec"].get("claimRef") or {}
    return f"{claim.get('namespace')}/{claim.get('name')}"


def _is_ours(thing: Object, kind: Kind, namespace: str) -> bool:
    if thing["metadata"].get("ownerReferences"):
        return False
    if kind == kinds.VOLUME:  # another deployment of the same name may run in another namespace
        return bool(thing["spec"].get("claimRef", {}).get("namespace") == namespace)
    return True
