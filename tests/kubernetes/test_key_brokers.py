"""Key brokers in a cluster: what is rendered for them, and who reaches whom."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner
from kubernetes_cases import REPLICA, objects_in, of_kind, write_deployment
from kubernetes_cases import render as render_replicas
from kubernetes_validate import utils
from restricted import violations

from sealserve import __version__
from sealserve.broker.settings import BrokerSettings
from sealserve.cli.main import cli
from sealserve.errors import ConfigurationError, InputError
from sealserve.kubernetes import Rendered
from sealserve.kubernetes.broker_rendering import render_key_brokers
from sealserve.kubernetes.plan import OLDEST_VERSION

_DATABASE = {
    "url": "postgresql://broker@db.storage.svc/keys?sslmode=verify-full",
    "secret": "photos-database",
    "password": "pgpass",
    "authority": "ca.crt",
}
_POLICY = (
    "tee: simulated\ninsecure_accept_simulated_platform: true\ntrust_root: root.pem\nenclaves: [{mrenclave: '%s'}]\n"
)


def _changes(**brokers: Any) -> dict[str, Any]:
    return {
        "image": {"brokers": ["photos-broker.photos-keys.svc:4433"]},
        "kubernetes": {"namespace": "serving", "brokers": {"image": REPLICA, "database": _DATABASE, **brokers}},
    }


def _render(directory: Path, changes: dict[str, Any], *, collateral: str | None = None) -> Rendered:
    file = write_deployment(directory, changes)
    owner = directory / ".sealserve" / "owner"
    owner.mkdir(parents=True, exist_ok=True)
    (directory / "collateral.json").write_text('{\n "tcb_info": 1\n}')
    where = collateral or str(directory / "collateral.json")
    (owner / "replica-policy.yaml").write_text(_POLICY % (64 * "0") + f"collateral: {where}\n")
    return render_key_brokers(file, directory / "brokers")


@pytest.fixture(scope="module", autouse=True)
def _schemas_are_read_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "schema_contents", functools.cache(utils.schema_contents))
        yield


def _pod(objects: list[dict[str, Any]]) -> dict[str, Any]:
    (deployment,) = of_kind(objects, "Deployment")
    spec: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return spec


def test_brokers_are_valid_restricted_and_in_a_namespace_of_their_own(tmp_path: Path) -> None:
    objects = objects_in(_render(tmp_path, _changes()).directory)
    for found in objects:
        kubernetes_validate.validate(found, OLDEST_VERSION, strict=True)
    assert violations(_pod(objects)) == []
    assert {found["metadata"].get("namespace", "photos-keys") for found in objects} == {"photos-keys"}
    assert _pod(objects)["automountServiceAccountToken"] is False
    (deployment,) = of_kind(objects, "Deployment")
    assert deployment["spec"]["replicas"] == 2
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_prometheus_asks_brokers_with_a_token_that_is_made_when_they_run(tmp_path: Path) -> None:
    changes = _changes(admin_namespace="monitoring")
    assert of_kind(objects_in(_render(tmp_path, changes).directory), "PodMonitor") == []
    changes["kubernetes"]["monitoring"] = {"namespace": "monitoring", "labels": {"release": "prometheus"}}
    rendered = _render(tmp_path, changes)
    golden = Path(__file__).parent / "golden" / "key-brokers" / "monitoring.yaml"
    text = (rendered.directory / "monitoring.yaml").read_text().replace(__version__, "VERSION")
    if os.environ.get("REVIEW_GOLDEN"):  # and read the difference before you commit it
        golden.write_text(text)
    assert text == golden.read_text()
    (monitor,) = of_kind(objects_in(rendered.directory), "PodMonitor")
    (deployment,) = of_kind(objects_in(rendered.directory), "Deployment")
    selected = monitor["spec"]["selector"]["matchLabels"]
    assert selected.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    assert monitor["metadata"]["namespace"] == "photos-keys"
    make_token, make_secret = rendered.steps[-2:]
    assert "token create prometheus --role viewer -o prometheus.token -f " in make_token
    assert "generic photos-broker-metrics --from-file=token=prometheus.token --from-file=ca.pem=" in make_secret
    assert not any("admin_namespace" in warning for warning in rendered.warnings)
    changes["kubernetes"]["brokers"] = _changes()["kubernetes"]["brokers"]
    assert any("admin_namespace: monitoring, which is not set" in each for each in _render(tmp_path, changes).warnings)


def test_no_secret_is_in_the_files_and_the_commands_make_them(tmp_path: Path) -> None:
    rendered = _render(tmp_path, _changes())
    assert of_kind(objects_in(rendered.directory), "Secret") == []
    secrets = [step for step in rendered.steps if "create secret" in step]
    assert [step.split()[6] for step in secrets] == ["photos-broker", "photos-database"]
    assert all(name in secrets[0] for name in ("owner/master.key", "owner/broker-key.pem", "owner/broker.pem"))
    assert "--from-file=pgpass --from-file=ca.crt" in secrets[1]


def test_the_broker_takes_the_settings_that_are_rendered_and_they_hold_no_password(tmp_path: Path) -> None:
    (found,) = of_kind(objects_in(_render(tmp_path, _changes()).directory), "ConfigMap")
    (tmp_path / "broker.yaml").write_text(found["data"]["broker.yaml"])
    settings = BrokerSettings.load(tmp_path / "broker.yaml")
    assert settings.store.endswith("?sslmode=verify-full&passfile=/keys/pgpass&sslrootcert=/keys/ca.crt")
    assert settings.admin is not None
    assert settings.address.port == 4433


def test_keys_are_copied_to_memory_and_only_the_broker_reads_them(tmp_path: Path) -> None:
    pod = _pod(objects_in(_render(tmp_path, _changes()).directory))
    (copy,) = pod["initContainers"]
    assert copy["command"][-1] == (
        "exec /usr/bin/install -m 0400 -t /keys /secret/* /database-secret/pgpass /database-secret/ca.crt"
    )
    (broker,) = pod["containers"]
    assert not {"secret", "database-secret"} & {mount["name"] for mount in broker["volumeMounts"]}
    assert next(volume for volume in pod["volumes"] if volume["name"] == "keys")["emptyDir"]["medium"] == "Memory"


def test_probes_ask_what_the_administration_says_of_its_health(tmp_path: Path) -> None:
    (broker,) = _pod(objects_in(_render(tmp_path, _changes()).directory))["containers"]
    assert broker["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": 4434, "scheme": "HTTPS"}
    assert broker["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert {port["name"]: port["containerPort"] for port in broker["ports"]} == {"broker": 4433, "admin": 4434}


def test_a_file_of_collateral_is_where_the_policy_has_it_and_a_new_one_is_rolled_out(tmp_path: Path) -> None:
    objects = objects_in(_render(tmp_path, _changes()).directory)
    mounts = {mount["mountPath"]: mount for mount in _pod(objects)["containers"][0]["volumeMounts"]}
    assert mounts[str(tmp_path / "collateral.json")]["subPath"] == "collateral.json"
    before = of_kind(objects, "Deployment")[0]["spec"]["template"]["metadata"]["annotations"]
    (tmp_path / "other.json").write_text("{}")
    after = objects_in(_render(tmp_path, _changes(), collateral=str(tmp_path / "other.json")).directory)
    assert of_kind(after, "Deployment")[0]["spec"]["template"]["metadata"]["annotations"] != before


def test_only_replicas_reach_brokers_and_brokers_only_what_they_need(tmp_path: Path) -> None:
    changes = _changes(admin_namespace="monitoring")
    (policy,) = of_kind(
        objects_in(_render(tmp_path, changes, collateral="{service: intel}").directory), "NetworkPolicy"
    )
    asking, administration = policy["spec"]["ingress"]
    (source,) = asking["from"]
    assert source["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "serving"}
    assert administration["ports"] == [{"protocol": "TCP", "port": 4434}]
    egress = policy["spec"]["egress"]
    assert egress[0]["to"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "storage"}}}]
    assert [[port["port"] for port in rule["ports"]] for rule in egress] == [[5432], [443], [443], [53, 53]]
    rendered = of_kind(objects_in(render_replicas(tmp_path, changes)), "NetworkPolicy")
    replicas = {found["metadata"]["name"]: found for found in rendered}
    (to_brokers, _) = replicas["photos-replica"]["spec"]["egress"]
    pods = policy["spec"]["podSelector"]["matchLabels"]
    assert to_brokers["to"] == [
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "photos-keys"}},
            "podSelector": {"matchLabels": pods},
        }
    ]
    pod = of_kind(objects_in(render_replicas(tmp_path, changes)), "Deployment")[0]["spec"]["template"]["metadata"]
    assert source["podSelector"]["matchLabels"].items() <= pod["labels"].items()
    (components,) = source["podSelector"]["matchExpressions"]
    tracks = {found["metadata"]["labels"]["app.kubernetes.io/component"] for found in _deployments(tmp_path, changes)}
    assert tracks == {"replica", "canary", "edge"}
    assert set(components["values"]) == tracks - {"edge"}


def _deployments(tmp_path: Path, changes: dict[str, Any]) -> list[Any]:
    canary = {"kubernetes": {**changes["kubernetes"], "canary": {"image": REPLICA}}}
    return of_kind(objects_in(render_replicas(tmp_path, changes | canary)), "Deployment")


def test_brokers_of_another_cluster_are_reached_from_anywhere(tmp_path: Path) -> None:
    changes = _changes(service="LoadBalancer") | {"image": {"brokers": ["keys.example:4433"]}}
    objects = objects_in(_render(tmp_path, changes).directory)
    (policy,) = of_kind(objects, "NetworkPolicy")
    assert policy["spec"]["ingress"] == [{"ports": [{"protocol": "TCP", "port": 4433}]}]
    assert of_kind(objects, "Service")[0]["spec"]["type"] == "LoadBalancer"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (_changes(namespace="serving"), "is the replicas'"),
        (_changes(namespace="serving", service="LoadBalancer"), "is the replicas'"),
        (_changes() | {"image": {"brokers": ["keys.example:4433"]}}, "image.brokers does not have that name"),
        (_changes(database={"url": "postgresql://b:word@db/keys"}), "must hold no password"),
        (_changes(database={"url": "postgresql://b@db/keys?password=word"}), "must hold no password"),
        (_changes(database={"url": "postgresql://b@db/keys?sslpassword=word"}), "must hold no password"),
        (_changes(database={"url": "mysql://db/keys"}), "must be postgresql"),
        (_changes(database={"url": "postgresql://b@db/keys", "password": "pgpass"}), "is needed with"),
        (_changes(database={"url": "postgresql://b@db/keys", "secret": "s"}), "needs password, authority or both"),
        (_changes(database=_DATABASE | {"password": "../x"}), "are keys of a Secret"),
        (_changes(database={"url": "postgresql://b@db/keys"}), "with sslmode=prefer"),
        (_changes(database={"url": "postgresql://b@db/keys?sslmode=require"}), "with sslmode=require"),
        (_changes(database={"url": "postgresql://b@db/keys?sslmode=verify-full&sslmode=disable"}), "sslmode=disable"),
        (_changes(database={"url": "postgresql://b@/keys?host=/run/postgresql,db.example"}), "with sslmode=prefer"),
        ({}, "no section kubernetes.brokers"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as raised:
        _render(tmp_path, changes)
    assert "word@" not in str(raised.value)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="under such a path"):
        _render(tmp_path, _changes(), collateral="../owner/../../collateral.json")
    (tmp_path / ".sealserve" / "owner" / "replica-policy.yaml").unlink()
    with pytest.raises(InputError, match="what brokers judge replicas by"):
        render_key_brokers(write_deployment(tmp_path, _changes()), tmp_path / "b")


def test_a_unix_socket_needs_no_tls(tmp_path: Path) -> None:
    url = "postgresql://broker@/keys?host=/run/postgresql"
    warnings = _render(tmp_path, _changes(database={"url": url})).warnings
    assert "the brokers' own pod" in warnings[1]


def test_whose_the_keys_are_is_said(tmp_path: Path) -> None:
    (warning,) = _render(tmp_path, _changes()).warnings
    assert "has the keys" in warning
    result = CliRunner().invoke(
        cli, ["k8s", "render-brokers", "-f", str(tmp_path / "deployment.yaml"), "-o", str(tmp_path / "brokers")]
    )
    assert result.exit_code == 0
    assert "has the keys" in result.output
    assert yaml.safe_load((tmp_path / "brokers" / "kustomization.yaml").read_text())["resources"][0] == "namespace.yaml"
