"""Exchanging the model: what answers, what evidence says, and that no key is left."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sealserve.broker.grant import Grant, ModelGrant, PreviousModel, ReleasedKey
from sealserve.enclave.granted_model import GrantedModel
from sealserve.errors import InputError, ModelError, SealError, SealserveError
from sealserve.secret import Secret
from sealserve.serving.core import ModelChoice, ModelServer
from sealserve.wire.attestation_pb2 import ServedModel

OLD = ModelGrant("m", 1, b"\x01" * 32, "/models/m", "wrap")
NEW = ModelGrant("m", 2, b"\x02" * 32, "/models/m", "wrap")
NEWER = ModelGrant("m", 3, b"\x03" * 32, "/models/m", "wrap")


class Loaded:
    """A loaded model that answers with its version."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.signatures: Any = {}
        self.signature_definitions: Any = {}
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.asked = threading.Event()
        self.closed = 0

    def predict(self, *_: Any, **__: Any) -> dict[str, Any]:
        self.asked.set()
        assert self.may_answer.wait(10)
        assert not self.closed
        return {"y": np.array(self.version)}

    def close(self) -> None:
        self.closed += 1


class FakeStorage:
    """Holds one model under one version of the key."""

    def __init__(self, holds: ModelGrant, key: bytes = b"k" * 16) -> None:
        self.holds = holds
        self.key = key
        self.loads = 0
        self.fails: Callable[[], None] = lambda: None
        self.seen: list[Secret] = []

    def open(self, model: ModelGrant, key: Secret) -> None:
        self.seen.append(key)
        assert len(key) == 16, "the key is needed, and was wiped"
        if (model.digest, bytes(key.reveal())) != (self.holds.digest, self.key):
            raise SealError("another model, or another key")

    def load(self, model: ModelGrant, key: Secret, arguments: object) -> Loaded:
        self.open(model, key)
        self.fails()
        self.loads += 1
        return Loaded(model.version)


class FakeAttestation:
    """Keeps everything that was ever announced."""

    def __init__(self) -> None:
        self.announced: list[list[int]] = []

    def announce(self, models: list[ServedModel]) -> None:
        self.announced.append([model.version for model in models])


class Parties:
    def __init__(self) -> None:
        self.core = ModelServer()
        self.attestation = FakeAttestation()
        self.storage = FakeStorage(OLD)
        self.model = GrantedModel(self.core, self.attestation, self.storage)  # type: ignore[arg-type]

    def take(self, *arguments: Any, **options: Any) -> Grant:
        given = grant(*arguments, **options)
        keys = [key.value for key in given.keys.values()] + ([given.previous.key.value] if given.previous else [])
        try:
            self.model.take(given)
        finally:
            assert [len(key) for key in keys] == [0] * len(keys), "a key was not wiped"
        return given

    def ask(self) -> int:
        return int(self.core.predict(ModelChoice("m"), {}).outputs["y"])


def grant(
    model: ModelGrant,
    *,
    key: bytes = b"k" * 16,
    key_version: int = 1,
    previous: ModelGrant | None = None,
    previous_key: bytes = b"k" * 16,
    arguments: dict[str, str] | None = None,
) -> Grant:
    return Grant(
        keys={
            "wrap": ReleasedKey("wrap", key_version, Secret(key)),
            "other": ReleasedKey("other", 1, Secret(b"o" * 16)),
        },
        model=model,
        arguments=arguments or {},
        previous=previous and PreviousModel(previous, ReleasedKey("wrap", 1, Secret(previous_key))),
    )


@pytest.fixture
def parties() -> Parties:
    parties = Parties()
    parties.take(OLD)
    parties.attestation.announced.clear()
    return parties


def test_evidence_says_both_while_either_may_answer(parties: Parties, monkeypatch: pytest.MonkeyPatch) -> None:
    parties.storage.holds = NEW
    real, seen = parties.core.replace, []

    def switch(*arguments: Any, **named: Any) -> None:
        seen.append(list(parties.attestation.announced))
        real(*arguments, **named)

    monkeypatch.setattr(parties.core, "replace", switch)
    parties.take(NEW, previous=OLD)
    assert seen == [[[1, 2]]], "the new one was announced before it answered, and beside the old one"
    assert parties.attestation.announced == [[1, 2], [2]]
    assert parties.ask() == 2
    assert parties.model.answering == NEW


def test_a_request_in_flight_finishes_with_the_old_model_which_is_dropped_then(parties: Parties) -> None:
    old = parties.core.models["m"][1]
    assert isinstance(old, Loaded)
    old.may_answer.clear()
    answers: list[int] = []
    caller = threading.Thread(target=lambda: answers.append(parties.ask()))
    caller.start()
    assert old.asked.wait(10)
    parties.storage.holds = NEW
    parties.take(NEW)
    assert parties.ask() == 2
    assert answers == []
    old.may_answer.set()
    caller.join()
    assert answers == [1]
    assert old.closed == 1
    gone = weakref.ref(old)
    del old, caller
    gc.collect()
    assert gone() is None


