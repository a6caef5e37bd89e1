"""Changes to a deployment that runs in a real cluster, while clients ask all the time: none of them loses a request."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from small_model import write_doubling_model

from cluster.cluster import Cluster
from cluster.deployments import Owner, prepare
from cluster.running import Callers, administration, applied, ask_every_second, render, sealserve, status
from sealserve.local.certificates import ensure_server_certificate
from sealserve.sealing import seal_model

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def owner(kubernetes_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owner]:
    """Of two replicas that serve, and ask their broker each second whenever one runs."""
    directory = tmp_path_factory.mktemp("upgrades")
    changes = {"gateway": {"rest_listen": "127.0.0.1:8501"}, "replicas": {"count": 2, "threads": 1}}
    model = write_doubling_model(directory / "doubling")
    owner = prepare(kubernetes_cluster, directory, model, changes, name="upgrades")
    ask_every_second(owner)
    _have_clients_accept(owner, [_seal(owner, version, key_version=1)[1] for version in (2, 3)])
    with applied(owner):
        with owner.broker():
            assert status(owner, "--wait", "90")["complete"]
        yield owner


def _sealed(owner: Owner) -> Path:
    return owner.cluster.directory / f"sealed-{owner.name}"


def _seal(owner: Owner, version: int, *, key_version: int) -> tuple[Path, bytes]:
    """Seal that version of the model, which multiplies by one more than its number. :returns: where, and its digest."""
    plain = write_doubling_model(owner.file.parent / f"plain-{version}", version=version, factor=version + 1.0)
    target = Path(tempfile.mkdtemp(dir=owner.file.parent)) / "sealed"
    with administration(owner) as broker:
        model = broker.grant(owner.name).document.model
        _, key = broker.key_value(model.key, key_version, purpose="seal")
        with key:
            return target, seal_model(plain, target, key, mount=model.mount).digest


def _have_clients_accept(owner: Owner, digests: list[bytes]) -> None:
    """Clients whose policy lists models have to list a new one before it is served."""
    policy = yaml.safe_load(owner.layout.client_policy.read_text())
    policy["models"] += [digest.hex() for digest in digests]
    owner.layout.client_policy.write_text(yaml.safe_dump(policy))


def _switch(owner: Owner, version: int, *, key_version: int) -> None:
    """Seal a model, bring it to the node, and have the grant name it."""
    new, digest = _seal(owner, version, key_version=key_version)
    with administration(owner) as broker:
        # Inside the directory, which the pods hold.
        for old in _sealed(owner).iterdir():
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        shutil.copytree(new, _sealed(owner), dirs_exist_ok=True)
        for path in [_sealed(owner), *_sealed(owner).rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        broker.switch_grant(owner.name, digest=digest, key_version=key_version, model_version=version)


def _replace_a_pod(owner: Owner) -> None:
    """Delete a replica, and wait for the one in its place: it starts with what is granted now."""
    pod = status(owner)["replicas"][0]["pod"]
    owner.cluster.kubectl("--namespace", owner.name, "delete", "pod", pod, "--wait=true")
    assert status(owner, "--wait", "90")["complete"]


def _logged(owner: Owner, event: str) -> int:
    """How many replicas said so."""
    lines = map(json.loads, sealserve(owner, "logs", "--json", "--tail", "200").splitlines())
    return len({line["pod"] for line in lines if line.get("event") == event})


def test_a_new_model_and_a_rotated_key_lose_no_request(owner: Owner) -> None:
    with owner.broker(), Callers(owner) as callers:
        callers.until(2.0)
        _switch(owner, 2, key_version=1)
        callers.until(3.0)
        with administration(owner) as broker:
            key = broker.grant(owner.name).document.model.key
            assert broker.rotate_key(key).version == 2
        _switch(owner, 2, key_version=2)
        deadline = time.monotonic() + 60
        while _logged(owner, "key-rotated") < 2:
            assert time.monotonic() < deadline
        with administration(owner) as broker:
            broker.retire_key(key, 1, grace=timedelta(0))
        _replace_a_pod(owner)
        callers.until(3.0)
    assert callers.failures == []
    values = [answer.value for answer in sorted(callers.answers, key=lambda answer: answer.when)]
    assert values[0] == 2.0
    assert {answer.value for answer in callers.answers} == {2.0, 3.0}


def test_a_broker_with_a_renewed_certificate_is_asked_as_before(owner: Owner) -> None:
    layout = owner.layout
    with Callers(owner) as callers:
        with owner.broker():
            time.sleep(3)
        before = layout.broker_certificate.read_bytes()
        layout.broker_certificate.unlink()
        ensure_server_certificate(
            layout.broker_key,
            layout.broker_certificate,
            authority_key=layout.authority_key,
            authority=layout.authority,
            hosts=[f"{owner.name}-broker.{owner.name}.svc"],
        )
        assert layout.broker_certificate.read_bytes() != before
        with owner.broker():
            _replace_a_pod(owner)
    assert callers.failures == []


def test_a_broker_that_moves_is_followed_without_a_new_pod(owner: Owner) -> None:
    cluster = owner.cluster
    old, new = cluster.addresses.host, f"198.18.{cluster.addresses.slot}.9"
    subprocess.run(["ip", "address", "add", f"{new}/32", "dev", cluster.addresses.link], check=True, timeout=20)
    with Callers(owner) as callers:
        before = {each["pod"] for each in status(owner)["replicas"]}
        with owner.broker():
            time.sleep(3)
            for file in (owner.file, owner.layout.broker_configuration):
                file.write_text(file.read_text().replace(f"{old}:", f"{new}:"))
            with owner.broker():
                output = owner.file.parent / "k8s"
                render(owner, output)
                cluster.kubectl("apply", "--server-side", "--validate=strict", "--kustomize", output)
                assert set(status(owner)["broker"].values()) == {new}
                time.sleep(10)  # DNS has the new address in every pod
        with owner.broker():
            _switch(owner, 3, key_version=2)
            callers.until(4.0)
            assert {each["pod"] for each in status(owner)["replicas"]} == before
            _replace_a_pod(owner)
    assert callers.failures == []
