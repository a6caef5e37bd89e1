"""Taking a deployment out of a cluster, so that nothing of it is left.

Everything is found by its labels, whatever the deployment says today, so that a second run takes what a first one, or
an edge of another kind, left behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sealserve.errors import UnavailableError
from sealserve.kubernetes.live import kinds
from sealserve.kubernetes.live.api import Cluster
from sealserve.kubernetes.live.applying import Change
from sealserve.kubernetes.live.errors import ForbiddenError, MissingKindError, RolloutTimeoutError
from sealserve.kubernetes.live.handover import MADE_NAMESPACE
from sealserve.kubernetes.live.kinds import NAMESPACE, POD, Kind, describe, kind_of
from sealserve.kubernetes.live.owned import MADE, owned_objects, selector, served
from sealserve.kubernetes.live.rights import all_missing
from sealserve.kubernetes.plan import COMPONENT_LABEL
from sealserve.kubernetes.yaml_text import Object

_PAUSE = 1.0
_WORKLOADS = frozenset({kinds.SCALED_OBJECT, kinds.AUTOSCALER, kinds.DEPLOYMENT, kinds.REPLICA_SET})
_BY_KUBERNETES = frozenset({("configmaps", "kube-root-ca.crt"), ("serviceaccounts", "default")})
"""What Kubernetes makes in every namespace."""
_OF_OTHERS = frozenset({"events", "endpoints", "pods.metrics.k8s.io", "events.events.k8s.io"})
"""What comes and goes with other objects."""
_MOST_TOLD = 10
_AT_ONCE = 1  # seconds, as `kubectl delete --now` has it


@dataclass(frozen=True)
class Deleted:
    """What is left of it. :ivar kept: why the namespace is still there; None if it is not."""

    kept: str | None = None


def delete_deployment(
    cluster: Cluster,
    *,
    name: str,
    namespace: str,
    keep_namespace: bool = False,
    now: bool = False,
    timeout: float,
    on_change: Callable[[Change], None],
    on_wait: Callable[[str], None],
) -> Deleted:
    """Delete the deployment ``name``: first what leads clients to it, then its replicas, and when their pods are gone
    the rest; at last the namespace, if ``k8s apply`` made it and nothing else is in it.

    :param now: do not let pods finish what is in flight. :param timeout: in seconds, for all of it.
    :param on_change: called with each object that is deleted.
    :param on_wait: called with what is waited for, again and again.
    :raises ForbiddenError: a permission is missing; names all that are.
    :raises RolloutTimeoutError: something is not gone in time. Deleting once more goes on with it.
    """
    until = time.monotonic() + timeout

    def left() -> list[Object]:
        return owned_objects(cluster, name=name, namespace=namespace)

    def pods() -> list[Object]:
        found = cluster.list(POD, namespace=namespace, labels=selector(name))
        if now:
            _delete(cluster, found, lambda _: None, grace=_AT_ONCE)
        return found

    try:
        found = sorted(left(), key=lambda thing: not _is_edge(thing))
        workloads = [thing for thing in found if _is_edge(thing) or kind_of(thing) in _WORKLOADS]
        _delete(cluster, workloads, on_change, orphaning=now)
        if now:
            sets = cluster.list(kinds.REPLICA_SET, namespace=namespace, labels=selector(name))
            _delete(cluster, sets, lambda _: None, orphaning=True)
        _wait(pods, until, on_wait)
        _delete(cluster, left(), on_change)
        _wait(left, until, on_wait)
        kept = _delete_namespace(cluster, namespace, keep=keep_namespace, on_change=on_change)
        if kept is None:
            _wait(lambda: [found for found in [cluster.get(NAMESPACE, namespace)] if found], until, on_wait)
    except ForbiddenError as error:
        needed: dict[Kind, tuple[str, ...]] = {
            POD: ("list", "delete") if now else ("list",),
            NAMESPACE: ("get", "delete"),
        }
        needed |= dict.fromkeys(served(cluster, MADE), ("list", "delete"))
        raise all_missing(cluster, error, needed, namespace=namespace) from error
    return Deleted(kept)


def _is_edge(thing: Object) -> bool:
    return bool(thing["metadata"]["labels"].get(COMPONENT_LABEL) == "edge")


def _delete(
    cluster: Cluster,
    things: Iterable[Object],
    on_change: Callable[[Change], None],
    *,
    orphaning: bool = False,
    grace: int | None = None,
) -> None:
    """:param orphaning: leave the pods of Deployments and ReplicaSets to us. Kubernetes would delete them with the time
    that they ask for, and kubelet does not shorten that once it has begun.
    """
    for thing in things:
        kind, metadata = kind_of(thing), thing["metadata"]
        if metadata.get("deletionTimestamp"):
            continue
        alone = orphaning and kind in (kinds.DEPLOYMENT, kinds.REPLICA_SET)
        if cluster.delete(
            kind,
            metadata["name"],
            namespace=metadata.get("namespace"),
            uid=metadata.get("uid"),
            propagation="Orphan" if alone else "Background",
            grace=grace,
        ):
            on_change(Change(thing["kind"], metadata["name"], "removed"))


def _wait(left: Callable[[], list[Object]], until: float, on_wait: Callable[[str], None]) -> None:
    while things := left():
        names = [describe({"kind": "Pod", **thing}) for thing in things]
        text = ", ".join(names[:_MOST_TOLD]) + (f" and {len(names) - _MOST_TOLD} more" if names[_MOST_TOLD:] else "")
        on_wait(text)
        if time.monotonic() >= until:
            raise RolloutTimeoutError(
                f"not everything is gone in time: {text}", hint="Run it again: it goes on where it is now."
            )
        time.sleep(_PAUSE)


def _delete_namespace(
    cluster: Cluster, namespace: str, *, keep: bool, on_change: Callable[[Change], None]
) -> str | None:
    """Delete it, or say why not."""
    live = cluster.get(NAMESPACE, namespace)
    if live is None or live["metadata"].get("deletionTimestamp"):
        return None
    if keep:
        return "you asked for it"
    if MADE_NAMESPACE not in live["metadata"].get("annotations", {}):
        return "it was not made by `sealserve k8s apply`"
    if others := _foreign(cluster, namespace):
        more = f" and {len(others) - _MOST_TOLD} more" if others[_MOST_TOLD:] else ""
        return f"others have something in it: {', '.join(others[:_MOST_TOLD])}{more}"
    _delete(cluster, [{"apiVersion": "v1", "kind": "Namespace", **live}], on_change)
    return None


def _foreign(cluster: Cluster, namespace: str) -> list[str]:
    """What is left in a namespace that is not a deployment's, of any kind that the cluster has."""
    found = []
    every = _all_kinds(cluster)
    owners = {(_group(kind.api_version), kind.name) for kind in every}
    for kind in every:
        try:
            things = cluster.list(kind, namespace=namespace)
        except MissingKindError:
            continue
        except (ForbiddenError, UnavailableError):
            found.append(f"{kind.plural} that we cannot see")
            continue
        for thing in things:
            metadata = thing["metadata"]
            # What has its owner outside of the namespace would not go by itself, and somebody needs it.
            follows = any((_group(each["apiVersion"]), each["kind"]) in owners for each in _owners(metadata))
            follows |= thing.get("type") == "kubernetes.io/service-account-token"
            if not follows and (kind.plural, metadata["name"]) not in _BY_KUBERNETES:
                found.append(describe(thing))
    return found


def _all_kinds(cluster: Cluster) -> list[Kind]:
    """All kinds of objects in namespaces that can be listed. Some are in older versions of their group alone."""
    groups = cluster.raw("/apis", of="the kinds of objects") or {}
    versions = ["v1"]
    for group in groups.get("groups", ()):
        versions += [each["groupVersion"] for each in (group["preferredVersion"], *group.get("versions", ()))]
    found: dict[tuple[str, str], Kind] = {}
    for version in dict.fromkeys(versions):
        told = cluster.raw(f"/apis/{version}" if "/" in version else f"/api/{version}", of=version) or {}
        for resource in told.get("resources", ()):
            plural, group = resource["name"], _group(version)
            usable = resource["namespaced"] and "list" in resource["verbs"] and "/" not in plural
            if usable and (f"{plural}.{group}" if group else plural) not in _OF_OTHERS:
                found.setdefault((group, plural), Kind(version, resource["kind"], plural))
    return list(found.values())


def _owners(metadata: Object) -> Sequence[Object]:
    return metadata.get("ownerReferences") or ()


def _group(version: str) -> str:
    return version.rpartition("/")[0]
