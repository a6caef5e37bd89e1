"""The store from the command line: rotation from end to end, as docs/broker-operations.md tells it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from broker_parties import GRANT, WRAP_KEY, Place
from test_broker_process import command

from sealserve.broker.store import StoredPolicy
from sealserve.errors import SealError
from sealserve.files import write_atomically
from sealserve.sealing import open_sealed_model

DOCUMENT = Path(__file__).parents[2] / "docs" / "broker-operations.md"


class Shell:
    def __init__(self, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
        self.place, self.capsys = place, capsys

    def __call__(self, *arguments: object, code: int = 0) -> Any:
        """Run with --json; what was printed, or what the error says."""
        found, out, errors = command(self.capsys, *arguments, "-f", self.place.write(), "--json")
        assert found == code, errors
        return json.loads(out if code == 0 else errors)

    def text(self, *arguments: object) -> str:
        found, out, errors = command(self.capsys, *arguments, "-f", self.place.write())
        assert found == 0, errors
        return out


@pytest.fixture
def shell(place: Place, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(place, capsys)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model" / "7").mkdir(parents=True)
    (tmp_path / "model" / "7" / "saved_model.pb").write_bytes(b"model" * 1000)
    return tmp_path / "model"


def test_a_key_is_rotated_from_end_to_end(shell: Shell, place: Place, model: Path, tmp_path: Path) -> None:
    assert shell("key", "rotate", "wrap")["version"] == 4
    sealed = shell("seal", model, tmp_path / "sealed", "--key", "wrap", "--mount", "/models/digits")
    assert sealed["key_version"] == 4
    granted = shell("grant", "switch", "digits", "--digest", sealed["digest"], "--key-version", 4)
    assert granted["keys"]["wrap"] == 4
    assert granted["previous"]["key_version"] == 3
    assert shell("key", "retire", "wrap", 3, "--grace-hours", 1)["state"] == "retiring"
    assert "retiring" in shell.text("key", "list")
    assert shell("key", "destroy", "wrap", 3, code=3)["reason"] == "not-confirmed"
    assert shell("key", "destroy", "wrap", 3, "--yes", "wrap", code=3)["reason"] == "in-use"
    assert shell("key", "retire", "wrap", 3, "--grace-hours", 0)["state"] == "retired"
    assert shell("key", "destroy", "wrap", 3, "--yes", "wrap")["state"] == "destroyed"
    assert shell("audit", "verify")["records"] > 0
    with place.store() as store, store.value(store.load().keys["wrap", 4]) as key:
        digest = bytes.fromhex(sealed["digest"])
        opened = open_sealed_model(tmp_path / "sealed", key, mount="/models/digits", expected_digest=digest)
        assert opened.read("7/saved_model.pb") == b"model" * 1000
    with place.store() as store, store.value(store.load().keys["second", 1]) as key, pytest.raises(SealError):
        open_sealed_model(tmp_path / "sealed", key, mount="/models/digits", expected_digest=None)
    assert [record["purpose"] for record in place.chain if record["event"] == "key-used"] == ["seal"]
    assert shell("store", "check")["revision"] > 0


def test_keys_policies_and_grants_are_listed_shown_and_removed(shell: Shell, place: Place, tmp_path: Path) -> None:
    assert shell("key", "create", "new") == shell("key", "list")[0]
    write_atomically(tmp_path / "a.key", WRAP_KEY, mode=0o600)
    assert shell("key", "import", "new", tmp_path / "a.key", "--version", 5)["version"] == 5
    (tmp_path / "open.key").write_bytes(WRAP_KEY)
    assert shell("key", "import", "new", tmp_path / "open.key", code=3)["reason"] == "key-file"

    assert shell("policy", "put", "second", place.directory / "policy.yaml")["name"] == "second"
    assert [policy["name"] for policy in shell("policy", "list")] == ["policy", "second"]
    assert "BEGIN CERTIFICATE" in shell.text("policy", "show", "second")
    assert shell("policy", "delete", "policy", code=3)["reason"] == "in-use"
    assert shell("policy", "delete", "second") == {"deleted": "second"}

    (tmp_path / "grant.yaml").write_text(json.dumps(GRANT | {"deployment": "letters"}))
    assert shell("grant", "put", tmp_path / "grant.yaml")["deployment"] == "letters"
    (tmp_path / "shown.yaml").write_text(shell.text("grant", "show", "letters"))
    assert shell("grant", "put", tmp_path / "shown.yaml") == shell("grant", "show", "letters")
    assert len(shell("grant", "list")) == 2
    assert shell("grant", "delete", "letters") == {"deleted": "letters"}
    assert shell("grant", "switch", "letters", "--digest", "ab" * 32, code=3)["reason"] == "unknown-name"
    assert command(shell.capsys, "grant", "switch", "digits", "--digest", "abc", "-f", place.write())[0] == 2
    for listing in ("key", "policy", "grant"):
        assert shell.text(listing, "list")


def test_a_store_is_made_and_rewrapped(shell: Shell, place: Place) -> None:
    place.document.update(store="new.db", master_key="new.key")
    assert shell("store", "check", code=3)["reason"] == "store-missing"
    assert shell("store", "init") == shell("store", "init")
    assert shell("key", "create", "a")
    first = (place.directory / "new.key").read_bytes()
    assert shell("store", "rewrap", "--finish", code=3)
    assert shell("store", "rewrap")["next"].endswith("new.key.next")
    assert shell("store", "check")["key_values"] == 1
    assert shell("store", "rewrap", "--finish")
    assert (place.directory / "new.key").read_bytes() != first
    assert shell("store", "check")["key_values"] == 1
    assert "nothing yet" in shell.text("check")


def test_the_operations_page_names_commands_that_exist(shell: Shell) -> None:
    from sealserve.cli.broker import broker

    named = re.findall(r"sealserve broker ((?:[a-z-]+ ?){1,2})", DOCUMENT.read_text())
    assert len(named) > 15
    for words in named:
        first, *rest = words.split()
        found = broker.commands[first]
        if rest and hasattr(found, "commands"):
            assert rest[0] in found.commands, words


def test_a_policy_keeps_its_name(place: Place) -> None:
    assert StoredPolicy.from_file("x", place.directory / "policy.yaml").name == "x"
