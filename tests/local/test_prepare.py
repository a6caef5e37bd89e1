from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest
from small_model import write_doubling_model

from sealserve.addresses import Address
from sealserve.broker.settings import BrokerSettings
from sealserve.deploy import Deployment
from sealserve.errors import ConfigurationError, KeyFileError, ModelError, SealserveError
from sealserve.evidence import AppraisalPolicy
from sealserve.evidence.errors import AttestationUnavailableError
from sealserve.local import prepare
from sealserve.local.layout import Layout
from sealserve.local.ownership import MARKER, claim
from sealserve.local.prepare import (
    PreparedModel,
    TrustRootChangedError,
    check_machine,
    prepare_keys,
    prepare_model,
    prepare_platform,
    prepare_policies,
)
from sealserve.models.graph import GraphBuilder, TensorInGraph, type_attribute
from sealserve.models.writing import write_saved_model
from sealserve.sealing import open_sealed_model
from sealserve.wire.tensorflow_pb2 import DataType

BROKER = Address("127.0.0.1", 4433)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    claim(tmp_path / "state", "cluster")
    return Layout(tmp_path / "state").make()


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    path = write_doubling_model(tmp_path / "model")
    return Deployment.model_validate({"name": "mine", "model": {"name": "double", "path": str(path)}})


def _prepare(deployment: Deployment, layout: Layout) -> PreparedModel:
    prepare_platform(layout)
    prepare_keys(deployment, layout, brokers=[BROKER])
    model = prepare_model(deployment, layout)
    prepare_policies(deployment, layout, model, broker=BROKER)
    return model


@pytest.mark.parametrize(
    ("error", "hint"),
    [(AttestationUnavailableError, "tee: simulated"), (ConfigurationError, "sealserve replica --tee tdx")],
    ids=["elsewhere", "in a guest"],
)
def test_a_cluster_of_trust_domains_is_not_run_on_one_machine(
    deployment: Deployment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[SealserveError],
    hint: str,
) -> None:
    device = tmp_path / "tdx_guest"
    if error is ConfigurationError:
        device.touch()
    monkeypatch.setattr(prepare, "TDX_GUEST", device)
    with pytest.raises(error, match="TDX guest") as caught:
        check_machine(deployment.model_copy(update={"tee": "tdx"}))
    assert hint in (caught.value.hint or "")


def test_the_sealed_model_opens_under_the_key_and_the_digest_that_the_broker_grants(
    deployment: Deployment, layout: Layout
) -> None:
    model = _prepare(deployment, layout)
    with BrokerSettings.load(layout.broker_configuration).open_store() as store:
        (stored,) = store.load().grants.values()
        granted = stored.document
        value = store.value(store.load().keys[granted.model.key, granted.keys[granted.model.key]])
    assert granted.deployment == "mine"
    assert (granted.model.name, granted.model.version, granted.model.mount) == ("double", 1, "/models/double")
    with value as key:
        digest = bytes.fromhex(granted.model.digest)
        sealed = open_sealed_model(layout.sealed_model, key, mount=granted.model.mount, expected_digest=digest)
        plain = (deployment.model.path / "1" / "saved_model.pb").read_bytes()
        assert sealed.read("1/saved_model.pb") == plain
    assert model.newly_sealed
    assert model.size == len(plain)


def test_the_policies_name_the_measurement_and_the_clients_own_root(deployment: Deployment, layout: Layout) -> None:
    _prepare(deployment, layout)
    for path in (layout.replica_policy, layout.client_policy):
        AppraisalPolicy.load(path)
    assert "trust_root: platform-root.pem" in layout.client_policy.read_text()
    assert layout.client_trust_root.read_text() == (layout.simulated_platform / "root.pem").read_text()


def test_a_platform_with_another_root_is_refused_and_the_trust_stays(deployment: Deployment, layout: Layout) -> None:
    _prepare(deployment, layout)
    before = layout.owner_trust_root.read_bytes()
    shutil.rmtree(layout.simulated_platform)
    with pytest.raises(TrustRootChangedError) as caught:
        _prepare(deployment, layout)
    assert layout.owner_trust_root.read_bytes() == layout.client_trust_root.read_bytes() == before
    for path in (layout.owner_trust_root, layout.client_trust_root):
        assert str(path) in str(caught.value.hint)
        path.unlink()
    _prepare(deployment, layout)  # as the hint says


def test_one_party_that_trusts_another_root_is_enough_to_refuse(deployment: Deployment, layout: Layout) -> None:
    _prepare(deployment, layout)
    layout.client_trust_root.write_text("somebody else's")
    with pytest.raises(TrustRootChangedError) as caught:
        prepare_platform(layout)
    assert str(layout.owner_trust_root) not in str(caught.value.hint)


def test_a_missing_platform_certificate_of_the_broker_is_given_again(deployment: Deployment, layout: Layout) -> None:
    """The owner gives it to the platform: what the platform made of it does not count."""
    _prepare(deployment, layout)
    layout.replica_authority.write_text("changed")
    _prepare(deployment, layout)
    assert layout.replica_authority.read_bytes() == layout.authority.read_bytes()


