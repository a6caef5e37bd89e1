"""Applying: what is sent, in which order, and what happens when something is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import urllib3
from fake_api_server import FakeApiServer, connected, status
from live_case import Case

from sealserve.errors import InputError, UnavailableError
from sealserve.kubernetes.live import applying, kinds
from sealserve.kubernetes.live.applying import Change, prune
from sealserve.kubernetes.live.connection import Request
from sealserve.kubernetes.live.errors import ClusterRefusedError, ForbiddenError, MissingKindError, ObjectsRefusedError

REPLICAS = ("Deployment", "photos-replica")


def _applied(log: list[str]) -> list[str]:
    return [line for line in log if line.startswith("PATCH")]


def test_everything_is_tried_before_anything_but_its_namespace_is_applied(case: Case) -> None:
    case.apply()
    log = case.server.log
    assert _applied(log)[0] == "PATCH Namespace/serving"
    assert log.index("dry run PATCH Namespace/serving") < log.index("PATCH Namespace/serving")
    last_trial = max(number for number, line in enumerate(log) if line.startswith("dry run"))
    first_change = min(number for number, line in enumerate(log) if line in _applied(log)[1:])
    assert last_trial < first_change
    assert len(case.changes) == len(case.objects)
    assert {change.what for change in case.changes} == {"created"}
    assert {change.kind for change in case.changes[-2:]} == {"Deployment"}


def test_applying_again_changes_nothing(case: Case) -> None:
    case.apply()
    before = dict(case.server.objects)
    case.apply()
    assert {change.what for change in case.changes} == {"unchanged"}
    assert case.server.objects == before


def test_all_refusals_are_told_and_a_new_namespace_is_taken_back(case: Case) -> None:
    case.server.refusals = {
        "ConfigMap/photos-edge": status(422, "data is bad"),
        "dry run Deployment/photos-replica": status(400, "unknown field"),
    }
    with pytest.raises(ObjectsRefusedError) as caught:
        case.apply()
    assert "ConfigMap photos-edge: data is bad" in caught.value.message
    assert "Deployment photos-replica: unknown field" in caught.value.message
    assert case.server.objects == {}
    assert _applied(case.server.log) == ["PATCH Namespace/serving"]


def test_a_refusal_leaves_a_namespace_that_was_there(case: Case) -> None:
    case.server.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "serving"}})
    case.server.refusals = {"ConfigMap/photos-edge": status(422, "data is bad")}
    with pytest.raises(ObjectsRefusedError):
        case.apply()
    assert _applied(case.server.log) == []
    assert case.server.find(kinds.NAMESPACE)


def test_what_only_the_change_itself_shows_of_a_service_leaves_nothing_either(case: Case) -> None:
    _, objects = case.deployment("node-port-simulated")
    case.server.refusals = {"Service/photos": status(422, "provided port is already allocated")}
    real = case.server._apply

    def no_dry_run_sees_it(request: Any, before: Any) -> Any:
        if "dryRun" in request.query:
            refusals, case.server.refusals = case.server.refusals, {}
            answer = real(request, before)
            case.server.refusals = refusals
            return answer
        return real(request, before)

    case.server._apply = no_dry_run_sees_it  # type: ignore[method-assign]
    with pytest.raises(ClusterRefusedError, match="already allocated"):
        case.apply(objects)
    assert case.server.objects == {}


def test_pods_outside_of_the_restricted_standard_are_a_refusal_and_other_warnings_are_told(case: Case) -> None:
    case.server.warnings = {
        "Deployment/photos-replica": 'would violate PodSecurity "restricted:latest": privileged (a "quoted" word)',
        "Service/photos": "spec.x is deprecated",
    }
    with pytest.raises(ObjectsRefusedError, match='privileged \\(a "quoted" word\\)'):
        case.apply()
    assert case.warnings == ["Service photos: spec.x is deprecated"]
    assert case.server.objects == {}


def test_a_gateway_of_a_class_that_is_not_there_is_not_applied(case: Case) -> None:
    _, objects = case.deployment("gateway-sgx")
    with pytest.raises(InputError, match="no GatewayClass nginx: nothing was applied") as caught:
        case.apply(objects)
    assert "install a controller" in str(caught.value.hint)
    for name in ("mine", "other"):
        case.server.put(
            {"apiVersion": kinds.GATEWAY_CLASS.api_version, "kind": "GatewayClass", "metadata": {"name": name}}
        )
    with pytest.raises(InputError) as caught:
        case.apply(objects)
    assert "It has: mine, other." in str(caught.value.hint)
    case.server.denied = {"gatewayclasses"}
    case.apply(objects)


def test_a_missing_kind_is_named_with_what_brings_it_and_nothing_is_applied(case: Case) -> None:
    _, objects = case.deployment("gateway-simulated")
    case.server.missing = {kinds.GATEWAY, kinds.TLS_ROUTE}
    with pytest.raises(MissingKindError, match=r"TLSRoute \(gateway.networking.k8s.io/v1\)") as caught:
        case.apply(objects)
    assert "Gateway API" in str(caught.value.hint)
    assert case.server.objects == {}


def test_without_the_prometheus_operator_it_is_said_how_to_do_without_and_that_is_applied(case: Case) -> None:
    case.server.missing = {kinds.POD_MONITOR, kinds.PROMETHEUS_RULE}
    monitoring = {"namespace": "monitoring"}
    with pytest.raises(MissingKindError) as failure:
        case.apply(case.deployment("nginx-simulated", monitoring=monitoring)[1])
    assert str(failure.value.hint).count("kubernetes.monitoring.operator: false") == 1
    assert case.server.objects == {}
    case.apply(case.deployment("nginx-simulated", monitoring={**monitoring, "operator": False})[1])
    assert "photos-rules" in {each["metadata"]["name"] for each in case.server.find(kinds.CONFIG_MAP)}


def test_all_missing_permissions_are_told_together(case: Case) -> None:
    case.server.denied = {"persistentvolumes", "networkpolicies"}
    with pytest.raises(ForbiddenError) as caught:
        case.apply()
    assert "get, create, patch persistentvolumes\n" in caught.value.message
    assert "networkpolicies.networking.k8s.io in serving" in caught.value.message
    assert "deployments" not in caught.value.message
    assert case.server.objects == {}


def test_a_namespace_that_others_look_after_is_left_to_them(case: Case) -> None:
    case.server.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "serving"}})
    real = case.server._apply

    def namespaces_are_not_ours(request: Any, before: Any) -> Any:
        if request.kind == kinds.NAMESPACE:
            return *status(403, 'namespaces is forbidden: User "poor" cannot patch resource "namespaces"'), None
        return real(request, before)

    case.server._apply = namespaces_are_not_ours  # type: ignore[method-assign]
    case.apply()
    assert len(case.changes) == len(case.objects) - 1
    assert any("stays as it is" in warning for warning in case.warnings)


def test_a_quota_is_no_missing_permission(case: Case) -> None:
    case.server.refusals = {"Service/photos": status(403, 'services "photos" is forbidden: exceeded quota: few')}
    with pytest.raises(ObjectsRefusedError, match="exceeded quota"):
        case.apply()


def test_a_conflict_names_field_and_owner_and_can_be_forced(case: Case) -> None:
    case.apply()
    cause = {"field": ".spec.type", "message": 'conflict with "kubectl-edit" using v1'}
    case.server.refusals = {"Service/photos": status(409, "Apply failed with 1 conflict", causes=(cause,))}
    with pytest.raises(
        ObjectsRefusedError, match=r"Service photos: somebody else has set \.spec\.type by kubectl-edit"
    ) as e:
        case.apply()
    assert "--force-conflicts" in str(e.value.hint)
    case.apply(force=True)


def test_a_number_of_replicas_that_somebody_set_stays_until_it_is_forced(case: Case) -> None:
    case.apply()
    deployment = case.server.get(kinds.DEPLOYMENT, "photos-replica")
    deployment["spec"]["replicas"] = 5
    owned = {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
    deployment["metadata"]["managedFields"] = [owned]
    case.apply()
    assert case.server.get(kinds.DEPLOYMENT, "photos-replica")["spec"]["replicas"] == 5
    assert any("keeps 5 replicas, as kubectl set it" in warning for warning in case.warnings)
    case.server.get(kinds.DEPLOYMENT, "photos-replica")["metadata"]["managedFields"] = [owned]
    case.apply(force=True)
    assert case.server.get(kinds.DEPLOYMENT, "photos-replica")["spec"]["replicas"] == 2


def test_an_autoscaler_takes_over_the_number_that_is_there(case: Case) -> None:
    case.apply()
    _, scaled = case.deployment("nginx-simulated", autoscaling={"max": 4})
    applied = case.apply(scaled)
    deployment = next(thing for thing in applied if (thing["kind"], thing["metadata"]["name"]) == REPLICAS)
    assert deployment["spec"]["replicas"] == 2
    assert deployment["metadata"]["managedFields"][0]["fieldsV1"]  # still ours: left out, it would become 1


def test_what_is_not_rendered_any_more_is_removed_but_no_data_and_nothing_of_others(case: Case) -> None:
    case.apply()
    owned = case.server.get(kinds.SERVICE, "photos")["metadata"]["labels"]
    for name, labels, owners in (("foreign", {}, []), ("made-by-controller", owned, [{"uid": "x"}])):
        metadata = {"name": name, "namespace": "serving", "labels": labels, "ownerReferences": owners}
        case.server.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
    plan, objects = case.deployment("nginx-simulated", edge={"kind": "node-port"}, sealed_model={"claim": "mine"})
    case.apply(objects)
    case.changes.clear()
    prune(case.cluster, objects, name=plan.name, namespace=plan.namespace, told=case.told)
    assert {(change.kind, change.name) for change in case.changes if change.what == "removed"} == {
        ("Deployment", "photos-edge"),
        ("PodDisruptionBudget", "photos-edge"),
        ("NetworkPolicy", "photos-edge"),
        ("ConfigMap", "photos-edge"),
        ("ServiceAccount", "photos-edge"),
    }
    assert case.server.find(kinds.CLAIM)
    assert case.server.find(kinds.VOLUME)


def test_a_server_that_is_away_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    server, waits = FakeApiServer(), []
    with connected(server, tmp_path, patience=5, on_wait=waits.append) as cluster:
        case = Case(tmp_path, cluster, server)
        server.dropped = 2
        case.apply()
    assert len(case.changes) == len(case.objects)
    assert len(waits) == 1


def test_a_server_that_answered_before_is_waited_for_even_by_who_would_not_wait_for_the_first_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[str] = []

    def refused(request: Request) -> Any:
        attempts.append(request.path)
        if len(attempts) < 3:
            raise urllib3.exceptions.NewConnectionError(None, "refused")  # type: ignore[arg-type]
        return once(request)

    with connected(FakeApiServer(), tmp_path, patience=5, first_patience=0.0) as cluster:
        once = cluster._once
        monkeypatch.setattr(cluster, "_once", refused)
        with pytest.raises(UnavailableError):
            cluster.version()
        assert len(attempts) == 1
        monkeypatch.setattr(cluster, "_once", once)
        cluster.version()
        attempts.clear()
        monkeypatch.setattr(cluster, "_once", refused)
        assert cluster.version() == (1, 36)
        assert len(attempts) == 3


def test_a_volume_whose_claim_was_deleted_can_be_claimed_again(case: Case) -> None:
    case.apply()
    volume = case.server.find(kinds.VOLUME)[0]
    volume["status"] = {"phase": "Released"}
    volume["spec"]["claimRef"]["uid"] = "old"
    case.apply()
    assert "uid" not in case.server.find(kinds.VOLUME)[0]["spec"]["claimRef"]


def test_a_namespace_that_is_being_deleted_is_waited_for(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applying, "_PAUSE", 0.01)
    monkeypatch.setattr(applying, "_NAMESPACE_PATIENCE", 0.05)
    going = {"name": "serving", "deletionTimestamp": "2026-01-01T00:00:00Z"}
    path = kinds.NAMESPACE.path(None, "serving")
    case.server.put({"apiVersion": "v1", "kind": "Namespace", "metadata": going})
    with pytest.raises(InputError, match="something keeps it from going"):
        case.apply()
    monkeypatch.setattr(applying.time, "sleep", lambda _: case.server.objects.pop(path, None))
    case.apply()
    assert case.changes[0] == Change("Namespace", "serving", "created")


def test_a_service_of_another_deployment_is_not_taken_over(case: Case) -> None:
    case.apply()
    service = case.server.get(kinds.SERVICE, "photos")
    labels = {**service["metadata"]["labels"], "app.kubernetes.io/instance": "pho"}
    case.server.put({**service, "metadata": {**service["metadata"], "labels": labels}})
    before = dict(case.server.objects)
    with pytest.raises(ObjectsRefusedError, match="Service photos is the deployment pho's"):
        case.apply(force=True)
    assert case.server.objects == before


def test_a_volume_of_another_namespace_is_not_taken_over(case: Case) -> None:
    case.apply()
    volume = case.server.find(kinds.VOLUME)[0]
    claim = {**volume["spec"]["claimRef"], "namespace": "elsewhere"}
    case.server.put({**volume, "spec": {**volume["spec"], "claimRef": claim}})
    with pytest.raises(ObjectsRefusedError, match="is for elsewhere/photos-"):
        case.apply()


def test_replicas_do_not_come_to_where_key_brokers_are(case: Case) -> None:
    case.server.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "serving"}})
    labels = {"app.kubernetes.io/managed-by": "sealserve", "app.kubernetes.io/component": "key-broker"}
    metadata = {"name": "pho-broker", "namespace": "serving", "labels": labels}
    case.server.put({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {}})
    with pytest.raises(ObjectsRefusedError, match=r"key brokers in it \(pho-broker\)"):
        case.apply(force=True)
    assert _applied(case.server.log) == []


def test_a_namespace_that_somebody_else_made_meanwhile_is_not_taken_back(case: Case) -> None:
    case.server.refusals = {"ConfigMap/photos-edge": status(422, "data is bad")}
    real = case.server._apply

    def somebody_was_quicker(request: Any, before: Any) -> Any:
        code, thing, warning = real(request, before)
        if request.kind == kinds.NAMESPACE and "dryRun" not in request.query:
            thing["metadata"]["managedFields"].append({"manager": "kubectl-create", "operation": "Update"})
        return code, thing, warning

    case.server._apply = somebody_was_quicker  # type: ignore[method-assign]
    with pytest.raises(ObjectsRefusedError):
        case.apply()
    assert case.server.find(kinds.NAMESPACE)
