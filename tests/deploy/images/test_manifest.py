from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from image_deployments import deployment

from sealserve.deploy import Deployment
from sealserve.deploy.images.lint import lint, parse_manifest
from sealserve.deploy.images.manifest import render_manifest
from sealserve.deploy.images.sizing import plan_enclave
from sealserve.errors import ConfigurationError

GOLDEN = Path(__file__).parent / "golden"
RESNET = 102_000_000  # bytes

DEPLOYMENTS: dict[str, Deployment] = {
    "openvino": deployment(),
    "openvino-rest-threads": deployment(
        gateway={"rest_listen": "127.0.0.1:8501"},
        replicas={"threads": 4, "count": 3},
        tls={"server_name": "models.example"},
        image={"brokers": ["broker-1.example:4433", "[2001:db8::7]:4433"], "isv_prod_id": 7, "isv_svn": 3},
    ),
    "tensorflow": deployment(model={"engine": "tensorflow"}, image={"enclave_size": "8G", "max_threads": 256}),
    "tensorflow-serving": deployment(model={"engine": "tensorflow-serving"}),
    "tensorflow-serving-batching": deployment(
        model={"engine": "tensorflow-serving", "batching": "batching.pbtxt", "mount": "/models/resnet"},
        image={"brokers": ["broker-1.example:4433", "broker-2.example:4433"]},
        replicas={"threads": 8},
    ),
}


def _render(given: Deployment, **options: Any) -> str:
    return render_manifest(given, plan_enclave(given, model_size=RESNET), **options)


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_rendering_is_the_text_that_was_reviewed(name: str) -> None:
    path = GOLDEN / f"{name}.manifest"
    text = _render(DEPLOYMENTS[name])
    if os.environ.get("REVIEW_GOLDEN"):  # and read the difference before you commit it
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_rendering_has_no_weakness(name: str) -> None:
    found = lint(parse_manifest(_render(DEPLOYMENTS[name]).encode(), name=name))
    assert [finding for finding in found if finding.rule.severity != "note"] == []


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_nothing_of_the_hosts_steers_a_replica(name: str) -> None:
    manifest = tomllib.loads(_render(DEPLOYMENTS[name]))
    assert "insecure__" not in _render(DEPLOYMENTS[name]).replace("no loader.insecure__use_cmdline_argv", "")
    assert all(isinstance(value, str) for value in manifest["loader"]["env"].values())  # no passthrough
    assert manifest["sgx"]["debug"] is False
    assert manifest["sgx"]["remote_attestation"] == "dcap"
    assert f"file:{_authority(manifest, name)}" in manifest["sgx"]["trusted_files"]


def test_a_replica_tells_metrics_only_where_a_cluster_asks_for_them() -> None:
    image = "registry.example/team/classifier@sha256:" + 64 * "1"
    cluster = {"image": image, "sealed_model": {"claim": "c"}, "edge": {"kind": "node-port"}}
    asked = deployment(kubernetes={**cluster, "monitoring": {"namespace": "monitoring"}})
    arguments = tomllib.loads(_render(asked))["loader"]["argv"]
    assert arguments[arguments.index("--metrics-listen") + 1] == "0.0.0.0:8502"
    assert "--metrics-listen" not in _render(deployment(kubernetes=cluster))


def _authority(manifest: dict[str, Any], name: str) -> str:
    """Where the authority of the key broker lies."""
    if name.startswith("tensorflow-serving"):
        return str(manifest["loader"]["env"]["SECRET_PROVISION_CA_CHAIN_PATH"])
    arguments = manifest["loader"]["argv"]
    return str(arguments[arguments.index("--broker-ca") + 1])


def test_the_same_deployment_gives_the_same_text_on_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    before = _render(DEPLOYMENTS["openvino"])
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(128)))
    monkeypatch.setattr("os.cpu_count", lambda: 128)
    assert _render(DEPLOYMENTS["openvino"]) == before


def test_the_files_that_were_found_take_the_place_of_directories() -> None:
    text = _render(DEPLOYMENTS["openvino"], trusted_files=["file:/usr/bin/python3.12", 'file:/odd"name\\'])
    assert tomllib.loads(text)["sgx"]["trusted_files"] == ["file:/usr/bin/python3.12", 'file:/odd"name\\']


def test_the_model_and_the_tls_file_of_tensorflow_serving_are_encrypted() -> None:
    manifest = tomllib.loads(_render(DEPLOYMENTS["tensorflow-serving-batching"]))
    encrypted = [mount["path"] for mount in manifest["fs"]["mounts"] if mount.get("type") == "encrypted"]
    assert encrypted == ["/models/resnet", "/tls/ssl.cfg"]
    assert manifest["sgx"]["allowed_files"] == []
    assert "--rest_api_port=0" in manifest["loader"]["argv"]
    names = {mount.get("key_name") for mount in manifest["fs"]["mounts"] if mount.get("type") == "encrypted"}
    assert names == {manifest["loader"]["env"]["SECRET_PROVISION_SET_KEY"]}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"tee": "simulated"}, "images are for tee: sgx"),
        ({"broker": {"listen": "127.0.0.1:0"}}, "port 0 is none"),
        (
            {"model": {"engine": "tensorflow-serving"}, "gateway": {"rest_listen": "127.0.0.1:8501"}},
            "has no TLS",
        ),
        (
            {"model": {"engine": "tensorflow-serving", "mount": "/usr/lib/model"}},
            "model.mount: /usr/lib/model is taken",
        ),
        ({"model": {"engine": "tensorflow-serving", "mount": "/tls"}}, "model.mount: /tls is taken"),
        ({"model": {"engine": "tensorflow-serving"}, "image": {"brokers": ["[::1]:4433"]}}, "reads no IPv6"),
    ],
)
def test_what_cannot_be_in_an_enclave_is_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        _render(deployment(**sections))
