"""Preparing a deployment whose replicas run elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from small_model import write_doubling_model

from sealserve.broker.settings import BrokerSettings
from sealserve.broker.store import GrantDocument
from sealserve.cli.main import main
from sealserve.configuration import load_yaml
from sealserve.errors import ConfigurationError, ModelError
from sealserve.evidence import SimulatedEnclave
from sealserve.evidence.policy import PolicyDocument
from sealserve.local import prepare
from sealserve.local.layout import Layout
from sealserve.local.owner import prepare_owner

SGX_POLICY = "# mine\ntee: sgx\ncollateral: {service: intel}\nenclaves:\n  - mrenclave: '" + 64 * "a" + "'\n"


def write(directory: Path, **changes: Any) -> Path:
    model = {"name": "double", "path": "model"} | changes.pop("model", {})
    file = directory / "deployment.yaml"
    file.write_text(json.dumps({"name": "mine", "model": model, "tee": "sgx"} | changes))
    return file


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_doubling_model(tmp_path / "model")
    return tmp_path


def granted(layout: Layout) -> list[GrantDocument]:
    with BrokerSettings.load(layout.broker_configuration).create_store(actor="test") as store:
        return [grant.document for grant in store.load().grants.values()]


def test_without_a_policy_nothing_is_granted_and_with_one_its_replicas_get_the_key(directory: Path) -> None:
    file = write(directory, replicas={"threads": 4})
    first = prepare_owner(file)
    assert not first.complete
    layout = first.layout
    assert not layout.broker_configuration.exists()
    assert not layout.client_policy.exists()
    layout.replica_policy.write_text(SGX_POLICY)
    second = prepare_owner(file)
    assert (second.complete, second.model.newly_sealed, second.model.digest) == (True, False, first.model.digest)
    (grant,) = granted(layout)
    assert (grant.deployment, grant.model.digest, grant.version_1) == ("mine", first.model.digest.hex(), None)
    assert grant.arguments["threads"] == "4"
    assert layout.replica_policy.read_text() == SGX_POLICY, "it is the owner's"
    theirs = load_yaml(layout.client_policy, PolicyDocument)
    assert (theirs.enclaves, theirs.models) == (
        load_yaml(layout.replica_policy, PolicyDocument).enclaves,
        (first.model.digest,),
    )


def test_running_it_again_changes_nothing(directory: Path) -> None:
    file = write(directory)
    layout = prepare_owner(file).layout
    layout.replica_policy.write_text(SGX_POLICY)
    prepare_owner(file)
    store = f"{layout.store.name}-"  # SQLite's own files beside it
    files = [path for path in layout.root.rglob("*") if path.is_file() and not path.name.startswith(store)]
    kept = {path: path.read_bytes() for path in files if path not in {layout.lock, layout.store}}
    prepare_owner(file)
    assert {path: path.read_bytes() for path in kept} == kept


def test_another_model_is_sealed_and_granted(directory: Path) -> None:
    file = write(directory)
    layout = prepare_owner(file).layout
    layout.replica_policy.write_text(SGX_POLICY)
    before = prepare_owner(file).model
    write_doubling_model(directory / "model", version=2, factor=3.0)
    after = prepare_owner(file).model
    assert after.digest != before.digest
    (grant,) = granted(layout)
    assert (grant.model.version, grant.model.digest) == (2, after.digest.hex())
    assert load_yaml(layout.client_policy, PolicyDocument).models == (after.digest,)


def test_the_brokers_certificate_has_the_names_by_which_replicas_find_it(directory: Path) -> None:
    layout = prepare_owner(write(directory, image={"brokers": ["keys.example.org:4433"]})).layout
    certificate = x509.load_pem_x509_certificate(layout.broker_certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "keys.example.org" in names.get_values_for_type(x509.DNSName)


def test_the_unmodified_model_server_gets_its_key_over_version_1(directory: Path) -> None:
    file = write(directory, model={"engine": "tensorflow-serving"})
    layout = prepare_owner(file).layout
    layout.replica_policy.write_text(SGX_POLICY)
    prepare_owner(file)
    (grant,) = granted(layout)
    assert grant.version_1 is not None
    assert grant.version_1.key == grant.model.key


def test_simulated_replicas_elsewhere_need_no_policy_of_the_owners(directory: Path) -> None:
    prepared = prepare_owner(write(directory, tee="simulated"))
    assert prepared.complete
    assert [grant.deployment for grant in granted(prepared.layout)] == ["mine"]


def test_replicas_that_lose_their_grant_by_a_new_measurement_are_warned_of(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(directory, tee="simulated")
    assert prepare_owner(file).replaced is None
    first = load_yaml(prepare_owner(file).layout.replica_policy, PolicyDocument).enclaves[0].mrenclave
    assert first is not None
    newer = SimulatedEnclave(bytes(32), bytes(32))
    monkeypatch.setattr(prepare, "measure_simulated_enclave", lambda _: newer)
    with pytest.raises(SystemExit):
        main(["prepare", "-f", str(file), "--json"])
    out, err = capsys.readouterr()
    assert f"accepts MRENCLAVE {newer.mrenclave.hex()} now, in the place of {first.hex()}" in " ".join(err.split())
    assert "lose their grant at their next question" in " ".join(err.split())
    assert json.loads(out)["replaced_measurement"] == first.hex()
    assert prepare_owner(file).replaced is None


def test_a_policy_for_another_tee_is_refused_and_nothing_is_granted(directory: Path) -> None:
    layout = prepare_owner(write(directory)).layout
    layout.replica_policy.write_text(SGX_POLICY)
    with pytest.raises(ConfigurationError, match="is for tee: sgx, and the deployment is for tdx"):
        prepare_owner(write(directory, tee="tdx"))
    assert not layout.broker_configuration.exists()


def test_without_a_model_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        prepare_owner(write(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"deployment.yaml"}


def test_the_command_says_what_comes_next(
    directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory)
    write(directory)

    def run(*options: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["prepare", *options])
        assert ended.value.code == 0
        return capsys.readouterr().out

    assert "sealserve image measure signature --policy .sealserve/owner/replica-policy.yaml" in run()
    (directory / ".sealserve" / "owner" / "replica-policy.yaml").write_text(SGX_POLICY)
    assert "sealserve broker run -f .sealserve/owner/broker.yaml" in run()
    told = json.loads(run("--json"))
    assert (told["complete"], told["tee"], told["model"]["newly_sealed"]) == (True, "sgx", False)
    assert run().splitlines()[-1] == "  sealserve image run --sealed .sealserve/platform/sealed"
    for digest, end in (("0" * 64, "   # with images: docs/kubernetes-quickstart.md"), ("1" * 64, "")):
        edge = {"kind": "node-port"}
        section = {"image": f"r.example/a@sha256:{digest}", "sealed_model": {"claim": "sealed"}, "edge": edge}
        write(directory, kubernetes=section)
        assert run().splitlines()[-1] == f"  sealserve k8s apply{end}"
