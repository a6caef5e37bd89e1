"""``k8s apply``, ``diff`` and ``delete`` on a real cluster, as a person types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from small_model import write_doubling_model

from cluster.cluster import Cluster
from cluster.deployments import Owner, prepare
from sealserve.client import Client
from sealserve.evidence import AppraisalPolicy
from sealserve.kubernetes.live import kinds
from sealserve.kubernetes.live.api import Cluster as Connection
from sealserve.kubernetes.live.applying import Told, apply_objects
from sealserve.kubernetes.live.errors import ObjectsRefusedError
from sealserve.kubernetes.rendering import objects_by_file, plan_deployment

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

_TRUST, _INPUT = 4, 3


@pytest.fixture
def owner(kubernetes_cluster: Cluster, tmp_path: Path) -> Iterator[Owner]:
    """An owner with a running key broker; the deployment is deleted at the end by the command that is tested."""
    owner = prepare(kubernetes_cluster, tmp_path, write_doubling_model(tmp_path / "doubling"), {})
    with owner.broker():
        yield owner
    _run(owner, "delete", "--yes")
    assert _left(owner) == []


def _command(owner: Owner, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "sealserve", "k8s", *arguments, "-f", str(owner.file)]


def _environment(owner: Owner) -> dict[str, str]:
    return {**os.environ, "KUBECONFIG": str(owner.cluster.kubeconfig)}


def _run(owner: Owner, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        _command(owner, *arguments), env=_environment(owner), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def _left(owner: Owner) -> list[str]:
    """What is there of the deployment, and its namespace."""
    of = f"--selector=app.kubernetes.io/instance={owner.name}"
    wanted = "pods,services,persistentvolumes,persistentvolumeclaims,networkpolicies,configmaps,secrets,deployments"
    found = owner.cluster.get(f"{wanted},namespaces", "--all-namespaces", of)["items"]
    return [f"{thing['kind']} {thing['metadata']['name']}" for thing in found]


def _change(owner: Owner, **section: Any) -> None:
    content = yaml.safe_load(owner.file.read_text())
    content["kubernetes"] |= section
    owner.file.write_text(yaml.safe_dump(content))


def test_one_command_brings_attested_replicas_and_another_takes_them_away(owner: Owner) -> None:
    told = json.loads(_run(owner, "apply", "--json").stdout)
    assert (told["policy"], told["serving"], told["wanted"]) == ("permitted", 2, 2)
    assert all(each["attested"] and each["current"] for each in told["replicas"])
    (address,) = told["edge"]["addresses"]["grpc"]
    policy = ["--policy", str(owner.layout.client_policy), "--server-name", "replica.sealserve.internal"]
    verify = [sys.executable, "-m", "sealserve", "verify", address, *policy]
    subprocess.run(verify, check=True, capture_output=True, timeout=60)

    again = json.loads(_run(owner, "apply", "--json").stdout)
    assert {change["what"] for change in again["changes"]} == {"unchanged"}
    assert {each["pod"] for each in again["replicas"]} == {each["pod"] for each in told["replicas"]}
    assert _run(owner, "diff", "--exit-code").stdout == ""

    _change(owner, edge={"kind": "node-port"})
    assert "-  name: photos-edge" in _run(owner, "diff", "--exit-code", code=1).stdout
    moved = json.loads(_run(owner, "apply", "--json").stdout)
    assert {"kind": "Deployment", "name": "photos-edge", "what": "removed"} in moved["changes"]
    assert moved["edge"]["addresses"]["grpc"] == [f"{owner.cluster.addresses.node}:30500"]
    assert {each["pod"] for each in moved["replicas"]} == {each["pod"] for each in told["replicas"]}

    _run(owner, "delete", "--yes")
    assert _left(owner) == []
    _run(owner, "delete", "--yes")


def test_a_first_call_after_an_apply_is_answered_and_a_canary_comes_and_goes(owner: Owner) -> None:
    told = json.loads(_run(owner, "apply", "--json").stdout)
    address = told["edge"]["ways"]["grpc"]["address"]
    with Client(address, AppraisalPolicy.load(owner.layout.client_policy)) as client:
        client.predict({"x": np.ones(1, np.float32)}, model="doubling", timeout=10)

    image = yaml.safe_load(owner.file.read_text())["kubernetes"]["image"]
    _change(owner, canary={"image": image, "weight": 20, "count": 1})
    tried = json.loads(_run(owner, "apply", "--json").stdout)
    assert (tried["serving"], tried["wanted"]) == (3, 3)
    assert {each["pod"] for each in tried["replicas"] if not each["canary"]} == {
        each["pod"] for each in told["replicas"]
    }
    (canary,) = (each["pod"] for each in tried["replicas"] if each["canary"])
    assert f"{canary} | " in _run(owner, "logs", "--tail", "5").stdout
    _run(owner, "scale", "1")
    shown = json.loads(_run(owner, "status", "--json").stdout)
    assert (shown["serving"], shown["canary"]) == (1, {"wanted": 1, "serving": 1})

    _change(owner, canary=None)
    _run(owner, "apply", "--force-conflicts")
    assert not [name for name in _left(owner) if "canary" in name and not name.startswith("Pod")]  # it leaves
    _run(owner, "delete", "--yes", "--now")
    assert _left(owner) == []


def test_replicas_that_the_broker_refuses_end_an_apply_and_come_up_after_the_policy_was_mended(owner: Owner) -> None:
    right = owner.layout.replica_policy
    wrong = right.with_name("wrong.yaml")
    document = yaml.safe_load(right.read_text())
    document["enclaves"] = [{"mrenclave": 64 * "0"}]
    wrong.write_text(yaml.safe_dump(document))
    _put_policy(owner, wrong)
    assert "nothing was applied" in _run(owner, "apply", code=_TRUST).stderr
    assert _left(owner) == []

    refused = _run(owner, "apply", "--skip-policy-check", code=_TRUST)
    assert "MRENCLAVE is" in refused.stderr  # the broker's own words, of its audit log
    _put_policy(owner, right)
    assert "2 of 2 replicas are attested and serve" in _run(owner, "apply").stdout


def _put_policy(owner: Owner, policy: Path) -> None:
    command = [sys.executable, "-m", "sealserve", "broker", "policy", "put", "replicas", str(policy)]
    subprocess.run(
        [*command, "-f", str(owner.layout.broker_configuration)], check=True, capture_output=True, timeout=60
    )


def test_an_api_server_that_restarts_in_the_middle_of_an_apply_is_waited_for(owner: Owner) -> None:
    with subprocess.Popen(
        _command(owner, "apply"), env=_environment(owner), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Secret"):
                owner.cluster.restart_apiserver()
    assert process.returncode == 0, "".join(lines)
    assert "2 of 2 replicas are attested and serve\n" in lines


def test_an_apply_that_was_interrupted_is_finished_by_the_next_one(owner: Owner) -> None:
    with subprocess.Popen(
        _command(owner, "apply"), env=_environment(owner), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Secret"):
                process.terminate()
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 130, said
    assert "apply again to go on" in said
    assert "2 of 2 replicas are attested and serve" in _run(owner, "apply").stdout


def test_what_a_dry_run_does_not_see_leaves_no_namespace_behind(owner: Owner) -> None:
    _change(owner, edge={"kind": "node-port", "node_port": 99, "rest_node_port": 98})
    assert "provided port is not in the valid range" in _run(owner, "apply", code=_INPUT).stderr
    deadline = time.monotonic() + 60
    while _left(owner):
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_pods_outside_of_the_restricted_standard_are_refused_before_they_are_made(owner: Owner) -> None:
    objects = [thing for things in objects_by_file(plan_deployment(owner.file)).values() for thing in things]
    deployment = next(thing for thing in objects if thing["kind"] == kinds.DEPLOYMENT.name)
    deployment["spec"]["template"]["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    with (
        Connection.connect(owner.cluster.kubeconfig) as connection,
        pytest.raises(ObjectsRefusedError, match="privileged"),
    ):
        apply_objects(connection, objects, told=Told(lambda _: None, lambda _: None))
