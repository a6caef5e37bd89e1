"""Replicas of another image, beside the others and apart from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_cases import CANARY, CASES, REPLICA, content, objects_in, of_kind, render, write_deployment

from sealserve.deploy import load_deployment
from sealserve.errors import ConfigurationError
from sealserve.kubernetes import render_kubernetes
from sealserve.kubernetes.plan import Plan, check

TRIED = {"canary": {"image": CANARY, "weight": 25}}


def deployments(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in of_kind(objects, "Deployment")}


def both(directory: Path, case: str, section: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The objects of a case without and with a canary."""
    before = objects_in(render(directory, CASES[case]))
    changes = {**CASES[case], "kubernetes": {**CASES[case]["kubernetes"], **section}}
    return before, objects_in(render(directory, changes))


@pytest.mark.parametrize("case", ["nginx-simulated", "gateway-sgx"])
def test_to_try_an_image_restarts_no_replica_of_the_other(tmp_path: Path, case: str) -> None:
    before, after = both(tmp_path, case, TRIED)
    assert deployments(before)["photos-replica"] == deployments(after)["photos-replica"]
    canary = deployments(after)["photos-replica-canary"]
    stable = deployments(after)["photos-replica"]
    images = {each["image"] for each in canary["spec"]["template"]["spec"].get("initContainers", [])}
    assert images <= {CANARY}
    assert canary["spec"]["template"]["spec"]["containers"][0]["image"] == CANARY
    assert canary["spec"]["replicas"] == 1
    stable_pod, canary_pod = (each["spec"]["template"]["spec"]["containers"][0] for each in (stable, canary))
    assert {**canary_pod, "image": REPLICA} == stable_pod


@pytest.mark.parametrize("case", ["nginx-canary-simulated", "gateway-canary-sgx"])
def test_no_selector_finds_replicas_of_both_images(tmp_path: Path, case: str) -> None:
    objects = objects_in(render(tmp_path, CASES[case]))
    pods = {name: each["spec"]["template"]["metadata"]["labels"] for name, each in deployments(objects).items()}
    for each in objects:
        spec = each.get("spec", {})
        if each["kind"] in {"Service", "Deployment", "PodDisruptionBudget", "NetworkPolicy"}:
            labels = spec.get("selector", spec.get("podSelector"))
            labels = labels.get("matchLabels", labels)
            found = [name for name, own in pods.items() if labels.items() <= own.items()]
            assert len(found) == 1, each["metadata"]["name"]


def test_a_gateway_divides_connections_by_weight(tmp_path: Path) -> None:
    _, after = both(tmp_path, "gateway-sgx", TRIED)
    services = {each["metadata"]["name"]: each["spec"]["selector"] for each in of_kind(after, "Service")}
    for route, port in zip(of_kind(after, "TLSRoute"), (8500, 8501), strict=True):
        (rule,) = route["spec"]["rules"]
        assert rule["backendRefs"] == [
            {"name": "photos", "port": port, "weight": 75},
            {"name": "photos-canary", "port": port, "weight": 25},
        ]
    assert services["photos"]["app.kubernetes.io/component"] == "replica"
    assert services["photos-canary"]["app.kubernetes.io/component"] == "canary"


def test_the_broker_has_to_know_each_image(tmp_path: Path) -> None:
    def plan(changes: dict[str, Any]) -> Plan:
        deployment = load_deployment(write_deployment(tmp_path, changes))
        return Plan(deployment, check(deployment), (), "1Gi", "1", None, None)

    tracks = plan(CASES["nginx-canary-simulated"]).tracks
    assert {track.deployment: track.image for track in tracks} == {
        "photos-replica": REPLICA,
        "photos-replica-canary": CANARY,
    }
    assert [track.count for track in tracks] == [None, 2]  # the first is the autoscaler's to say
    assert [track.count for track in plan({}).tracks] == [2]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"edge": {"kind": "node-port"}, **TRIED}, "shares connections among all of its pods alike"),
        (
            {"edge": {"kind": "transport-server", "controller_namespace": "x"}, **TRIED},
            "kubernetes.canary: goes with edge.kind: nginx or gateway, not transport-server",
        ),
        ({"canary": {"image": "classifier:2"}}, "must be pinned by digest"),
        ({"canary": {"image": CANARY, "weight": 100}}, "kubernetes.canary.weight"),
    ],
)
def test_what_cannot_be_tried_is_refused_with_its_reason(tmp_path: Path, section: dict[str, Any], message: str) -> None:
    file = tmp_path / "deployment.yaml"
    file.write_text(yaml.safe_dump(content({"kubernetes": section})))
    with pytest.raises(ConfigurationError, match=message):
        load_deployment(file)


def test_names_are_short_enough_for_the_canarys_service(tmp_path: Path) -> None:
    render(tmp_path, {"name": "n" * 54})
    with pytest.raises(ConfigurationError, match="beginning of names"):
        render(tmp_path, {"name": "n" * 54, "kubernetes": TRIED})


def test_what_has_to_be_done_elsewhere_is_warned_of(tmp_path: Path) -> None:
    def warnings(case: str) -> str:
        file = write_deployment(tmp_path, CASES[case])
        return "\n".join(render_kubernetes(file, tmp_path / "k8s", model_size=1).warnings)

    assert "prometheus-adapter" in warnings("nginx-canary-simulated")
    assert "another measurement" not in warnings("nginx-canary-simulated")
    assert "another measurement" in warnings("gateway-canary-sgx")
    assert "built with kubernetes.monitoring" in warnings("gateway-canary-sgx")
    assert warnings("gateway-sgx").count("measure") == 0
