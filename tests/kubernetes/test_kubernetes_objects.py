"""What is rendered, judged by what nobody here wrote, and by how its objects refer to each other."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
from kubernetes_cases import CASES, objects_in, of_kind, render
from kubernetes_validate import utils
from restricted import violations

from sealserve.kubernetes.plan import OLDEST_VERSION

_OTHERS = {
    "Gateway",
    "TLSRoute",
    "TransportServer",
    "PodMonitor",
    "PrometheusRule",
    "ScaledObject",
}  # no part of Kubernetes itself


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    return {case: objects_in(render(tmp_path_factory.mktemp(case), changes)) for case, changes in CASES.items()}


@pytest.fixture(params=CASES)
def objects(request: pytest.FixtureRequest, rendered: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return rendered[request.param]


def _pods(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {found["metadata"]["name"]: found["spec"]["template"] for found in of_kind(objects, "Deployment")}


def _selected(objects: list[dict[str, Any]], labels: dict[str, str]) -> list[str]:
    return [name for name, pod in _pods(objects).items() if labels.items() <= pod["metadata"]["labels"].items()]


def _replica(objects: list[dict[str, Any]]) -> dict[str, Any]:
    pod: dict[str, Any] = _pods(objects)["photos-replica"]["spec"]
    return pod


@pytest.fixture(scope="module", autouse=True)
def _schemas_are_read_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "schema_contents", functools.cache(utils.schema_contents))
        yield


@pytest.mark.parametrize(
    "version", [OLDEST_VERSION, pytest.param(kubernetes_validate.latest_version(), marks=pytest.mark.slow)]
)
def test_the_schemas_of_kubernetes_accept_every_object(objects: list[dict[str, Any]], version: str) -> None:
    for found in objects:
        if found["kind"] not in _OTHERS:
            kubernetes_validate.validate(found, version, strict=True)


def test_every_pod_is_within_the_restricted_standard(objects: list[dict[str, Any]]) -> None:
    for name, pod in _pods(objects).items():
        assert violations(pod["spec"]) == [], name
        assert all(
            container["securityContext"]["readOnlyRootFilesystem"]
            for container in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]
        )


def test_the_check_of_the_standard_finds_what_it_forbids() -> None:
    bad = {
        "hostNetwork": True,
        "volumes": [{"name": "dev", "hostPath": {"path": "/dev"}}],
        "containers": [{"name": "c", "securityContext": {"privileged": True}, "ports": [{"hostPort": 1}]}],
    }
    assert len(violations(bad)) == 8


def test_the_namespace_refuses_other_pods(objects: list[dict[str, Any]]) -> None:
    (namespace,) = of_kind(objects, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {found["metadata"]["namespace"] for found in objects if "namespace" in found["metadata"]} == {
        namespace["metadata"]["name"]
    }


def test_selectors_find_the_pods_that_they_are_for(objects: list[dict[str, Any]]) -> None:
    for found in objects:
        name, spec = found["metadata"]["name"], found.get("spec", {})
        component = found["metadata"]["labels"]["app.kubernetes.io/component"]
        match found["kind"]:
            case "Deployment" | "PodDisruptionBudget":
                assert _selected(objects, spec["selector"]["matchLabels"]) == [name]
            case "NetworkPolicy":
                assert _selected(objects, spec["podSelector"]["matchLabels"]) == [name]
            case "HorizontalPodAutoscaler" | "ScaledObject":
                assert spec["scaleTargetRef"]["name"] in _pods(objects)
            case "Service" if "selector" in spec:
                (pod,) = _selected(objects, spec["selector"])
                names = {port["name"] for port in _pods(objects)[pod]["spec"]["containers"][0]["ports"]}
                assert {port["targetPort"] for port in spec["ports"]} == names - {"metrics"}
                assert pod == ("photos-replica" if component == "replica" else pod)
    for name, pod in _pods(objects).items():
        for constraint in pod["spec"]["topologySpreadConstraints"]:
            assert _selected(objects, constraint["labelSelector"]["matchLabels"]) == [name]


def test_every_pod_has_a_policy_and_only_the_edge_reaches_replicas(objects: list[dict[str, Any]]) -> None:
    policies = {found["metadata"]["name"]: found["spec"] for found in of_kind(objects, "NetworkPolicy")}
    assert set(policies) == set(_pods(objects))
    assert all(policy["policyTypes"] == ["Ingress", "Egress"] for policy in policies.values())
    way_in, *for_metrics = policies["photos-replica"]["ingress"]
    monitored = bool(of_kind(objects, "PodMonitor"))
    assert [port["port"] for way in for_metrics for port in way["ports"]] == [8502] * monitored
    assert 8502 not in {port["port"] for port in way_in["ports"]}
    if "photos-replica-canary" in policies:
        assert {**policies["photos-replica-canary"], "podSelector": 0} == {
            **policies["photos-replica"],
            "podSelector": 0,
        }
    if any(found["spec"].get("type") == "NodePort" for found in of_kind(objects, "Service")):
        assert "from" not in way_in
    else:
        (source,) = way_in["from"]
        assert set(source) <= {"podSelector", "namespaceSelector"}
        if "podSelector" in source:
            assert _selected(objects, source["podSelector"]["matchLabels"]) == ["photos-edge"]
    ports = {port["port"] for rule in policies["photos-replica"]["egress"] for port in rule["ports"]}
    assert ports == {53, 4433}


def test_what_pods_mount_is_there_or_is_told_of(objects: list[dict[str, Any]]) -> None:
    made = {(found["kind"], found["metadata"]["name"]) for found in objects}
    told = {
        ("PersistentVolumeClaim", "sealed-model"),
        ("Secret", "photos-simulated-platform"),
        ("Secret", "photos-tls"),
    }
    for pod in _pods(objects).values():
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        containers = [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]
        mounted = {mount["name"] for container in containers for mount in container["volumeMounts"]}
        assert mounted == set(volumes)
        for volume in volumes.values():
            needed = {
                ("ConfigMap", volume.get("configMap", {}).get("name")),
                ("Secret", volume.get("secret", {}).get("secretName")),
                ("PersistentVolumeClaim", volume.get("persistentVolumeClaim", {}).get("claimName")),
            }
            assert {(kind, name) for kind, name in needed if name} <= made | told
        assert ("ServiceAccount", pod["spec"]["serviceAccountName"]) in made
        assert pod["spec"]["automountServiceAccountToken"] is False


def test_every_image_is_pinned(objects: list[dict[str, Any]]) -> None:
    for pod in _pods(objects).values():
        for container in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]:
            assert "@sha256:" in container["image"]


def test_a_pod_that_leaves_has_time_for_what_is_in_flight(objects: list[dict[str, Any]]) -> None:
    for pod in _pods(objects).values():
        (container,) = pod["spec"]["containers"]
        drained = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert drained >= 10
        assert pod["spec"]["terminationGracePeriodSeconds"] > drained + 30
    strategy = of_kind(objects, "Deployment")[0]["spec"]["strategy"]
    assert strategy["rollingUpdate"]["maxUnavailable"] == 0


def test_readiness_is_asked_over_tls_where_kubelet_can(rendered: dict[str, list[dict[str, Any]]]) -> None:
    def ready(case: str) -> Any:
        return _replica(rendered[case])["containers"][0]["readinessProbe"]

    assert ready("nginx-simulated")["httpGet"] == {"path": "/readyz", "port": 8501, "scheme": "HTTPS"}
    assert ready("gateway-simulated")["tcpSocket"] == {"port": 8500}  # two-way: kubelet has no certificate
    assert ready("nginx-sgx")["tcpSocket"] == {"port": 8500}  # no REST


def test_simulated_replicas_are_told_by_every_object(rendered: dict[str, list[dict[str, Any]]]) -> None:
    for case, objects in rendered.items():
        tee = "simulated" if case.endswith("simulated") else "sgx"
        assert {found["metadata"]["labels"]["sealserve.dev/tee"] for found in objects} == {tee}
        warned = "sealserve.dev/warning" in _pods(objects)["photos-replica"]["metadata"].get("annotations", {})
        assert warned == (tee == "simulated")


def test_enclaves_ask_for_what_the_devices_plugin_calls_them(rendered: dict[str, list[dict[str, Any]]]) -> None:
    intel = _replica(rendered["nginx-sgx"])["containers"][0]["resources"]
    assert intel["limits"]["sgx.intel.com/epc"] == intel["requests"]["sgx.intel.com/epc"] == "4096Mi"
    assert intel["limits"]["sgx.intel.com/enclave"] == "1"
    alibaba = _replica(rendered["transport-server-sgx"])["containers"][0]["resources"]["limits"]
    assert {name for name in alibaba if "/" in name} == {"alibabacloud.com/sgx_epc_MiB"}
    assert alibaba["alibabacloud.com/sgx_epc_MiB"].isdigit()


def test_the_quote_providers_webhook_finds_its_volume_there_already(rendered: dict[str, list[dict[str, Any]]]) -> None:
    template = _pods(rendered["gateway-sgx"])["photos-replica"]
    assert template["metadata"]["annotations"]["sgx.intel.com/quote-provider"] == "aesmd"
    (container,) = template["spec"]["containers"]
    assert {"name": "aesmd-socket", "mountPath": "/var/run/aesmd", "readOnly": True} in container["volumeMounts"]


def test_an_autoscaler_alone_says_how_many_replicas_there_are(rendered: dict[str, list[dict[str, Any]]]) -> None:
    assert "replicas" not in of_kind(rendered["gateway-sgx"], "Deployment")[0]["spec"]
    assert of_kind(rendered["gateway-sgx"], "HorizontalPodAutoscaler")[0]["spec"]["maxReplicas"] == 8
    assert of_kind(rendered["nginx-sgx"], "HorizontalPodAutoscaler") == []


def test_replicas_take_the_arguments_that_are_rendered(rendered: dict[str, list[dict[str, Any]]]) -> None:
    from sealserve.cli.replica import replica

    for case in ("nginx-simulated", "node-port-simulated"):
        name, *arguments = _replica(rendered[case])["containers"][0]["args"]
        assert name == "replica"
        known = {option for parameter in replica.params for option in parameter.opts}
        assert {word for word in arguments if word.startswith("--")} <= known
    assert "args" not in _replica(rendered["nginx-sgx"])["containers"][0]  # measured, in the image
