"""``sealserve k8s apply``, ``diff`` and ``delete``: options, what they say, and exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner, Result
from fake_api_server import FakeApiServer, ended, serving, status
from kubernetes_cases import CANARY, NGINX, REPLICA
from small_model import write_doubling_model

from sealserve import __version__
from sealserve.cli.kubernetes import k8s
from sealserve.errors import SealserveError
from sealserve.kubernetes.live import kinds
from sealserve.kubernetes.live.api import Cluster
from sealserve.local.owner import prepare_owner


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployment whose owner has prepared everything."""
    directory = tmp_path_factory.mktemp("prepared")
    write_doubling_model(directory / "model")
    content = {
        "name": "photos",
        "model": {"name": "doubling", "path": "model"},
        "broker": {"listen": "0.0.0.0:4433"},
        "image": {"brokers": ["photos-broker.photos.svc:4433"]},
        "kubernetes": {
            "image": REPLICA,
            "sealed_model": {"claim": "sealed-model"},
            "broker": "192.0.2.10:4433",
            "edge": {"image": NGINX, "service": "ClusterIP"},
        },
    }
    (directory / "deployment.yaml").write_text(yaml.safe_dump(content))
    prepare_owner(directory / "deployment.yaml")
    return directory / "deployment.yaml"


@dataclass
class _Shell:
    """Runs commands about a deployment in a cluster."""

    server: FakeApiServer
    file: Path
    kubeconfig: Path

    def run(self, command: str, *options: str) -> Result:
        arguments = [command, "-f", str(self.file), "--kubeconfig", str(self.kubeconfig), *options]
        return CliRunner().invoke(k8s, arguments, standalone_mode=False)

    def code(self, command: str, *options: str) -> int:
        """The exit code, which for errors is the command line's to make of them."""
        result = self.run(command, *options)
        if isinstance(result.exception, SealserveError):
            return result.exception.exit_code
        return result.return_value or result.exit_code


def _with_canary(shell: _Shell, directory: Path) -> None:
    """Have the deployment try another image."""
    _with_section(shell, directory, canary={"image": CANARY})


def _with_section(shell: _Shell, directory: Path, **section: Any) -> None:
    """Have a deployment whose section kubernetes has more in it."""
    content = yaml.safe_load(shell.file.read_text())
    content |= {"state": str(shell.file.parent / ".sealserve")}
    content["model"]["path"] = str(shell.file.parent / "model")
    content["kubernetes"] |= section
    shell.file = directory / "deployment.yaml"
    shell.file.write_text(yaml.safe_dump(content))


def _not_ready(state: dict[str, Any]) -> dict[str, Any]:
    container = {"name": "replica", "ready": False, "state": state}
    return {"conditions": [{"type": "Ready", "status": "False"}], "containerStatuses": [container]}


@pytest.fixture
def shell(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Shell]:
    monkeypatch.delenv("COLUMNS", raising=False)  # of whoever starts the tests
    server = FakeApiServer()
    with server:
        yield _Shell(server, prepared, server.kubeconfig(tmp_path))


def test_an_apply_says_of_every_replica_that_it_is_attested_and_where_clients_connect(shell: _Shell) -> None:
    result = shell.run("apply")
    assert result.exception is None
    lines = result.stdout.splitlines()
    assert sum(line.endswith("attested, serving") for line in lines) == 2
    assert "2 of 2 replicas are attested and serve" in lines
    assert "gRPC: photos.photos.svc:8500" in lines
    assert any(line.startswith("whether clients come through was not tried: ") for line in lines)
    assert f"  sealserve verify photos.photos.svc:8500 -f {shell.file}" in lines
    secret = shell.server.get(kinds.SECRET, "photos-simulated-platform")
    assert set(secret["data"]) == {"pck.key", "attestation.key", "pck-chain.pem"}
    assert not any(value in result.output for value in secret["data"].values())