def test_a_model_whose_variables_are_missing_is_refused_with_the_right_advice(
    deployment: Deployment, layout: Layout
) -> None:
    graph = GraphBuilder()
    x = graph.placeholder("x", DataType.DT_FLOAT, [-1])
    graph.node("VarHandleOp", "v", [], dtype=type_attribute(DataType.DT_FLOAT))
    ends = {"x": TensorInGraph("x:0", DataType.DT_FLOAT, (-1,))}
    shutil.rmtree(deployment.model.path)
    write_saved_model(deployment.model.path, 1, graph.saved_model(ends, ends, signature="serving_default"))
    assert x
    with pytest.raises(ModelError, match="variables") as caught:
        _prepare(deployment, layout)
    assert "variables/" in str(caught.value.hint)


def test_a_version_named_01_is_refused_by_its_name(deployment: Deployment) -> None:
    (deployment.model.path / "1").rename(deployment.model.path / "01")
    with pytest.raises(ModelError, match="begins with 0"):
        check_machine(deployment)


def test_more_replicas_than_one_machine_runs_are_refused(deployment: Deployment) -> None:
    many = deployment.model_copy(update={"replicas": deployment.replicas.model_copy(update={"count": 33})})
    with pytest.raises(ConfigurationError, match="more than 32"):
        check_machine(many)


def test_a_deployment_in_enclaves_is_for_images(deployment: Deployment) -> None:
    with pytest.raises(
        ConfigurationError, match="runs tee: simulated only, and this deployment has tee: sgx"
    ) as caught:
        check_machine(deployment.model_copy(update={"tee": "sgx"}))
    assert "sealserve prepare" in (caught.value.hint or "")


def test_what_is_private_is_readable_by_its_owner_only(deployment: Deployment, layout: Layout) -> None:
    _prepare(deployment, layout)
    for path in (layout.wrap_key, layout.authority_key, layout.broker_key, layout.store, layout.master_key):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for directory in (layout.root, layout.owner, layout.platform, layout.client):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_no_plaintext_and_no_key_reaches_the_platform(deployment: Deployment, layout: Layout) -> None:
    _prepare(deployment, layout)
    secrets = [
        layout.wrap_key.read_bytes(),
        (deployment.model.path / "1" / "saved_model.pb").read_bytes()[:64],
        *(path.read_bytes()[40:120] for path in (layout.authority_key, layout.broker_key)),
    ]
    for path in layout.platform.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not any(secret in data for secret in secrets), path


def test_a_second_run_keeps_keys_certificates_and_the_sealed_model(deployment: Deployment, layout: Layout) -> None:
    _prepare(deployment, layout)
    kept = [layout.wrap_key, layout.authority, layout.broker_certificate, layout.sealed_model / "1" / "saved_model.pb"]
    before = [path.read_bytes() for path in kept]
    with BrokerSettings.load(layout.broker_configuration).open_store() as store:
        mark = store.mark()
        assert not _prepare(deployment, layout).newly_sealed
        assert store.mark() == mark
    assert [path.read_bytes() for path in kept] == before


def test_a_changed_model_is_sealed_anew(deployment: Deployment, layout: Layout) -> None:
    first = _prepare(deployment, layout)
    write_doubling_model(deployment.model.path, version=2, factor=3.0)
    second = _prepare(deployment, layout)
    assert second.newly_sealed
    assert second.version == 2
    assert second.digest != first.digest


def test_a_model_with_other_content_of_the_same_size_is_sealed_anew(deployment: Deployment, layout: Layout) -> None:
    _prepare(deployment, layout)
    file = deployment.model.path / "1" / "saved_model.pb"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert _prepare(deployment, layout).newly_sealed


def test_a_new_key_seals_anew(deployment: Deployment, layout: Layout) -> None:
    _prepare(deployment, layout)
    layout.wrap_key.unlink()
    assert _prepare(deployment, layout).newly_sealed
    with BrokerSettings.load(layout.broker_configuration).open_store() as store:
        assert store.load().grants["mine"].document.keys == {"model": 2}


def test_a_damaged_sealed_model_is_replaced(deployment: Deployment, layout: Layout) -> None:
    _prepare(deployment, layout)
    file = layout.sealed_model / "1" / "saved_model.pb"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert _prepare(deployment, layout).newly_sealed


def test_a_missing_model_is_found_out_before_anything_is_made(layout: Layout, tmp_path: Path) -> None:
    absent = {"name": "mine", "model": {"name": "double", "path": str(tmp_path / "absent")}}
    with pytest.raises(ModelError, match="absent"):
        check_machine(Deployment.model_validate(absent))
    assert not [path for path in layout.root.rglob("*") if path.is_file() and path.name != MARKER]


def test_a_wrap_key_that_others_can_read_is_refused(deployment: Deployment, layout: Layout) -> None:
    _prepare(deployment, layout)
    layout.wrap_key.chmod(0o644)
    with pytest.raises(KeyFileError, match="can be read by others"):
        _prepare(deployment, layout)
