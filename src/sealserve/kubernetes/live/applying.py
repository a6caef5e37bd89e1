"""Applying a deployment's objects: all of them, or, where the server's dry run refuses one, none.

Server-side apply: https://kubernetes.io/docs/reference/using-api/server-side-apply/.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from sealserve.errors import InputError, SealserveError
from sealserve.kubernetes.live.api import FIELD_MANAGER, Cluster
from sealserve.kubernetes.live.errors import (
    ClusterRefusedError,
    ConflictError,
    ForbiddenError,
    MissingKindError,
    ObjectsRefusedError,
)
from sealserve.kubernetes.live.handover import MADE_NAMESPACE, claim_again, with_annotations, with_scale
from sealserve.kubernetes.live.kinds import (
    AUTOSCALER,
    DEPLOYMENT,
    GATEWAY,
    GATEWAY_CLASS,
    NAMESPACE,
    POD,
    REPLICA_SET,
    SCALED_OBJECT,
    SERVICE,
    VOLUME,
    Kind,
    describe,
    kind_of,
)
from sealserve.kubernetes.live.owned import KEPT_BY_APPLY, key_brokers_in, names_of_others, owned_objects, served
from sealserve.kubernetes.live.rights import all_missing
from sealserve.kubernetes.yaml_text import Object

_PAUSE = 0.5
_NAMESPACE_PATIENCE = 60.0
_LAST = (DEPLOYMENT, AUTOSCALER, SCALED_OBJECT)  # so that what their pods mount is there
_TAKEN_OVER = "`sealserve k8s diff` shows them; --force-conflicts takes these fields from whoever set them."
_VIOLATION = "would violate PodSecurity"


@dataclass(frozen=True)
class Change:
    """What became of an object."""

    kind: str
    name: str
    what: Literal["created", "changed", "unchanged", "removed"]


@dataclass(frozen=True)
class Told:
    """Where what happens is told while it happens. A warning may be told twice."""

    change: Callable[[Change], None]
    warning: Callable[[str], None]


def apply_objects(cluster: Cluster, objects: Sequence[Object], *, told: Told, force: bool = False) -> list[Object]:
    """Apply a namespace, which is the first of ``objects``, and everything in it.

    Everything is tried by dry run first. A namespace has to be there for that: if it is not, it is made, and deleted
    again when something in it is refused.

    :param force: take fields from other managers. :returns: the objects as they are then.
    :raises ObjectsRefusedError: the dry run refuses something; tells all of it, and nothing was applied.
    :raises ForbiddenError: a permission is missing; names all that are. Nothing was applied.
    :raises SealserveError: the cluster went away in the middle. Applying once more puts right what is missing.
    """
    namespace, *others = objects
    name = namespace["metadata"]["name"]
    others.sort(key=lambda thing: kind_of(thing) in _LAST)
    try:
        live = _lasting_namespace(cluster, name, told)
        _require_kinds(cluster, others)
        _require_own_place(cluster, others, name=_instance(namespace), namespace=name)
        _require_gateway_classes(cluster, others)
        others = [_scaled(cluster, thing, told=told, force=force) for thing in others]
        namespaces = _changeable_namespace(cluster, namespace, live, told=told, force=force)
        applied: list[Object] = []
        with _unmade_if_refused(cluster, applied, new=live is None, told=told):
            if live is None:
                applied += [_apply(cluster, thing, before={}, told=told, force=force) for thing in namespaces]
            tried = list(zip(others, _dry_run(cluster, others, told=told, force=force), strict=True))
            if live is not None:
                applied += [_apply(cluster, thing, before=live, told=told, force=force) for thing in namespaces]
            # A dry run does not look whether a port of the nodes is free, so that Services come before all else.
            for thing, before in tried:
                if kind_of(thing) == SERVICE:
                    applied.append(_apply(cluster, thing, before=before, told=told, force=force))
        for thing, before in tried:
            if kind_of(thing) != SERVICE:
                applied.append(_apply(cluster, thing, before=before, told=told, force=force))
    except ForbiddenError as error:
        raise all_missing(cluster, error, _needed(objects), namespace=name) from error
    return applied


def prune(cluster: Cluster, objects: Sequence[Object], *, name: str, namespace: str, told: Told) -> None:
    """Remove what an earlier apply of the deployment ``name`` made, and is not among ``objects`` any more.

    Data and secrets stay (:data:`KEPT_BY_APPLY`): ``k8s delete`` takes them with everything else.
    """
    rendered = {(kind_of(thing), thing["metadata"]["name"]) for thing in objects}
    for thing in owned_objects(cluster, name=name, namespace=namespace):
        kind, own = kind_of(thing), thing["metadata"]["name"]
        if kind not in KEPT_BY_APPLY and (kind, own) not in rendered:
            cluster.delete(kind, own, namespace=namespace, uid=thing["metadata"]["uid"])
            told.change(Change(kind.name, own, "removed"))


def _needed(objects: Sequence[Object]) -> dict[Kind, tuple[str, ...]]:
    """What has to be permitted: to apply these objects, look at the rollout, and remove what is not rendered now."""
    verbs: dict[Kind, tuple[str, ...]] = {}
    for kind in map(kind_of, objects):
        verbs[kind] = ("get", "create", "patch") + (("list", "delete") if kind.namespaced else ())
    return verbs | {POD: ("list", "delete"), REPLICA_SET: ("list",)}


def _lasting_namespace(cluster: Cluster, name: str, told: Told) -> Object | None:
    """The namespace as it is now, if it is; one that is being deleted is waited for."""
    until = time.monotonic() + _NAMESPACE_PATIENCE
    while (live := cluster.get(NAMESPACE, name)) is not None and live["metadata"].get("deletionTimestamp"):
        told.warning(f"the namespace {name} is being deleted: it is made again when it is gone")
        if time.monotonic() > until:
            raise InputError(
                f"the namespace {name} is being deleted, and something keeps it from going",
                hint=f"`kubectl get namespace {name} -o yaml` says what. Apply again when it is gone.",
            )
        time.sleep(_PAUSE)
    return live


def _changeable_namespace(
    cluster: Cluster, namespace: Object, live: Object | None, *, told: Told, force: bool
) -> list[Object]:
    """The namespace as it is to be applied; none where it is there and others look after it."""
    if live is None or MADE_NAMESPACE in live["metadata"].get("annotations", {}):
        namespace = with_annotations(namespace, {MADE_NAMESPACE: "true"})
    try:
        _dry_run(cluster, [namespace], told=told, force=force)
    except ForbiddenError:
        if live is None:
            raise
        told.warning(
            f"the namespace {namespace['metadata']['name']} stays as it is: you may not change it. Whoever made it "
            "decides whether it enforces the restricted Pod Security Standard"
        )
        return []
    return [namespace]


def _require_kinds(cluster: Cluster, objects: Sequence[Object]) -> None:
    kinds: list[Kind] = list(dict.fromkeys(map(kind_of, objects)))
    there = served(cluster, kinds)
    if missing := [kind for kind in kinds if kind not in there]:
        raise MissingKindError(
            f"the cluster does not know {', '.join(f'{kind} ({kind.api_version})' for kind in missing)}: nothing was "
            "applied",
            status=404,
            hint="\n".join(dict.fromkeys(kind.remedy for kind in missing)),
        )


def _instance(thing: Object) -> str:
    return str(thing["metadata"]["labels"]["app.kubernetes.io/instance"])


def _require_own_place(cluster: Cluster, objects: Sequence[Object], *, name: str, namespace: str) -> None:
    if brokers := key_brokers_in(cluster, namespace):
        raise ObjectsRefusedError(
            f"the namespace {namespace} has key brokers in it ({', '.join(brokers)}), and who may read "
            "its Secrets would have the keys: nothing was applied",
            hint="Give the replicas another namespace: kubernetes.namespace.",
        )
    if taken := names_of_others(cluster, objects, name=name):
        raise ObjectsRefusedError(
            "others have what is to be applied under these names, and nothing was applied:\n"
            + "\n".join(f"  {each}" for each in taken),
            hint="Give the deployment another name, or a namespace of its own.",
        )


def _require_gateway_classes(cluster: Cluster, objects: Sequence[Object]) -> None:
    """A Gateway of a class that is not there would be taken by the API, and be waited for in vain."""
    for name in (thing["spec"]["gatewayClassName"] for thing in objects if kind_of(thing) == GATEWAY):
        with contextlib.suppress(ForbiddenError):
            if cluster.get(GATEWAY_CLASS, name) is None:
                there = ", ".join(each["metadata"]["name"] for each in cluster.list(GATEWAY_CLASS))
                raise InputError(
                    f"the cluster has no GatewayClass {name}: nothing was applied",
                    hint=f"It has: {there}. kubernetes.edge.gateway_class names one."
                    if there
                    else "It has none: install a controller of the Gateway API, which brings one.",
                )


def _scaled(cluster: Cluster, thing: Object, *, told: Told, force: bool) -> Object:
    if kind_of(thing) != DEPLOYMENT:
        return thing
    metadata = thing["metadata"]
    live = cluster.get(DEPLOYMENT, metadata["name"], namespace=metadata["namespace"])
    thing, note = with_scale(thing, live, force=force)
    if note:
        told.warning(note)
    return thing


def _dry_run(cluster: Cluster, objects: Sequence[Object], *, told: Told, force: bool) -> list[Object]:
    """What the objects would become."""
    refusals: list[tuple[str, str | None]] = []
    outcome = []
    for thing in objects:
        warnings: list[str] = []
        try:
            outcome.append(cluster.apply(thing, dry_run=True, force=force, on_warning=warnings.append))
        except ForbiddenError:
            raise
        except ClusterRefusedError as error:
            refusals.append((_explained(thing, error), error.hint))
            if isinstance(error, ConflictError):
                refusals[-1] = (refusals[-1][0], _TAKEN_OVER)
        for warning in warnings:
            # Pods are made later and by others, so that a Deployment is only warned of what its pods will not do.
            if _VIOLATION in warning:
                refusals.append((f"{describe(thing)}: {warning}", None))
            else:
                told.warning(f"{describe(thing)}: {warning}")
    if refusals:
        raise ObjectsRefusedError(
            f"the cluster refuses {len(refusals)} of {len(objects)} objects, and nothing was applied:\n"
            + "\n".join(f"  {text}" for text, _ in refusals),
            hint="\n".join(dict.fromkeys(hint for _, hint in refusals if hint)) or None,
        )
    return outcome


def _explained(thing: Object, error: ClusterRefusedError) -> str:
    if isinstance(error, ConflictError) and error.owned is not None:
        return f"{describe(thing)}: somebody else has set {error.owned}"
    text = error.message.removeprefix(f"the cluster refuses {describe(thing)}: ")
    return f"{describe(thing)}: {text}"


@contextlib.contextmanager
def _unmade_if_refused(cluster: Cluster, applied: Sequence[Object], *, new: bool, told: Told) -> Iterator[None]:
    """Delete the namespace that was made just now, if the block fails or is interrupted: that very one, and not if
    somebody else made it in the same moment.

    :param applied: what was applied in the block. :param new: whether that began with a namespace.
    """
    try:
        yield
    except BaseException:
        for metadata in (thing["metadata"] for thing in applied[:1] if new):
            if {entry["manager"] for entry in metadata.get("managedFields", ())} <= {FIELD_MANAGER}:
                with contextlib.suppress(SealserveError):
                    if cluster.delete(NAMESPACE, metadata["name"], uid=metadata["uid"]):
                        told.change(Change(NAMESPACE.name, metadata["name"], "removed"))
        raise


def _apply(cluster: Cluster, thing: Object, *, before: Object, told: Told, force: bool) -> Object:
    """Apply one object. :param before: what the dry run gave."""
    after = cluster.apply(thing, force=force, on_warning=lambda text: told.warning(f"{describe(thing)}: {text}"))
    if kind_of(thing) == VOLUME:
        claim_again(cluster, after)
    told.change(Change(thing["kind"], thing["metadata"]["name"], _what(before, after)))
    return after


def _what(before: Object, after: Object) -> Literal["created", "changed", "unchanged"]:
    version = before.get("metadata", {}).get("resourceVersion")
    if not version:
        return "created"
    return "unchanged" if version == after["metadata"]["resourceVersion"] else "changed"
