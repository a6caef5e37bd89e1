"""``sealserve k8s dns`` against an API server: nothing of others is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from api_server import ApiServer
from click.testing import CliRunner
from corefiles import AKS, K3S, KUBEADM
from kubernetes_cases import write_deployment

from sealserve.cli.main import cli
from sealserve.errors import SealserveError

_OWN = "/api/v1/namespaces/kube-system/configmaps/coredns"
_CUSTOM = "/api/v1/namespaces/kube-system/configmaps/coredns-custom"


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as made:
        made.objects[_OWN] = _map({"Corefile": KUBEADM})
        yield made


def _map(data: dict[str, str], **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"resourceVersion": "7", **metadata}, "data": data}


def _run(server: ApiServer, directory: Path, *arguments: str, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    deployment = write_deployment(directory, {"broker": {"listen": "192.0.2.10:4433"}} if changes is None else changes)
    options = ["-f", str(deployment), "--kubeconfig", str(server.kubeconfig(directory)), "--json"]
    result = CliRunner().invoke(cli, ["k8s", "dns", *arguments, *options])
    if result.exception is not None:
        raise result.exception
    told: dict[str, Any] = json.loads(result.stdout)
    return told


def _corefile(server: ApiServer) -> str:
    return str(server.objects[_OWN]["data"]["Corefile"])


def test_the_brokers_name_comes_and_goes(server: ApiServer, tmp_path: Path) -> None:
    told = _run(server, tmp_path, "apply")
    assert "        192.0.2.10 broker.example\n" in _corefile(server)
    assert told["changed"]
    assert told["reloads"]
    assert "+        192.0.2.10 broker.example\n" in told["diff"]
    assert not _run(server, tmp_path, "apply")["changed"]
    assert _run(server, tmp_path, "undo")["changed"]
    assert _corefile(server) == KUBEADM
    assert not _run(server, tmp_path, "undo")["changed"]
    assert len(server.written) == 2


def test_a_dry_run_writes_nothing_and_shows_the_change(server: ApiServer, tmp_path: Path) -> None:
    assert "+    # begin sealserve hosts" in _run(server, tmp_path, "apply", "--dry-run")["diff"]
    assert server.written == []


def test_a_change_that_somebody_else_made_meanwhile_is_kept(server: ApiServer, tmp_path: Path) -> None:
    reads = 0

    def read(_: object, __: object) -> tuple[int, Any]:
        nonlocal reads
        reads += 1
        found = json.loads(json.dumps(server.objects[_OWN]))
        if reads == 1:  # right after the first reading
            server.objects[_OWN] = _map({"Corefile": "# theirs\n" + KUBEADM}, resourceVersion="8")
        return 200, found

    server.answers["GET", _OWN] = read
    _run(server, tmp_path, "apply")
    assert _corefile(server).startswith("# theirs\n.:53 {\n    # begin sealserve hosts")
    assert reads == 2


def test_who_changes_it_all_the_time_is_told_of(server: ApiServer, tmp_path: Path) -> None:
    server.answers["PATCH", _OWN] = lambda _, __: (409, {"message": "modified"})
    with pytest.raises(SealserveError, match="modified"):
        _run(server, tmp_path, "apply")


def test_a_cluster_with_a_place_for_additions_gets_them_there(server: ApiServer, tmp_path: Path) -> None:
    server.objects[_OWN] = _map({"Corefile": AKS})
    server.objects[_CUSTOM] = {"metadata": {"resourceVersion": "1"}}
    told = _run(server, tmp_path, "apply")
    assert (told["config_map"], told["key"]) == ("kube-system/coredns-custom", "sealserve.override")
    assert "192.0.2.10 broker.example" in server.objects[_CUSTOM]["data"]["sealserve.override"]
    assert _corefile(server) == AKS
    _run(server, tmp_path, "undo")
    assert server.objects[_CUSTOM]["data"] == {}


def test_a_hosts_that_is_there_is_used_wherever_it_is(server: ApiServer, tmp_path: Path) -> None:
    server.objects[_OWN] = _map({"Corefile": K3S}, annotations={"objectset.rio.cattle.io/hash": "1"})
    server.objects[_CUSTOM] = _map({})
    told = _run(server, tmp_path, "apply")
    assert told["config_map"] == "kube-system/coredns"
    assert any("k3s puts its own" in warning for warning in told["warnings"])
    server.objects[_OWN] = _map({"Corefile": AKS})
    server.objects[_CUSTOM] = _map({"mine.override": "hosts {\n  10.0.0.1 mine.example\n  fallthrough\n}\n"})
    assert _run(server, tmp_path, "apply")["key"] == "mine.override"


def test_a_cache_on_nodes_that_asks_past_coredns_is_told_of(server: ApiServer, tmp_path: Path) -> None:
    server.objects["/apis/apps/v1/namespaces/kube-system/daemonsets/node-local-dns"] = {"metadata": {}}
    assert any("NodeLocal" in warning for warning in _run(server, tmp_path, "apply")["warnings"])


@pytest.mark.parametrize(
    ("section", "name", "told"),
    [
        ({"broker": "192.0.2.10:4433"}, "photos-broker.serving.svc", "which kubernetes.broker makes"),
        ({"broker": "192.0.2.10:4433"}, "photos-broker.serving.svc.cluster.local", "which kubernetes.broker makes"),
        ({"broker": "192.0.2.10:4433"}, "photos-broker.elsewhere.svc", ""),
        ({}, "photos-broker.serving.svc", ""),
    ],
)
def test_a_name_that_the_cluster_has_for_the_broker_already_is_warned_of(
    server: ApiServer, tmp_path: Path, section: dict[str, Any], name: str, told: str
) -> None:
    changes = {"broker": {"listen": "192.0.2.10:4433"}, "image": {"brokers": [f"{name}:4433"]}}
    warnings = _run(server, tmp_path, "apply", changes={**changes, "kubernetes": {"namespace": "serving", **section}})[
        "warnings"
    ]
    assert [warning.startswith(f"{name} is the name of a Service already, {told}") for warning in warnings] == (
        [True] if told else []
    )


def test_a_snippet_with_hosts_is_left_alone(server: ApiServer, tmp_path: Path) -> None:
    text = "(common) {\n  hosts {\n  }\n}\n.:53 {\n  import common\n}\n"
    server.objects[_OWN] = _map({"Corefile": text})
    with pytest.raises(SealserveError, match="in a snippet"):
        _run(server, tmp_path, "apply")
    assert server.written == []


def test_other_servers_of_names_are_told_of(server: ApiServer, tmp_path: Path) -> None:
    del server.objects[_OWN]
    with pytest.raises(SealserveError, match="DNS is not CoreDNS"):
        _run(server, tmp_path, "apply")


@pytest.mark.parametrize(
    ("changes", "arguments", "says"),
    [
        ({}, [], "does not say where"),
        ({"image": {"brokers": ["192.0.2.1:4433"]}}, ["--address", "192.0.2.1"], "no DNS name"),
        ({}, ["--address", "somewhere"], "'somewhere' is not"),
        ({}, ["--address", "192.0.2.1", "--name", "x y"], "'x y' is not"),
        ({}, ["--address", "192.0.2.1", "--config-map", "coredns"], "no ConfigMap"),
    ],
)
def test_what_the_deployment_does_not_say_is_asked_for(
    server: ApiServer, tmp_path: Path, changes: dict[str, Any], arguments: list[str], says: str
) -> None:
    with pytest.raises(SealserveError, match=says):
        _run(server, tmp_path, "apply", *arguments, changes=changes)
    assert server.written == []