def test_scripts_get_one_object(shell: _Shell) -> None:
    told = json.loads(shell.run("apply", "--json").stdout)
    assert (told["policy"], told["serving"], told["edge"]["ready"]) == ("permitted", 2, True)
    assert len(told["measurements"]["photos-replica"]["mrenclave"]) == 64
    assert told["requests"] > len(told["changes"])
    assert told["edge"]["ways"]["grpc"]["tried"] is False  # an address of the cluster's own
    assert [each["state"] for each in told["replicas"]] == ["serving", "serving"]
    assert {"kind": "Secret", "name": "photos-simulated-platform", "what": "created"} in told["changes"]


def test_a_refused_replica_is_exit_code_4_and_scripts_get_the_reason(shell: _Shell) -> None:
    shell.server.pods = lambda _: ended("broker-refused", "the key broker refused: not-granted")
    result = shell.run("apply", "--json")
    told = json.loads(result.stdout)
    assert (told["exit_code"], told["reason"]) == (4, "replicas-refused")
    assert told["replicas"][0]["reason"] == "the key broker refused: not-granted"


def test_what_all_replicas_wait_for_is_explained_once(shell: _Shell, monkeypatch: pytest.MonkeyPatch) -> None:

    no_image = {"waiting": {"reason": "ErrImagePull", "message": 'image "sealserve.local/photos:1": ' + "x" * 900}}
    shell.server.pods = lambda _: _not_ready(no_image)
    told = shell.run("apply", "--timeout", "0").output
    assert told.count("image-unavailable") == 2
    assert told.count("load the archive") == 1
    shell.run("delete", "--yes", "--now")
    shell.server.pods = lambda _: _not_ready({"running": {"startedAt": "2026-01-01T00:00:00Z"}})
    log = '{"event": "waiting-for-broker", "reason": "no answer"}'
    monkeypatch.setattr(Cluster, "logs", lambda *_, **__: log)
    told = shell.run("apply", "--timeout", "0").output
    assert told.count("waiting-for-broker") == 2
    assert told.count("Is the key broker running?") == 1


