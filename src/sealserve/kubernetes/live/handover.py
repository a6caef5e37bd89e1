"""What an apply takes over from the cluster as it is, instead of setting it back."""

from __future__ import annotations

import copy

from sealserve.kubernetes.live.api import FIELD_MANAGER, Cluster
from sealserve.kubernetes.live.kinds import VOLUME
from sealserve.kubernetes.yaml_text import Object

MADE_NAMESPACE = "sealserve.dev/made"
"""Annotation of a namespace that ``k8s apply`` made, and ``k8s delete`` may delete."""


def with_annotations(thing: Object, annotations: dict[str, str]) -> Object:
    """The same object with annotations of its own, which are no part of a pod template."""
    if not annotations:
        return thing
    metadata = thing["metadata"]
    return {**thing, "metadata": {**metadata, "annotations": {**metadata.get("annotations", {}), **annotations}}}


def with_scale(deployment: Object, live: Object | None, *, force: bool) -> tuple[Object, str | None]:
    """A Deployment with as many replicas as it is to have after an apply, and what there is to say about it.

    How many replicas there are is left to whoever said so last: ``kubectl scale``, ``k8s scale``, an autoscaler. Where
    an apply said so, and an autoscaler is to say so from now on, the number stays in what is applied until it has: a
    field that its only owner leaves out would go back to 1. See
    https://kubernetes.io/docs/reference/using-api/server-side-apply/#transferring-ownership.

    :param live: the Deployment in the cluster. :param force: have as many as are rendered.
    """
    if live is None:
        return deployment, None
    wanted, now = deployment["spec"].get("replicas"), live["spec"].get("replicas", 1)
    owners = _owners_of_replicas(live)
    ours = (FIELD_MANAGER, "Apply") in owners
    deployment = copy.copy(deployment)
    if wanted is None:
        if ours:
            deployment["spec"] = {**deployment["spec"], "replicas": now}
        return deployment, None
    if ours or not owners or wanted == now or force:
        return deployment, None
    deployment["spec"] = {name: value for name, value in deployment["spec"].items() if name != "replicas"}
    who = ", ".join(sorted({manager for manager, _ in owners}))
    return deployment, (
        f"{deployment['metadata']['name']} keeps {now} replicas, as {who} set it; --force-conflicts makes it the "
        f"{wanted} of the deployment"
    )


def claim_again(cluster: Cluster, volume: Object) -> None:
    """Let a PersistentVolume of ours be claimed once more, if its claim was deleted and made anew.

    It remembers the old claim by its uid, and would stay ``Released`` for ever.
    """
    if volume.get("status", {}).get("phase") in {"Released", "Failed"}:
        cluster.patch(
            VOLUME, volume["metadata"]["name"], {"spec": {"claimRef": {"uid": None, "resourceVersion": None}}}
        )


def _owners_of_replicas(deployment: Object) -> set[tuple[str, str]]:
    """Who set ``spec.replicas``: names of field managers, and the operation."""
    return {
        (entry["manager"], entry["operation"])
        for entry in deployment["metadata"].get("managedFields", ())
        if "f:replicas" in entry.get("fieldsV1", {}).get("f:spec", {})
    }
