"""What is found in clusters that lack something, and that looking changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from api_server import ApiServer
from click.testing import CliRunner
from fit_cluster import fit_cluster, node, pod_on
from kubernetes_cases import CASES, MODEL_SIZE, write_deployment

from sealserve.cli.main import cli
from sealserve.kubernetes.live.doctor.probe import probe_pod
from sealserve.kubernetes.rendering import plan_deployment

from restricted import violations  # isort: skip

_REVIEWS = {
    ("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews"),
    ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"),
}


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as made:
        fit_cluster(made)
        yield made


def _look(
    server: ApiServer, directory: Path, case: str = "nginx-sgx", *options: str, changes: dict[str, Any] | None = None
) -> dict[str, Any]:
    deployment = write_deployment(directory, CASES[case] if changes is None else changes)
    kubeconfig = str(server.kubeconfig(directory))
    arguments = ["-f", str(deployment), "--model-size", str(MODEL_SIZE), "--kubeconfig", kubeconfig, "--json"]
    result = CliRunner().invoke(cli, ["k8s", "doctor", *arguments, *options], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    told: dict[str, Any] = json.loads(result.stdout)
    assert result.return_value == (0 if told["ready"] else 6)
    return told


def _found(told: dict[str, Any], check: str) -> tuple[str, str]:
    (finding,) = [one for one in told["findings"] if one["check"] == check]
    if finding["level"] == "problem":
        assert finding["mend"]
    return finding["level"], finding["text"]


@pytest.mark.parametrize("case", ["nginx-sgx", "gateway-sgx", "nginx-simulated", "node-port-simulated"])
def test_a_cluster_that_has_all_is_fit_and_is_not_changed(server: ApiServer, tmp_path: Path, case: str) -> None:
    told = _look(server, tmp_path, case)
    assert [one for one in told["findings"] if one["level"] == "problem"] == []
    dry = ("POST", f"/api/v1/namespaces/{told['namespace']}/pods")  # refused, and a dry run
    assert set(server.written) == {*_REVIEWS, dry}
    assert _found(told, "pod-security")[0] == "ok"
    assert _found(told, "network-policies") == ("ok", "Calico enforces NetworkPolicies")


def test_how_many_replicas_fit_is_counted_as_the_scheduler_does(server: ApiServer, tmp_path: Path) -> None:
    told = _look(server, tmp_path)
    assert _found(told, "room")[1].startswith("6 replicas fit on 2 nodes")  # 15.89 CPUs, of which each asks for 4
    server.objects["/api/v1/pods"] = [pod_on("a", **{"sgx.intel.com/epc": "30Gi"}), pod_on("b", cpu="14")]
    told = _look(server, tmp_path)
    assert _found(told, "room")[0] == "problem"
    assert "a 2.0 GiB (0), b 32.0 GiB (8)" in _found(told, "sgx")[1]
    server.objects["/api/v1/pods"][0]["status"]["phase"] = "Succeeded"
    assert _found(_look(server, tmp_path), "room")[0] == "ok"


def test_nodes_that_cannot_run_replicas_are_not_counted(server: ApiServer, tmp_path: Path) -> None:
    tainted, other, cordoned = node("t"), node("arm"), node("c")
    tainted["spec"]["taints"] = [{"key": "team", "value": "x", "effect": "NoSchedule"}]
    other["metadata"]["labels"]["kubernetes.io/arch"] = "arm64"
    cordoned["spec"]["unschedulable"] = True
    server.objects["/api/v1/nodes"] = [node("a"), tainted, other, cordoned]
    told = _look(server, tmp_path)
    assert _found(told, "nodes") == ("warning", "3 of 4 nodes are ready")
    assert _found(told, "architecture")[0] == "warning"
    assert "3 replicas fit on 1 node (" in _found(told, "room")[1]
    tainted["spec"]["taints"] = [{"key": "sgx.intel.com/epc", "effect": "NoSchedule"}]  # tolerated
    assert "fit on 2 nodes" in _found(_look(server, tmp_path), "room")[1]


def test_the_cloud_whose_plugin_the_nodes_have_is_named(server: ApiServer, tmp_path: Path) -> None:
    nothing = {"sgx.intel.com/epc": "0", "sgx.intel.com/enclave": "0", "sgx.intel.com/provision": "0"}
    server.objects["/api/v1/nodes"] = [node("a", **nothing)]
    assert _found(_look(server, tmp_path), "sgx")[0] == "problem"
    server.objects["/api/v1/nodes"] = [node("a", **nothing, **{"alibabacloud.com/sgx_epc_MiB": "8000"})]
    told = _look(server, tmp_path)
    assert "alibaba-g7t" in next(one["mend"] for one in told["findings"] if one["check"] == "sgx")
    told = _look(server, tmp_path, "transport-server-sgx")
    assert _found(told, "sgx")[0] == "ok"
    assert _found(told, "edge")[0] == "ok"


def test_a_namespace_of_prometheus_that_is_not_there_is_warned_of(server: ApiServer, tmp_path: Path) -> None:
    asked = {"kubernetes": {"monitoring": {"namespace": "nowhere", "operator": False}}}
    level, text = _found(_look(server, tmp_path, changes=asked), "monitoring")
    assert level == "warning"
    assert "there is no namespace nowhere" in text
    server.objects["/api/v1/namespaces/nowhere"] = {"metadata": {"name": "nowhere"}}
    assert _found(_look(server, tmp_path, changes=asked), "monitoring")[0] == "ok"


def test_what_is_not_permitted_is_listed(server: ApiServer, tmp_path: Path) -> None:
    def answer(_: object, body: Any) -> tuple[int, Any]:
        asked = body["spec"]["resourceAttributes"]
        refused = asked["resource"] in {"networkpolicies", "namespaces"} and asked["verb"] in {"create", "patch"}
        return 201, {"status": {"allowed": not refused}}

    server.answers["POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"] = answer
    told = _look(server, tmp_path)
    assert _found(told, "permissions") == (
        "problem",
        "you may not do what applying needs: create, patch namespaces; create, patch networkpolicies",
    )


def test_what_to_do_about_missing_permissions_is_said_once(server: ApiServer, tmp_path: Path) -> None:
    for kind in ("nodes", "pods", "services"):
        refusal = {"message": f'{kind} is forbidden: User "ops" cannot list resource "{kind}"'}
        server.answers["GET", f"/api/v1/{kind}"] = lambda _, __, refusal=refusal: (403, refusal)  # type: ignore[misc]
    server.answers["POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"] = lambda _, __: (
        201,
        {"status": {"allowed": False}},
    )
    deployment = write_deployment(tmp_path, CASES["nginx-sgx"])
    arguments = ["-f", str(deployment), "--model-size", "1000", "--kubeconfig", str(server.kubeconfig(tmp_path))]
    said = " ".join(CliRunner().invoke(cli, ["k8s", "doctor", *arguments]).output.split())
    assert said.count("this could not be looked at") > 1
    assert said.count("Ask whoever runs the cluster") == 1


def test_what_may_not_be_looked_at_is_no_reason_to_stop(server: ApiServer, tmp_path: Path) -> None:
    refusal = {"message": 'nodes is forbidden: User "ops" cannot list resource "nodes"'}
    server.answers["GET", "/api/v1/nodes"] = lambda _, __: (403, refusal)
    told = _look(server, tmp_path)
    assert _found(told, "nodes")[0] == "warning"
    assert _found(told, "storage")[0] == "ok"


@pytest.mark.parametrize(
    ("case", "path", "there", "check", "says"),
    [
        ("nginx-sgx", "/version", {"major": "1", "minor": "30+"}, "version", "older than 1.31"),
        ("gateway-sgx", "/version", {"major": "1", "minor": "32"}, "image-volume", "does not have"),
        ("gateway-sgx", "/apis/gateway.networking.k8s.io/v1", None, "edge", "not installed"),
        ("gateway-sgx", "/apis/gateway.networking.k8s.io/v1/gatewayclasses/nginx", None, "edge", "no GatewayClass"),
        ("gateway-simulated", "/none", None, "edge", "no Gateway traefik/shared"),
        ("gateway-sgx", "/apis/metrics.k8s.io/v1beta1", None, "autoscaling", "nobody tells"),
        ("transport-server-sgx", "/apis/networking.k8s.io/v1/ingressclasses/nginx", None, "edge", "no IngressClass"),
        ("nginx-simulated", "/api/v1/namespaces/kube-system/services/kube-dns", None, "dns", "no DNS service"),
        ("nginx-sgx", "/api/v1/namespaces/photos/persistentvolumeclaims/sealed-model", None, "storage", "there is no"),
        ("nginx-sgx", "/api/v1/nodes", [], "nodes", "none of 0 nodes"),
    ],
)  # fmt: skip
def test_what_is_missing_is_a_problem(
    server: ApiServer, tmp_path: Path, *, case: str, path: str, there: Any, check: str, says: str
) -> None:
    if there is None:
        server.objects.pop(path, None)
        if path.endswith("/nginx"):
            server.objects[path.rpartition("/")[0]] = []
    else:
        server.objects[path] = there
    if case == "nginx-simulated":
        server.objects["/api/v1/services"] = []
    level, text = _found(_look(server, tmp_path, case), check)
    assert (level, says in text) == ("problem", True), text


def test_a_route_of_an_older_version_is_told_of(server: ApiServer, tmp_path: Path) -> None:
    server.objects["/apis/gateway.networking.k8s.io/v1"]["resources"].pop()
    server.objects["/apis/apiextensions.k8s.io/v1/customresourcedefinitions/tlsroutes.gateway.networking.k8s.io"] = {
        "spec": {"versions": [{"name": "v1alpha2", "served": True}, {"name": "v1", "served": False}]}
    }
    told = _look(server, tmp_path, "gateway-sgx")
    assert _found(told, "kinds")[1].endswith("does not serve TLSRoute gateway.networking.k8s.io/v1, only v1alpha2")


def test_a_gateway_that_ends_tls_is_refused(server: ApiServer, tmp_path: Path) -> None:
    listeners = [{"name": "grpc", "tls": {"mode": "Terminate"}}]
    server.objects["/apis/gateway.networking.k8s.io/v1/namespaces/traefik/gateways/shared"] = {
        "metadata": {"name": "shared", "namespace": "traefik"},
        "spec": {"gatewayClassName": "nginx", "listeners": listeners},
    }
    told = _look(server, tmp_path, "gateway-simulated")
    texts = [one["text"] for one in told["findings"] if one["check"] == "listeners"]
    assert ["ends TLS" in text for text in texts] == [True, False]
    assert "has no listener rest" in texts[1]


def test_a_port_of_the_nodes_that_is_taken_is_told_of(server: ApiServer, tmp_path: Path) -> None:
    server.objects["/api/v1/services"] = [
        {"metadata": {"name": "x", "namespace": "y"}, "spec": {"type": "NodePort", "ports": [{"nodePort": 30500}]}}
    ]
    assert _found(_look(server, tmp_path, "node-port-simulated"), "edge") == (
        "problem",
        "port 30500 of the nodes is that of the Service y/x",
    )


def test_policies_that_nobody_enforces_are_told_of(server: ApiServer, tmp_path: Path) -> None:
    server.objects["/apis/apps/v1/daemonsets"] = [{"metadata": {"name": "kube-flannel-ds", "namespace": "x"}}]
    server.answers["POST", "/api/v1/namespaces/photos/pods"] = lambda _, __: (201, {})
    told = _look(server, tmp_path)
    assert _found(told, "network-policies") == ("warning", "Flannel does not enforce NetworkPolicies")
    assert _found(told, "pod-security")[0] == "problem"


# --- the pod that looks for the broker ------------------------------------------------------------------------------


def _pods(server: ApiServer, status: dict[str, Any], said: str) -> list[dict[str, Any]]:
    """Have the server run pods: they have that status at once, and said that. The pods that are there."""
    pods: list[dict[str, Any]] = []
    path = "/api/v1/namespaces/photos/pods"
    refuse = server.answers["POST", path]

    def create(query: Any, body: Any) -> tuple[int, Any]:
        if query.get("dryRun"):
            return refuse(query, body)
        pods.append(body)
        own = f"{path}/{body['metadata']['name']}"
        server.objects[own] = body | {"status": status}
        server.answers["GET", f"{own}/log"] = lambda _, __: (200, said)

        def delete(_: Any, __: Any) -> tuple[int, Any]:
            del server.objects[own]
            return 200, {}

        server.answers["DELETE", own] = delete
        return 201, body

    server.answers["POST", path] = create
    return pods


@pytest.mark.parametrize(
    ("said", "level", "says"),
    [
        ('{"broker": "b:1", "addresses": ["192.0.2.1"], "connected": true, "verified": "TLSv1.3"}', "ok", "reaches"),
        ('{"broker": "b:1", "error": "Name or service not known"}', "problem", "finds the key broker's name"),
        ('{"broker": "b:1", "addresses": ["192.0.2.1"], "error": "timed out"}', "problem", "no pod reaches"),
        ('{"broker": "b:1", "addresses": ["x"], "connected": true, "error": "self-signed"}', "problem", "is not the"),
        ('5\n{}\n[[[\n{"broker": []}\n{"broker": "b:1", "addresses": 5}', "problem", "no pod reaches"),
    ],
)
def test_what_a_pod_finds_of_the_broker_is_told_and_the_pod_is_removed(
    server: ApiServer, tmp_path: Path, said: str, level: str, says: str
) -> None:
    pods = _pods(server, {"phase": "Succeeded"}, said + "\n")
    found = _found(_look(server, tmp_path, "nginx-sgx", "--probe"), "broker")
    assert (found[0], says in found[1]) == (level, True), found
    assert len(pods) == 1
    assert not any("doctor" in path for path in server.objects)


def test_a_pod_that_cannot_start_is_told_of_and_removed(server: ApiServer, tmp_path: Path) -> None:
    waiting = {"state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}
    _pods(server, {"phase": "Pending", "containerStatuses": [waiting]}, "")
    assert _found(_look(server, tmp_path, "nginx-sgx", "--probe"), "probe")[1].endswith("ErrImagePull: not found")
    assert not any("doctor" in path for path in server.objects)


def test_no_pod_is_tried_where_there_is_no_namespace(server: ApiServer, tmp_path: Path) -> None:
    del server.objects["/api/v1/namespaces/photos"]
    server.objects["/api/v1/namespaces"] = []
    told = _look(server, tmp_path, "nginx-sgx", "--probe")
    assert _found(told, "broker")[0] == "warning"
    assert not any(method == "DELETE" for method, _ in server.written)


def test_the_pod_is_restricted_and_policies_hold_for_it_and_nothing_leads_to_it(tmp_path: Path) -> None:
    plan = plan_deployment(write_deployment(tmp_path, CASES["nginx-simulated"]), model_size=MODEL_SIZE)
    pod = probe_pod(plan, "p")
    assert violations(pod["spec"]) == []
    assert plan.labels("replica").items() <= pod["metadata"]["labels"].items()
    assert pod["spec"]["readinessGates"]  # which nobody opens: it is never ready
