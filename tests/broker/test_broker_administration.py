"""Keys, policies and grants over time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from broker_parties import DIGEST, GRANT, MODEL, OTHER_ENCLAVE, SECOND_KEY, WRAP_KEY, Place
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from sealserve.broker.administration import (
    BrokerAdministration,
    ChangedMeanwhileError,
    InUseError,
    NameTakenError,
    NotConfirmedError,
    UnknownNameError,
)
from sealserve.broker.store import GrantDocument, MasterKeyPlace, Store, StoredPolicy
from sealserve.broker.store.documents import now
from sealserve.errors import ConfigurationError, KeyFileError, SealserveError
from sealserve.secret import Secret

NEW_DIGEST = bytes([0xCD]) * 32


@pytest.fixture
def administration(place: Place) -> Iterator[BrokerAdministration]:
    with place.administration() as administration:
        yield administration


# --- keys -----------------------------------------------------------------------------------------------------------


def test_a_key_is_made_rotated_retired_and_destroyed(administration: BrokerAdministration) -> None:
    assert administration.create_key("new").version == 1
    assert administration.rotate_key("new").version == 2
    values = [bytes(administration.key_value("new", n, purpose="test")[1].reveal()) for n in (1, 2)]
    assert len(set(values)) == 2
    assert {len(value) for value in values} == {16}
    retired = administration.retire_key("new", 1, grace=timedelta(hours=1))
    assert retired.state() == "retiring"
    assert retired.state(now() + timedelta(hours=2)) == "retired"
    assert not retired.releasable(now() + timedelta(hours=2))
    assert administration.retire_key("new", 1, grace=timedelta(0)).state() == "retired"
    assert administration.key_value("new", purpose="test")[0].version == 2
    assert administration.destroy_key("new", 1, confirmation="new").state() == "destroyed"
    with pytest.raises(UnknownNameError, match="destroyed"):
        administration.key_value("new", 1, purpose="test")
    assert [key.as_dict()["state"] for key in administration.key_versions() if key.name == "new"] == [
        "destroyed",
        "active",
    ]


def test_a_key_with_a_value_of_its_own_is_imported(administration: BrokerAdministration) -> None:
    assert bytes(administration.key_value("wrap", 3, purpose="test")[1].reveal()) == WRAP_KEY
    given_value = Secret(bytes(16))
    assert administration.import_key("wrap", given_value).version == 4
    assert bytes(given_value.reveal()) == bytes(16), "the caller's copy is the caller's"
    with pytest.raises(NameTakenError):
        administration.import_key("wrap", Secret(bytes(16)), version=4)
    for size in (0, 15, 17, 32):
        with pytest.raises(KeyFileError):
            administration.import_key("x", Secret(bytes(size)))


def test_the_same_value_is_imported_once(administration: BrokerAdministration) -> None:
    assert administration.ensure_key("wrap", Secret(WRAP_KEY)).version == 3
    assert administration.ensure_key("wrap", Secret(SECOND_KEY)).version == 4
    assert administration.ensure_key("wrap", Secret(SECOND_KEY)).version == 4


def test_what_a_grant_needs_is_not_taken_away_by_mistake(administration: BrokerAdministration) -> None:
    with pytest.raises(InUseError, match="digits"):
        administration.retire_key("wrap", 3)
    with pytest.raises(InUseError, match="digits"):
        administration.destroy_key("wrap", 3, confirmation="wrap")
    with pytest.raises(InUseError, match="digits"):
        administration.delete_policy("policy")
    assert administration.retire_key("wrap", 3, force=True).state() == "retiring"


def test_destroying_needs_the_name_again(administration: BrokerAdministration) -> None:
    administration.rotate_key("wrap")
    for confirmation in ("", "yes", "WRAP"):
        with pytest.raises(NotConfirmedError):
            administration.destroy_key("wrap", 4, confirmation=confirmation)
    assert administration.key_value("wrap", 4, purpose="test")


def test_what_replicas_may_still_open_is_not_destroyed_before_its_grace_period_is_over(
    administration: BrokerAdministration,
) -> None:
    administration.rotate_key("wrap")
    administration.switch_grant("digits", digest=NEW_DIGEST, key_version=4)
    for grace in (None, timedelta(hours=1)):
        if grace is not None:
            administration.retire_key("wrap", 3, grace=grace)
        with pytest.raises(InUseError, match="named before: digits"):
            administration.destroy_key("wrap", 3, confirmation="wrap")
    administration.retire_key("wrap", 3, grace=timedelta(0))
    assert administration.destroy_key("wrap", 3, confirmation="wrap").state() == "destroyed"


def test_names_that_do_not_exist_are_clear_errors(administration: BrokerAdministration) -> None:
    calls = [
        lambda: administration.rotate_key("none"),
        lambda: administration.retire_key("wrap", 99),
        lambda: administration.destroy_key("none", 1, confirmation="none"),
        lambda: administration.key_value("none", purpose="test"),
        lambda: administration.policy("none"),
        lambda: administration.delete_policy("none"),
        lambda: administration.grant("none"),
        lambda: administration.delete_grant("none"),
        lambda: administration.switch_grant("none", digest=NEW_DIGEST),
        lambda: administration.put_grant(GrantDocument.model_validate(GRANT | {"policy": "none"})),
        lambda: administration.put_grant(GrantDocument.model_validate(GRANT | {"keys": {"wrap": 9}})),
    ]
    for call in calls:
        with pytest.raises(UnknownNameError):
            call()
    with pytest.raises(NameTakenError):
        administration.create_key("wrap")


def test_keys_have_names_that_the_protocol_can_carry(administration: BrokerAdministration) -> None:
    for name in ("", "a/b", "ü", "x" * 65, "a b"):
        with pytest.raises(SealserveError):
            administration.create_key(name)


# --- policies -------------------------------------------------------------------------------------------------------


def test_a_policy_needs_no_file_beside_it(place: Place, administration: BrokerAdministration) -> None:
    root = place.platform / "root.pem"
    text = root.read_text()
    stored = administration.policy("policy")
    assert stored.trust_root
    assert stored.trust_root.strip() in text
    root.unlink()
    assert stored.appraisal().root.simulated


def test_policy_text_and_trust_root_must_go_together(place: Place, administration: BrokerAdministration) -> None:
    stored = administration.policy("policy")
    assert stored.trust_root
    assert StoredPolicy.from_text("policy", stored.text, trust_root=stored.trust_root.encode()).text == stored.text
    with pytest.raises(ConfigurationError):
        StoredPolicy.from_text("policy", stored.text)
    for bad in (b"", b"no certificate", stored.trust_root.encode() * 2, place.authority.pem):
        with pytest.raises(ConfigurationError):
            StoredPolicy.from_text("policy", stored.text, trust_root=bad)
    for text in ("", "{}", stored.text.replace("mrenclave", "mrenclav")):
        with pytest.raises(ConfigurationError):
            StoredPolicy.from_text("policy", text, trust_root=stored.trust_root.encode())


def test_an_empty_policy_or_one_without_a_measurement_is_refused(place: Place) -> None:
    path = place.directory / "policy.yaml"
    whole = json.loads(path.read_text())
    for text in ("", "{}", json.dumps({**whole, "enclaves": []}), json.dumps({**whole, "enclaves": [{}]})):
        path.write_text(text)
        with pytest.raises(ConfigurationError):
            StoredPolicy.from_file("policy", path)


def test_a_change_based_on_an_old_look_is_refused(place: Place, administration: BrokerAdministration) -> None:
    seen = administration.policy("policy").revision
    place.add_policy("other.yaml", OTHER_ENCLAVE)
    other = StoredPolicy.from_file("policy", place.directory / "other.yaml")
    with pytest.raises(ChangedMeanwhileError):
        administration.put_policy(other, expected_revision=0)
    assert administration.put_policy(other, expected_revision=seen).revision > seen
    with pytest.raises(ChangedMeanwhileError):
        administration.put_policy(other, expected_revision=seen)
    revision = administration.grant("digits").revision
    with pytest.raises(ChangedMeanwhileError):
        administration.switch_grant("digits", digest=NEW_DIGEST, expected_revision=revision - 1)


# --- grants ---------------------------------------------------------------------------------------------------------


def test_a_switch_names_the_new_and_remembers_the_old(administration: BrokerAdministration) -> None:
    administration.rotate_key("wrap")
    before = administration.grant("digits")
    after = administration.switch_grant("digits", digest=NEW_DIGEST, key_version=4, model_version=8)
    assert after.revision > before.revision
    document = after.document
    assert (document.model.digest, document.model.version, document.keys["wrap"]) == (NEW_DIGEST.hex(), 8, 4)
    assert document.previous
    assert (document.previous.model, document.previous.key_version) == (before.document.model, 3)
    assert administration.switch_grant("digits", digest=NEW_DIGEST, key_version=4, model_version=8) == after
    alone = administration.switch_grant("digits", digest=NEW_DIGEST, keep_previous=False)
    assert alone.document.previous is None
    assert administration.grant("digits") == alone
    administration.retire_key("wrap", 3, grace=timedelta(0))
    assert administration.destroy_key("wrap", 3, confirmation="wrap").state() == "destroyed"


def test_a_retired_version_cannot_be_granted(administration: BrokerAdministration) -> None:
    administration.rotate_key("wrap")
    administration.retire_key("wrap", 4, grace=timedelta(0))
    with pytest.raises(InUseError, match="retired"):
        administration.switch_grant("digits", digest=NEW_DIGEST, key_version=4)
    assert administration.grant("digits").document.model.digest == DIGEST


BAD = {
    "no policy": {"policy": None},
    "no keys": {"keys": {}},
    "unknown model key": {"model": MODEL | {"key": "third"}},
    "unknown version 1 key": {"version_1": {"key": "third"}},
    "short digest": {"model": MODEL | {"digest": "abcd"}},
    "relative mount": {"model": MODEL | {"mount": "models/digits"}},
    "mount with dots": {"model": MODEL | {"mount": "/models/../digits"}},
    "mount with a slash": {"model": MODEL | {"mount": "/models/digits/"}},
    "key version 0": {"keys": {"wrap": 0}},
    "key name": {"keys": {"a/b": 1, "wrap": 3}},
    "unknown setting": {"polcy": "x"},
    "arguments too large": {"arguments": {"a": "x" * 70_000}},
    "refresh": {"refresh_seconds": 0},
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_a_grant_that_cannot_be_meant_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "grant.yaml"
    path.write_text(json.dumps(GRANT))
    assert GrantDocument.load(path).deployment == "digits"
    path.write_text(json.dumps(GRANT | change))
    with pytest.raises(ConfigurationError):
        GrantDocument.load(path)


def test_a_grant_is_read_back_as_it_was_written(administration: BrokerAdministration, tmp_path: Path) -> None:
    administration.rotate_key("wrap")
    document = administration.switch_grant("digits", digest=NEW_DIGEST, key_version=4).document
    (tmp_path / "grant.yaml").write_text(document.to_yaml())
    assert GrantDocument.load(tmp_path / "grant.yaml") == document


# --- records --------------------------------------------------------------------------------------------------------


def test_every_change_is_recorded_with_who_made_it_and_nothing_else_is(
    place: Place, administration: BrokerAdministration
) -> None:
    before = len(place.chain)
    administration.put_policy(administration.policy("policy"))
    administration.put_grant(administration.grant("digits").document)
    for call in (lambda: administration.rotate_key("none"), lambda: administration.retire_key("wrap", 3)):
        with pytest.raises(SealserveError):
            call()
    assert len(place.chain) == before
    administration.rotate_key("wrap")
    administration.key_value("wrap", purpose="seal")
    administration.switch_grant("digits", digest=NEW_DIGEST, key_version=4)
    administration.retire_key("wrap", 3)
    records = [record for record in place.chain[before:] if record["event"] != "checkpoint"]
    assert [record.get("action") or record["purpose"] for record in records] == [
        "key-rotate",
        "seal",
        "grant-put",
        "key-retire",
    ]
    assert {record["actor"] for record in records} == {"test"}
    assert records[2]["grant"]["previous"]["key_version"] == 3
    with place.store() as store:
        store.check()


class Life(RuleBasedStateMachine):
    """Any order of operations, beside a simple model of what must come of it."""

    directory: Path

    @initialize()
    def make(self) -> None:
        self.number = getattr(Life, "number", 0) + 1
        Life.number = self.number  # type: ignore[attr-defined]
        place = self.directory / str(self.number)
        place.mkdir()
        self.location, self.master = str(place / "a.db"), MasterKeyPlace(place / "master")
        self.store = Store.create(self.location, self.master, actor="test")
        self.values: dict[tuple[str, int], bytes | None] = {}

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.check()
            self.store.close()

    @property
    def administration(self) -> BrokerAdministration:
        return BrokerAdministration(self.store, actor="test")

    @rule(name=st.sampled_from("ab"), value=st.binary(min_size=16, max_size=16))
    def bring(self, name: str, value: bytes) -> None:
        key = self.administration.import_key(name, Secret(value))
        assert (name, key.version) not in self.values
        self.values[name, key.version] = value

    @rule(data=st.data())
    def destroy(self, data: st.DataObject) -> None:
        if self.values:
            name, version = data.draw(st.sampled_from(sorted(self.values)))
            self.administration.destroy_key(name, version, confirmation=name)
            self.values[name, version] = None

    @rule()
    def rewrap(self) -> None:
        self.store.rewrap("test")
        self.store.finish_rewrap()

    @rule()
    def open_again(self) -> None:
        self.store.close()
        self.store = Store(self.location, self.master)

    @invariant()
    def the_store_holds_what_was_brought(self) -> None:
        if hasattr(self, "values"):
            held = {
                name: None if key.sealed is None else bytes(self.store.value(key).reveal())
                for name, key in self.store.load().keys.items()
            }
            assert held == self.values


def test_any_order_of_operations_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    Life.directory = tmp_path
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=12, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
