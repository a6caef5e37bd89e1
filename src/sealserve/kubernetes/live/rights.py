"""What whoever the kubeconfig names may not do, told all at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sealserve.kubernetes.live.api import Cluster
from sealserve.kubernetes.live.errors import ForbiddenError
from sealserve.kubernetes.live.kinds import Kind

_REVIEW = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


def all_missing(
    cluster: Cluster, error: ForbiddenError, needed: Mapping[Kind, Sequence[str]], *, namespace: str
) -> ForbiddenError:
    """An error that names everything that is not permitted, in the place of the first one.

    Source: https://kubernetes.io/docs/reference/access-authn-authz/authorization/#checking-api-access.

    :param needed: kinds of objects, and the verbs that will be needed for them.
    """
    missing = []
    for kind, verbs in needed.items():
        denied = [verb for verb in verbs if not is_allowed(cluster, verb, kind, namespace)]
        if denied:
            where = f" in {namespace}" if kind.namespaced else ""
            missing.append(f"{', '.join(denied)} {_resource(kind)}{where}")
    if not missing or error.status == 401:
        return error
    return ForbiddenError(
        "the cluster does not permit what is needed:\n" + "\n".join(f"  {line}" for line in missing),
        status=error.status,
        hint=error.hint,
    )


def is_allowed(cluster: Cluster, verb: str, kind: Kind, namespace: str, *, subresource: str = "") -> bool:
    """Whether whoever the kubeconfig names may do this to objects of a kind, in the namespace if the kind has one."""
    group, _, version = kind.api_version.rpartition("/")
    asked = {"verb": verb, "group": group, "version": version, "resource": kind.plural}
    if subresource:
        asked["subresource"] = subresource
    if kind.namespaced:
        asked["namespace"] = namespace
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }
    return bool(cluster.post(_REVIEW, review, of="a review of access")["status"].get("allowed"))


def _resource(kind: Kind) -> str:
    group = kind.api_version.rpartition("/")[0]
    return f"{kind.plural}.{group}" if group else kind.plural
