"""Taking a deployment away: in which order, and what stays."""

from __future__ import annotations

from typing import Any

import pytest
from live_case import Case

from sealserve.kubernetes.live import deleting, kinds
from sealserve.kubernetes.live.deleting import Deleted, delete_deployment
from sealserve.kubernetes.live.errors import ForbiddenError, RolloutTimeoutError
from sealserve.kubernetes.live.kinds import NAMESPACE


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deleting, "_PAUSE", 0.01)


def _delete(case: Case, **options: Any) -> Deleted:
    options = {"timeout": 2.0, "name": "photos", "namespace": "serving", **options}
    return delete_deployment(case.cluster, on_change=case.changes.append, on_wait=case.warnings.append, **options)


def test_nothing_is_left_and_the_edge_goes_first(case: Case) -> None:
    case.apply()
    case.server.log.clear()
    assert _delete(case) == Deleted(None)
    assert case.server.objects == {}
    gone = [line.removeprefix("DELETE ") for line in case.server.log if line.startswith("DELETE")]
    assert (
        gone.index("Deployment/photos-edge") < gone.index("Deployment/photos-replica") < gone.index("Secret/x")
        if "Secret/x" in gone
        else gone.index("Deployment/photos-edge") < gone.index("Deployment/photos-replica")
    )
    assert gone.index("Deployment/photos-replica") < gone.index("PersistentVolumeClaim/photos-sealed-model")
    assert gone[-1] == "Namespace/serving"
    assert _delete(case) == Deleted(None)


def test_the_edge_of_another_kind_is_found_and_missing_kinds_are_passed_over(case: Case) -> None:
    case.plan, objects = case.deployment("gateway-simulated", namespace="serving")
    case.apply(objects)
    case.server.missing = {kinds.TRANSPORT_SERVER, kinds.POD_MONITOR, kinds.SCALED_OBJECT}
    _delete(case)
    assert case.server.objects == {}


def test_a_namespace_with_things_of_others_stays_and_names_them(case: Case) -> None:
    case.apply()
    root = {"name": "kube-root-ca.crt", "namespace": "serving"}
    case.server.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": root})
    foreign = {"name": "theirs", "namespace": "serving"}
    case.server.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": foreign})
    assert _delete(case).kept == "others have something in it: ConfigMap theirs"
    assert {thing["metadata"]["name"] for thing in case.server.find(kinds.CONFIG_MAP)} == {"kube-root-ca.crt", "theirs"}


def test_a_namespace_that_others_made_stays(case: Case) -> None:
    case.server.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "serving"}})
    case.apply()
    assert "not made by" in str(_delete(case).kept)
    assert case.server.find(NAMESPACE)


def test_a_namespace_can_be_kept(case: Case) -> None:
    case.apply()
    assert _delete(case, keep_namespace=True).kept
    assert [thing["kind"] for thing in case.server.objects.values()] == ["Namespace"]


def test_a_volume_of_another_namespace_stays(case: Case) -> None:
    case.apply()
    other = case.server.find(kinds.VOLUME)[0]
    labels = other["metadata"]["labels"]
    claim = {"namespace": "elsewhere", "name": "photos-sealed-model"}
    metadata = {"name": "elsewhere-photos", "labels": labels}
    case.server.put({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": {"claimRef": claim}})
    _delete(case)
    assert [thing["metadata"]["name"] for thing in case.server.objects.values()] == ["elsewhere-photos"]


def test_pods_that_do_not_go_are_named(case: Case) -> None:
    case.apply()
    labels = case.server.get(kinds.DEPLOYMENT, "photos-replica")["metadata"]["labels"]
    pod = {"name": "stuck", "namespace": "serving", "labels": labels}
    case.server.put({"apiVersion": "v1", "kind": "Pod", "metadata": pod})
    with pytest.raises(RolloutTimeoutError, match="Pod stuck"):
        _delete(case, timeout=0.05)
    assert case.server.find(kinds.CLAIM)  # pods may still read what is on it
    assert case.warnings[0] == "Pod stuck"


def test_pods_that_are_to_go_now_are_deleted_by_us_with_a_second(case: Case) -> None:
    case.apply()
    asked: dict[str, dict[str, Any]] = {}

    def note(request: Any, real: Any = case.server._of_kind) -> Any:
        if request.method == "DELETE":
            asked.setdefault(request.kind.name, request.body)
        return real(request)

    case.server._of_kind = note  # type: ignore[method-assign]
    labels = case.server.get(kinds.DEPLOYMENT, "photos-replica")["metadata"]["labels"]
    for kind, version in (("Pod", "v1"), ("ReplicaSet", "apps/v1")):
        metadata = {"name": "orphan", "namespace": "serving", "labels": labels}
        case.server.put({"apiVersion": version, "kind": kind, "metadata": metadata})
    assert _delete(case, now=True) == Deleted(None)
    assert {asked[kind]["propagationPolicy"] for kind in ("Deployment", "ReplicaSet")} == {"Orphan"}
    assert asked["Service"]["propagationPolicy"] == "Background"  # its EndpointSlices go with it
    assert asked["Pod"]["gracePeriodSeconds"] == 1
    assert case.server.objects == {}


def test_missing_permissions_are_told_together(case: Case) -> None:
    case.apply()
    case.server.denied = {"secrets", "pods"}
    with pytest.raises(ForbiddenError, match="list pods in serving\n  list, delete secrets in serving"):
        _delete(case)


def test_a_namespace_with_what_something_outside_of_it_owns_stays(case: Case) -> None:
    case.apply()
    node = {"apiVersion": "v1", "kind": "Node", "name": "node", "uid": "1"}
    metadata = {"name": "theirs", "namespace": "serving", "ownerReferences": [node]}
    case.server.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
    assert _delete(case).kept == "others have something in it: ConfigMap theirs"


def test_a_namespace_with_what_an_older_version_of_a_group_alone_has_stays(case: Case) -> None:
    case.apply()
    kind = kinds.Kind("gateway.networking.k8s.io/v1alpha2", "TCPRoute", "tcproutes")
    real = case.server._handle

    def with_older(method: str, target: str, body: Any) -> Any:
        path = target.partition("?")[0]
        if path == "/apis":
            versions = [{"groupVersion": f"gateway.networking.k8s.io/{version}"} for version in ("v1", "v1alpha2")]
            return 200, {"groups": [{"preferredVersion": versions[0], "versions": versions}]}, None
        if path == f"/apis/{kind.api_version}":
            resource = {"name": kind.plural, "kind": kind.name, "namespaced": True, "verbs": ["list"]}
            return 200, {"resources": [resource]}, None
        if path == kind.path("serving"):
            return 200, {"items": [{"metadata": {"name": "theirs"}}], "metadata": {}}, None
        return real(method, target, body)

    case.server._handle = with_older  # type: ignore[method-assign]
    assert _delete(case).kept == "others have something in it: TCPRoute theirs"
