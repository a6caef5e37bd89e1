"""Kubeconfigs that lead nowhere: what is said of each, and that no secret of them is repeated."""

from __future__ import annotations

from pathlib import Path

import pytest
import urllib3
from click.testing import CliRunner
from kubernetes.client import Configuration
from kubernetes_cases import CASES, write_deployment

from sealserve.cli import cluster_options
from sealserve.cli.main import cli
from sealserve.errors import UnavailableError
from sealserve.kubernetes.live.answers import refusal_of
from sealserve.kubernetes.live.api import Cluster
from sealserve.kubernetes.live.errors import KubeconfigError, UncheckedServerError
from sealserve.kubernetes.live.kubeconfig import load

GOOD = """
apiVersion: v1
kind: Config
current-context: first
clusters: [{name: here, cluster: {server: "http://192.0.2.20:6443"}}]
users: [{name: me, user: {}}]
contexts:
- {name: first, context: {cluster: here, user: me}}
- {name: second, context: {cluster: here, user: me}}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    file = tmp_path / "admin.kubeconfig"
    file.write_text(GOOD)
    return file


def test_the_file_leads_to_its_cluster(file: Path) -> None:
    configuration = Configuration()
    load(configuration, file, "second")
    assert configuration.host == "http://192.0.2.20:6443"


def test_a_list_of_files_may_name_one_that_is_not_there(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", f"{file.parent / 'gone'}:{file}")
    configuration = Configuration()
    load(configuration, None, None)
    assert configuration.host == "http://192.0.2.20:6443"


def test_a_file_that_is_not_there_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KubeconfigError, match=r"there is no kubeconfig ~/\.kube/config"):
        load(Configuration(), None, None)
    with pytest.raises(KubeconfigError, match=r"there is no kubeconfig .*gone"):
        load(Configuration(), file.parent / "gone", None)
    monkeypatch.setenv("KUBECONFIG", "/gone/one:/gone/two")
    with pytest.raises(KubeconfigError, match="there is no kubeconfig /gone/one nor /gone/two"):
        load(Configuration(), None, None)


def test_a_context_that_is_not_there_is_told_with_those_that_are(file: Path) -> None:
    with pytest.raises(KubeconfigError, match="has no context third") as refused:
        load(Configuration(), file, "third")
    assert refused.value.hint == "Name another with --context. It has first, second."


@pytest.mark.parametrize("content", ["token: [s3cret", "s3cret", "[s3cret]", "contexts: s3cret", "", "\x00"])
@pytest.mark.parametrize("context", [None, "first"])
def test_a_file_that_is_no_kubeconfig_is_refused_without_its_content(
    file: Path, content: str, context: str | None
) -> None:
    file.write_text(content)
    with pytest.raises(KubeconfigError) as refused:
        load(Configuration(), file, context)
    assert "s3cret" not in f"{refused.value} {refused.value.hint}"


_SKIP = ", insecure-skip-tls-verify: true"


@pytest.mark.parametrize(
    ("cluster", "why"),
    [
        ('server: "https://192.0.2.20:6443"', None),
        ('server: "http://127.0.0.1:8001"', None),
        ('server: "http://[::1]:8001"', None),
        ('server: "https://192.0.2.20:6443"' + _SKIP, "says not to check who answers"),
        ('server: "https://127.0.0.1:6443"' + _SKIP, "says not to check who answers"),
        ('server: "http://192.0.2.20:8080"', "without TLS"),
        ('server: "192.0.2.20:8080"', "without TLS"),
        ('server: "http://127.0.0.1:8001", proxy-url: "http://192.0.2.9:3128"', "by a proxy"),
        ('server: "https://192.0.2.20:6443", proxy-url: "http://192.0.2.9:3128"', None),
    ],
)
def test_a_server_that_nobody_checks_is_refused_unless_that_is_accepted(
    file: Path, cluster: str, why: str | None
) -> None:
    file.write_text(GOOD.replace('server: "http://192.0.2.20:6443"', cluster))
    if why is None:
        assert Cluster.connect(file).unchecked is None
        return
    with pytest.raises(UncheckedServerError, match=why) as refused:
        Cluster.connect(file)
    assert refused.value.exit_code == 4
    assert why in str(Cluster.connect(file, insecure=True).unchecked)


@pytest.mark.parametrize(
    ("server", "why"), [("https://192.0.2.20:port", "is no URL"), ("HTTPS://192.0.2.20:6443", "as it should")]
)
def test_a_server_that_is_no_url_is_refused(file: Path, server: str, why: str) -> None:
    file.write_text(GOOD.replace("http://192.0.2.20:6443", server))
    with pytest.raises(KubeconfigError, match=why):
        Cluster.connect(file)


@pytest.mark.parametrize(
    ("server", "proxy"),
    [
        ("http://127.0.0.1:8001", None),
        ("https://localhost:6443", None),
        ("https://192.0.2.20:6443", "http://192.0.2.9:3128"),
    ],
)
def test_a_proxy_of_the_environment_is_for_servers_elsewhere(
    file: Path, server: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://192.0.2.9:3128")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    file.write_text(GOOD.replace("http://192.0.2.20:6443", server))
    configuration = Configuration()
    load(configuration, file, None)
    assert configuration.proxy == proxy


_OIDC = "user: {auth-provider: {name: oidc, config: {id-token: a.b.c, refresh-token: s3cret, OTHERS}}}"
_AUTHORITY = "idp-certificate-authority: ca.pem, "


@pytest.mark.parametrize("issuer", ['idp-issuer-url: "https://a"', _AUTHORITY + 'idp-issuer-url: "http://a"'])
def test_a_login_whose_issuer_nobody_checks_is_refused_before_anybody_is_asked(
    file: Path, issuer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealserve.kubernetes.live.kubeconfig.load_kube_config", _nobody)
    file.write_text(GOOD.replace("user: {}", _OIDC.replace("OTHERS", issuer)))
    with pytest.raises(UncheckedServerError, match="issuer") as refused:
        Cluster.connect(file, "second", insecure=True)
    assert "s3cret" not in f"{refused.value} {refused.value.hint}"


def test_a_login_whose_issuer_is_checked_is_taken(file: Path) -> None:
    good = GOOD.replace("http://192", "https://192")
    file.write_text(good.replace("user: {}", _OIDC.replace("OTHERS", _AUTHORITY + 'idp-issuer-url: "https://a"')))
    assert Cluster.connect(file).unchecked is None  # "a.b.c" is no token that could have ended


@pytest.mark.parametrize("command", ["apply", "diff", "status", "logs", "delete", "doctor", "dns apply", "dns undo"])
def test_commands_send_nothing_to_a_server_that_nobody_checks(file: Path, command: str) -> None:
    file.write_text(GOOD)
    deployment = write_deployment(file.parent, {**CASES["nginx-sgx"], "broker": {"listen": "192.0.2.10:4433"}})
    options = ["-f", str(deployment), "--kubeconfig", str(file)]
    if command in {"apply", "diff", "doctor"}:
        options += ["--model-size", "1000"]
    result = CliRunner().invoke(cli, ["k8s", *command.split(), *options], standalone_mode=False)
    assert isinstance(result.exception, UncheckedServerError), result.exception


def test_a_command_that_accepts_it_warns_and_goes_on(file: Path) -> None:
    file.write_text(GOOD)
    deployment = write_deployment(file.parent, CASES["nginx-simulated"])
    options = ["--insecure-skip-tls-verify", "-f", str(deployment), "--kubeconfig", str(file)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(urllib3.PoolManager, "request", _nobody)
        patch.setattr(cluster_options, "_FIRST_PATIENCE", 0.0)
        result = CliRunner().invoke(cli, ["k8s", "status", *options], standalone_mode=False)
    assert isinstance(result.exception, UnavailableError)
    assert "warning: the kubeconfig leads to http://192.0.2.20:6443 without TLS" in result.stderr


def _nobody(*_: object, **__: object) -> object:
    raise urllib3.exceptions.NewConnectionError(None, "refused")  # type: ignore[arg-type]


def test_a_login_that_is_not_known_is_no_missing_permission() -> None:
    answer = urllib3.HTTPResponse(b'{"kind": "Status", "message": "Unauthorized", "code": 401}', status=401)
    refusal = refusal_of(answer, "/api/v1/pods", None)
    assert "does not know who you are" in refusal.message
    assert "log in again" in str(refusal.hint)
