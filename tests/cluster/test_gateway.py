"""An edge of the Gateway API: ``TLSRoute`` by a real controller, and clusters that lack what it needs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import yaml
from small_model import write_doubling_model

from cluster.cluster import Cluster
from cluster.deployments import Owner, prepare
from cluster.running import SERVER_NAME, ended, sealserve, status
from cluster.sealserve_image import sealserve_image
from cluster.traefik import NAME, traefik
from sealserve.client import Client
from sealserve.evidence import AppraisalPolicy

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]  # Traefik may have to be built

_PORTS = {"grpc": 8500, "rest": 8501}
_INPUT = 3


@pytest.fixture(scope="module")
def owner(kubernetes_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owner]:
    """An owner with a running key broker, whose deployment is led to by a Gateway of its own."""
    directory = tmp_path_factory.mktemp("gateway")
    sealed = kubernetes_cluster.directory / "sealed-routed"
    edge = {"kind": "gateway", "gateway": "door", "gateway_class": NAME, "controller_namespace": NAME}
    changes = {
        "gateway": {"rest_listen": "127.0.0.1:8501"},
        "replicas": {"count": 1, "threads": 1},
        "kubernetes": {"edge": edge, "sealed_model": {"host_path": str(sealed)}},
    }
    model = write_doubling_model(directory / "doubling")
    owner = prepare(kubernetes_cluster, directory, model, changes, name="routed")
    with owner.broker():
        yield owner
        sealserve(owner, "delete", "--yes")


def _change(owner: Owner, **section: Any) -> None:
    content = yaml.safe_load(owner.file.read_text())
    content["kubernetes"] |= section
    owner.file.write_text(yaml.safe_dump(content))


def _answering(owner: Owner, target: str, count: int) -> Counter[str]:
    """Who answers so many clients, each with a connection of its own."""
    policy = AppraisalPolicy.load(owner.layout.client_policy)
    found: Counter[str] = Counter()
    for number in range(count):
        with Client(target, policy, server_name=SERVER_NAME) as client:
            answer = client.predict({"x": np.full(1, number, np.float32)}, model="doubling")
            assert answer.outputs["y"].tolist() == [2 * number]
            found[answer.replica] += 1
    return found


def test_without_the_gateway_api_nothing_is_applied_and_it_is_said_what_brings_it(owner: Owner) -> None:
    refused = ended(owner, "apply", codes=(_INPUT,)).stderr
    assert "TLSRoute (gateway.networking.k8s.io/v1)" in refused
    assert "https://gateway-api.sigs.k8s.io" in refused
    assert owner.name not in owner.cluster.kubectl("get", "namespaces")


def test_traefik_leads_clients_to_replicas_and_a_share_of_them_to_a_canary(owner: Owner) -> None:
    cluster = owner.cluster
    edge = yaml.safe_load(owner.file.read_text())["kubernetes"]["edge"]
    with traefik(cluster, _PORTS):
        _change(owner, edge={**edge, "gateway_class": "none"})
        refused = ended(owner, "apply", codes=(_INPUT,)).stderr
        assert "no GatewayClass none: nothing was applied" in refused
        assert f"It has: {NAME}." in refused
        assert owner.name not in cluster.kubectl("get", "namespaces")

        _change(owner, edge=edge)
        told = json.loads(sealserve(owner, "apply", "--json"))
        doors = {name: [f"{cluster.addresses.node}:{port}"] for name, port in _PORTS.items()}
        assert (told["serving"], told["edge"]["addresses"]) == (1, doors)
        (first,) = _answering(owner, doors["grpc"][0], 1)
        assert set(_answering(owner, f"https://{doors['rest'][0]}", 1)) == {first}

        image = cluster.add_image(sealserve_image("simulated"))
        # Not half: whoever has every second of Traefik's turns would see one kind alone.
        _change(owner, canary={"image": image, "weight": 40, "count": 1})
        sealserve(owner, "apply")
        found = _answering(owner, doors["grpc"][0], 20)
        assert len(found) == 2
        assert 8 <= found[first] <= 16

        sealserve(owner, "delete", "--yes")
        of = f"--selector=app.kubernetes.io/instance={owner.name}"
        left = cluster.get("gateways,tlsroutes,services,deployments,pods", "--all-namespaces", of)
        assert left["items"] == []
        assert status(owner)["wanted"] is None
