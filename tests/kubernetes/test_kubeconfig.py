"""Kubeconfigs that lead nowhere: what is said of each, and that no secret of them is repeated."""

from __future__ import annotations

from pathlib import Path

import pytest
import urllib3
from kubernetes.client import Configuration

from sealserve.kubernetes.live.answers import refusal_of
from sealserve.kubernetes.live.errors import KubeconfigError
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


def test_a_login_that_is_not_known_is_no_missing_permission() -> None:
    answer = urllib3.HTTPResponse(b'{"kind": "Status", "message": "Unauthorized", "code": 401}', status=401)
    refusal = refusal_of(answer, "/api/v1/pods", None)
    assert "does not know who you are" in refusal.message
    assert "log in again" in str(refusal.hint)