def test_a_measurement_that_the_policy_does_not_know_is_refused_before_anything_is_applied(
    shell: _Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sealserve.evidence import SimulatedEnclave
    from sealserve.kubernetes.live import policy_check

    monkeypatch.setattr(policy_check, "measure_simulated_enclave", lambda _: SimulatedEnclave(bytes(32), bytes(32)))
    result = shell.run("apply")
    hint = str(getattr(result.exception, "hint", None))
    assert hint.startswith(
        f"That is what this sealserve ({__version__}) measures to. If the image was built by another"
    )
    assert hint.endswith(f"sealserve prepare -f {shell.file}")
    assert shell.code("apply") == 4
    assert shell.server.objects == {}
    assert shell.code("apply", "--skip-policy-check") == 0


def test_a_deployment_that_says_otherwise_than_the_grant_is_warned_of_until_it_is_prepared(
    shell: _Shell, tmp_path: Path
) -> None:
    shell.file = Path(shutil.copytree(shell.file.parent, tmp_path / "own")) / shell.file.name
    content = yaml.safe_load(shell.file.read_text())
    content["replicas"] = {"threads": 2}
    shell.file.write_text(yaml.safe_dump(content))
    prepare_owner(shell.file)
    content["replicas"] = {"threads": 3}
    content["model"]["precision"] = "bf16"
    shell.file.write_text(yaml.safe_dump(content))
    for result in (shell.run("diff"), shell.run("apply")):
        assert result.exception is None
        told = "model.precision bf16, not f32; replicas.threads 3, not 2. Run `sealserve prepare` first"
        assert result.stderr.count(told) == 1
    prepare_owner(shell.file)
    for result in (shell.run("diff"), shell.run("apply")):
        assert result.exception is None
        assert "sealserve prepare" not in result.stderr
    settings = yaml.safe_load((shell.file.parent / ".sealserve" / "owner" / "broker.yaml").read_text())
    store = shell.file.parent / ".sealserve" / "owner" / settings["store"]
    store.write_bytes(b"no database" * 1000)
    result = shell.run("diff")
    assert result.exception is None
    assert "whether the key broker's grant is as the deployment says was not looked at: " in result.stderr


def test_that_nobody_tried_a_brokers_new_address_is_said(shell: _Shell, tmp_path: Path) -> None:
    warning = "whether pods reach the key broker at {} was not tried"
    shell.file = Path(shutil.copytree(shell.file.parent, tmp_path / "own")) / shell.file.name
    assert "was not tried: no replica" not in shell.run("apply").stderr  # each has attested through it
    content = yaml.safe_load(shell.file.read_text())
    for address in ("192.0.2.11:4433", "keys.example:4433"):
        content["kubernetes"]["broker"] = address
        shell.file.write_text(yaml.safe_dump(content))
        result = shell.run("apply")
        assert result.exception is None
        assert warning.format(address) in result.stderr
    content["kubernetes"] |= {"broker": "192.0.2.12:4433", "resources": {"cpu": "2"}}
    shell.file.write_text(yaml.safe_dump(content))
    assert "was not tried: no replica" not in shell.run("apply").stderr  # new pods have
    assert "was not tried: no replica" not in shell.run("apply").stderr


def test_without_a_broker_at_hand_it_is_said_that_nothing_is_known(shell: _Shell, tmp_path: Path) -> None:
    content = yaml.safe_load(shell.file.read_text())
    state = shell.file.parent / ".sealserve"
    content |= {
        "state": str(tmp_path / "state"),
        "model": {"name": "doubling", "path": str(shell.file.parent / "model")},
    }
    content["image"]["broker_ca"] = str(state / "owner" / "ca.pem")
    (tmp_path / "state" / "platform").mkdir(parents=True)
    (tmp_path / "state" / "platform" / "simulated").symlink_to(state / "platform" / "simulated")
    shell.file = tmp_path / "deployment.yaml"
    shell.file.write_text(yaml.safe_dump(content))
    told = json.loads(shell.run("apply", "--json").stdout)
    assert told["policy"] == "unknown"
    assert any("its store is not here" in warning for warning in told["warnings"])


def test_an_apply_that_does_not_wait_looks_once_and_removes_nothing(shell: _Shell) -> None:
    shell.run("apply")
    old = {"name": "old", "namespace": "photos", "labels": shell.server.find(kinds.SERVICE)[0]["metadata"]["labels"]}
    shell.server.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": old})
    shell.run("apply", "--no-wait")
    assert any(thing["metadata"]["name"] == "old" for thing in shell.server.find(kinds.CONFIG_MAP))
    shell.run("apply")
    assert not any(thing["metadata"]["name"] == "old" for thing in shell.server.find(kinds.CONFIG_MAP))


def test_a_canary_is_waited_for_told_of_and_shown(shell: _Shell, tmp_path: Path) -> None:
    _with_canary(shell, tmp_path)
    result = shell.run("apply")
    assert result.exception is None
    lines = result.stdout.splitlines()
    assert "3 of 3 replicas are attested and serve, 1 of them canary" in lines
    assert sum(line.endswith("-0  canary, attested, serving") for line in lines) == 1
    told = json.loads(shell.run("status", "--json").stdout)
    assert (told["wanted"], told["serving"], told["canary"]) == (2, 2, {"wanted": 1, "serving": 1})
    shown = shell.run("status").stdout.splitlines()
    assert "canary: 1 of 1 serve" in shown
    assert sorted(line.split()[3] for line in shown if line.startswith("photos-replica-")) == [
        "canary",
        "stable",
        "stable",
    ]
    assert set(json.loads(shell.run("apply", "--json").stdout)["measurements"]) == {
        "photos-replica",
        "photos-replica-canary",
    }


def test_a_canary_that_is_refused_ends_an_apply_and_goes_when_it_is_not_asked_for(
    shell: _Shell, tmp_path: Path
) -> None:
    before = shell.file
    shell.run("apply")
    _with_canary(shell, tmp_path)
    shell.server.pods = lambda _: ended("broker-refused", "the key broker refused: not-granted")
    told = json.loads(shell.run("apply", "--json").stdout)
    assert (told["exit_code"], told["reason"]) == (4, "replicas-refused")
    assert [(each["state"], each["canary"]) for each in told["replicas"]].count(("refused", True)) == 1
    assert shell.code("status") == 5
    shell.file, shell.server.pods = before, lambda _: serving()
    assert shell.code("apply") == 0
    assert {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"} <= {
        line.split()[0] for line in shell.run("apply").stdout.splitlines() if line.endswith("unchanged")
    }
    assert not [thing for thing in shell.server.objects.values() if "canary" in thing["metadata"]["name"]]


def test_an_autoscaler_that_cannot_scale_says_why_in_its_own_words(shell: _Shell) -> None:
    conditions = [
        {"type": "AbleToScale", "status": "True", "reason": "SucceededGetScale"},
        {"type": "ScalingActive", "status": "False", "reason": "FailedGetResourceMetric", "message": "no\n metrics"},
    ]
    spec = {"scaleTargetRef": {"kind": "Deployment", "name": "photos-replica"}, "maxReplicas": 4}
    scaler: dict[str, Any] = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "ours", "namespace": "photos"},
        "spec": spec,
        "status": {"conditions": conditions},
    }
    shell.server.put(scaler)
    words = "the autoscaler does not scale (FailedGetResourceMetric: no metrics): see `sealserve k8s doctor`"
    assert json.loads(shell.run("apply", "--json").stdout)["warnings"].count(words) == 1
    assert f"scaling   {words}" in shell.run("status").stdout.splitlines()
    assert json.loads(shell.run("status", "--json").stdout)["scaling"] == words
    assert words in str(getattr(shell.run("scale", "3").exception, "hint", None))
    shell.server.put({**scaler, "status": {"conditions": [{**conditions[1], "reason": "ScalingDisabled"}]}})
    assert json.loads(shell.run("status", "--json").stdout)["scaling"] is None