def test_no_request_fails_or_goes_back_while_models_are_exchanged(parties: Parties) -> None:
    stop = threading.Event()
    answers: list[list[int]] = [[] for _ in range(4)]
    failures: list[Exception] = []

    def call(mine: list[int]) -> None:
        while not stop.is_set():
            try:
                mine.append(parties.ask())
            except SealserveError as error:
                failures.append(error)

    threads = [threading.Thread(target=call, args=(mine,)) for mine in answers]
    for thread in threads:
        thread.start()
    for version in range(2, 200):
        parties.storage.holds = replace(OLD, version=version, digest=version.to_bytes(32, "big"))
        parties.take(parties.storage.holds)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    for mine in answers:
        assert mine == sorted(mine)


def test_the_same_grant_again_does_nothing(parties: Parties) -> None:
    seen = len(parties.storage.seen)
    parties.take(OLD)
    assert len(parties.storage.seen) == seen
    assert parties.attestation.announced == []


def test_a_grant_that_returns_to_a_model_followed_before_is_followed_again(parties: Parties) -> None:
    parties.storage.holds = NEW
    with pytest.raises(SealError):
        parties.take(NEWER, previous=NEW)
    assert parties.ask() == 2
    with pytest.raises(SealError):
        parties.take(OLD)
    parties.storage.holds = OLD
    parties.take(OLD)
    assert parties.ask() == 1


def test_a_rotated_key_is_tried_on_the_storage_and_nothing_is_loaded(parties: Parties) -> None:
    with pytest.raises(SealError):
        parties.take(OLD, key=b"n" * 16, key_version=2, previous=OLD)
    assert parties.ask() == 1
    parties.storage.key = b"n" * 16
    parties.take(OLD, key=b"n" * 16, key_version=2, previous=OLD)
    assert parties.storage.loads == 1
    assert parties.attestation.announced == []


def test_other_arguments_load_the_model_anew(parties: Parties) -> None:
    parties.take(OLD, arguments={"threads": "2"})
    assert parties.storage.loads == 2
    assert parties.attestation.announced[-1] == [1]


@pytest.mark.parametrize(
    "error", [SealError("damaged"), ModelError("not to be run"), InputError("gone"), MemoryError()]
)
def test_a_new_model_that_cannot_be_had_changes_nothing(parties: Parties, error: Exception) -> None:
    def fail() -> None:
        raise error

    parties.storage.holds = NEW
    parties.storage.fails = fail
    with pytest.raises(type(error)):
        parties.take(NEW, previous=OLD)
    assert parties.ask() == 1
    assert parties.attestation.announced == []
    parties.storage.fails = lambda: None
    parties.take(NEW, previous=OLD)
    assert parties.ask() == 2, "it is tried again"


def test_a_model_that_the_server_does_not_take_is_not_claimed(parties: Parties) -> None:
    nameless = replace(NEW, name="")
    parties.storage.holds = nameless
    with pytest.raises(InputError):
        parties.take(nameless)
    assert parties.attestation.announced[-1] == [1]
    assert parties.ask() == 1


def test_a_start_serves_the_previous_model_where_the_storage_has_no_other_yet() -> None:
    parties = Parties()
    with pytest.raises(SealError):
        parties.take(NEW, previous=OLD)
    assert parties.ask() == 1
    assert parties.attestation.announced[-1] == [1]
    parties.storage.holds = NEW
    parties.take(NEW, previous=OLD)
    assert parties.ask() == 2


def test_a_start_without_anything_that_is_permitted_serves_nothing() -> None:
    parties = Parties()
    for previous in (None, NEW):
        with pytest.raises(SealError):
            parties.take(NEWER, previous=previous)
        assert parties.model.answering is None
    assert parties.core.models == {}


def test_previous_replaces_what_is_not_permitted_any_more_and_nothing_else(parties: Parties) -> None:
    parties.storage.holds = NEW
    with pytest.raises(SealError):
        parties.take(NEWER, previous=NEW)  # two switches, of which only the first has reached the storage
    assert parties.ask() == 2
    parties.storage.holds = OLD
    with pytest.raises(SealError):
        parties.take(NEW, key=b"n" * 16, key_version=2, previous=OLD)
    assert parties.ask() == 2, "what answers is what the grant names: no reason to go back"


def test_what_is_permitted_is_judged_by_content() -> None:
    parties = Parties()
    given = parties.take(OLD)
    assert parties.model.permitted_by(given)
    assert parties.model.permitted_by(grant(replace(OLD, key="another", mount="/elsewhere")))
    assert parties.model.permitted_by(grant(NEW, previous=OLD))
    assert not parties.model.permitted_by(grant(NEW))
    assert not parties.model.permitted_by(grant(replace(OLD, digest=bytes(32)), previous=NEW))