def test_a_namespace_of_prometheus_that_is_not_there_is_a_warning(shell: _Shell, tmp_path: Path) -> None:
    _with_section(shell, tmp_path, monitoring={"namespace": "nowhere", "operator": False})
    words = "there is no namespace nowhere"
    assert any(words in warning for warning in json.loads(shell.run("apply", "--json").stdout)["warnings"])
    shell.server.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "nowhere"}})
    assert not any(words in warning for warning in json.loads(shell.run("apply", "--json").stdout)["warnings"])


def test_in_a_rolling_update_status_counts_and_shows_new_replicas_first(shell: _Shell, tmp_path: Path) -> None:
    shell.file = Path(shutil.copytree(shell.file.parent, tmp_path / "own")) / shell.file.name
    shell.run("apply")
    content = yaml.safe_load(shell.file.read_text())
    content["kubernetes"]["resources"] = {"cpu": "2"}
    shell.file.write_text(yaml.safe_dump(content))
    shell.server.pods = lambda number: serving() if number else _not_ready({"waiting": {"reason": "ContainerCreating"}})
    shell.run("apply", "--no-wait")
    lines = shell.run("status").stdout.splitlines()
    assert "1 of 2 replicas serve; 2 from before serve" in lines
    shown = [line.split("node")[1].strip() for line in lines if line.startswith("photos-replica-")]
    assert [line.partition("  ")[0] for line in shown] == ["starting", "serving", "old, serving", "old, serving"]
    told = json.loads(shell.run("status", "--json").stdout)
    assert (told["serving"], told["serving_from_before"], told["complete"]) == (3, 2, False)
    assert [each["old"] for each in told["replicas"]] == [False, False, True, True]
    shell.server.denied = {"replicasets"}
    assert "3 of 2 replicas serve" in shell.run("status").stdout


def test_differences_are_an_exit_code_for_those_who_ask(shell: _Shell) -> None:
    assert shell.code("diff") == 0
    assert shell.code("diff", "--exit-code") == 1
    shell.run("apply")
    assert shell.code("diff", "--exit-code") == 0
    assert json.loads(shell.run("diff", "--json").stdout) == {
        "differences": [],
        "conflicts": [],
        "judged_by_server": True,
    }


def test_what_somebody_else_has_set_is_a_difference_and_it_is_said_whose_it_is(shell: _Shell) -> None:
    shell.run("apply")
    for name in ("photos-replica", "photos-edge"):
        live = shell.server.get(kinds.DEPLOYMENT, name)
        shell.server.put({**live, "spec": {**live["spec"], "minReadySeconds": 77}})
        cause = {"field": ".spec.minReadySeconds", "message": 'conflict with "kubectl-edit" using apps/v1'}
        shell.server.refusals[f"Deployment/{name}"] = status(409, "Apply failed with 1 conflict", causes=(cause,))
    result = shell.run("diff", "--exit-code")
    assert (result.exception, result.return_value) == (None, 1)
    assert result.stdout.count("-  minReadySeconds: 77") == 2
    for name in ("photos-replica", "photos-edge"):
        said = f"Deployment {name}: somebody else has set .spec.minReadySeconds by kubectl-edit: `apply` refuses"
        assert said in " ".join(result.stderr.split())
        assert shell.server.get(kinds.DEPLOYMENT, name)["spec"]["minReadySeconds"] == 77
    assert len(json.loads(shell.run("diff", "--json").stdout)["conflicts"]) == 2
    assert shell.code("apply") == 3
    assert json.loads(shell.run("diff", "--force-conflicts", "--json").stdout)["conflicts"] == []


def _interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("rollout.Rollout.follow", "everything is applied, and the rollout goes on in the cluster: `sealserve k8s st"),
        ("applying.prune", "everything is applied, and the rollout goes on in the cluster"),
        ("way_in.find_way", "everything is applied, and the rollout goes on in the cluster"),
        ("applying.apply_objects", "nothing was applied"),
        ("applying.claim_again", "objects were applied: apply again to go on"),
    ],
)
def test_an_interrupted_apply_says_what_goes_on(
    shell: _Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, told: str
) -> None:
    shell.file = Path(shutil.copytree(shell.file.parent, tmp_path / "own")) / shell.file.name
    content = yaml.safe_load(shell.file.read_text())
    content["kubernetes"]["sealed_model"] = {"host_path": "/srv/sealed"}
    shell.file.write_text(yaml.safe_dump(content))
    monkeypatch.setattr(f"sealserve.kubernetes.live.{place}", _interrupted)
    result = shell.run("apply")
    assert isinstance(result.exception, click.Abort | KeyboardInterrupt)
    assert told in " ".join(result.stderr.split())


def test_an_interrupted_delete_says_how_to_finish_it(shell: _Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.run("apply")
    monkeypatch.setattr("sealserve.kubernetes.live.deleting._wait", _interrupted)
    assert "`sealserve k8s delete` goes on with it" in " ".join(shell.run("delete", "--yes").stderr.split())


@pytest.mark.parametrize("answer", ["n\n", ""])
def test_who_does_not_say_yes_is_told_that_nothing_was_deleted(
    shell: _Shell, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    shell.run("apply", "--no-wait")
    monkeypatch.setattr("sealserve.cli.kubernetes_delete._is_asked", lambda: True)
    arguments = ["delete", "-f", str(shell.file), "--kubeconfig", str(shell.kubeconfig)]
    result = CliRunner().invoke(k8s, arguments, standalone_mode=False, input=answer)
    assert "nothing was deleted" in result.stderr
    assert (result.return_value == 130) if answer else isinstance(result.exception, click.Abort)
    assert shell.server.find(kinds.DEPLOYMENT)


def test_nothing_is_deleted_that_nobody_confirmed(shell: _Shell) -> None:
    shell.run("apply")
    assert shell.code("delete") == 3
    assert shell.server.find(kinds.DEPLOYMENT)
    assert shell.code("delete", "--yes") == 0
    assert shell.server.objects == {}
    assert "there was nothing of photos in the namespace" in shell.run("delete", "--yes").stdout


def test_help_needs_no_client_of_kubernetes() -> None:
    program = (
        "import sys\nfrom click.testing import CliRunner\nfrom sealserve.cli.kubernetes import k8s\n"
        "for words in (['--help'], ['apply', '--help'], ['delete', '--help']):\n"
        "    assert CliRunner().invoke(k8s, words).exit_code == 0\n"
        "assert not {'kubernetes', 'urllib3', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_context_that_is_not_there_is_an_error_about_the_kubeconfig(shell: _Shell) -> None:
    result: Any = shell.run("apply", "--context", "nowhere")
    assert result.exception.exit_code == 3
    assert "--context" in result.exception.hint
