"""The store at rest: whoever lacks the master key can neither read it nor change it unnoticed."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from broker_parties import SECOND_KEY, WRAP_KEY, Place
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, inspect

from sealserve.broker.administration import BrokerAdministration
from sealserve.broker.audit import AuditTamperedError
from sealserve.broker.store import (
    MasterKeyPlace,
    Store,
    StoreError,
    StoreMissingError,
    StoreTamperedError,
    StoreUnavailableError,
    WrongMasterKeyError,
    schema,
)
from sealserve.broker.store.master_key import StoreCipher
from sealserve.errors import ConfigurationError, InputError, KeyFileError
from sealserve.secret import Secret


def sql(place: Place, statement: str, *values: Any) -> None:
    """What somebody does who owns the database and not the master key."""
    with contextlib.closing(sqlite3.connect(place.directory / "broker.db")) as connection:
        connection.executescript("DROP TRIGGER IF EXISTS audit_no_update; DROP TRIGGER IF EXISTS audit_no_delete;")
        changed = connection.execute(statement, values).rowcount
        connection.commit()
    assert changed != 0, "the attack changed nothing"


# --- secrecy --------------------------------------------------------------------------------------------------------


def test_no_file_of_the_store_holds_a_key_and_all_are_private(place: Place) -> None:
    with place.administration() as administration:
        administration.rotate_key("wrap")
        _, value = administration.key_value("wrap", purpose="test")
        files = sorted(path for path in place.directory.iterdir() if path.name.startswith("broker.db"))
        assert len(files) == 3, "the write-ahead log is looked at too"
        content = b"".join(path.read_bytes() for path in files)
        for path in files:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        master = (place.directory / "master.key").read_bytes()
        for key in (WRAP_KEY, SECOND_KEY, bytes(value.reveal()), master):
            assert key not in content
            assert key.hex().encode() not in content


def test_a_destroyed_key_leaves_not_even_its_ciphertext(place: Place) -> None:
    with place.administration() as administration:
        administration.rotate_key("second")
        sealed = next(key.sealed for key in administration.key_versions() if key.name == "second" and key.version == 2)
        assert sealed
        path = place.directory
        assert any(sealed in file.read_bytes() for file in path.glob("broker.db*"))
        administration.destroy_key("second", 2, confirmation="second")
        assert not any(sealed in file.read_bytes() for file in path.glob("broker.db*"))


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1, max_size=64), st.text(max_size=10), st.integers(1, 9), st.data())
def test_a_value_opens_only_as_what_it_was_sealed_as(
    value: bytes, name: str, version: int, data: st.DataObject
) -> None:
    cipher = StoreCipher(Secret(bytes(range(32))), "store")
    sealed = cipher.seal("key", name, version, Secret(value))
    assert bytes(cipher.open("key", name, version, sealed).reveal()) == value
    flipped = bytearray(sealed)
    flipped[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    attempts: list[tuple[StoreCipher, str, str, int, bytes]] = [
        (cipher, "key", name, version, bytes(flipped)),
        (cipher, "key", name, version, sealed[: data.draw(st.integers(0, len(sealed) - 1))]),
        (cipher, "key", name, version + 1, sealed),
        (cipher, "key", name + "x", version, sealed),
        (cipher, "other", name, version, sealed),
        (StoreCipher(Secret(bytes(range(32))), "another"), "key", name, version, sealed),
        (StoreCipher(Secret(bytes(32)), "store"), "key", name, version, sealed),
    ]
    for other, kind, as_name, as_version, given_bytes in attempts:
        with pytest.raises(StoreTamperedError):
            other.open(kind, as_name, as_version, given_bytes)


# --- integrity ------------------------------------------------------------------------------------------------------

ATTACKS = {
    "a policy that accepts more": "UPDATE policies SET text = replace(text, '1111', '9999')",
    "another trust root": "UPDATE policies SET trust_root = NULL",
    "another digest": "UPDATE grants SET text = replace(text, 'abab', 'cdcd')",
    "an older revision of a grant": "UPDATE grants SET revision = revision - 1",
    "a grant removed": "DELETE FROM grants",
    "a grant added": "INSERT INTO grants SELECT 'other', policy, text, revision FROM grants",
    "a grant renamed": "UPDATE grants SET deployment = 'other'",
    "a key renamed": "UPDATE keys SET name = 'third' WHERE name = 'second'",
    "a key's version changed": "UPDATE keys SET version = 9 WHERE name = 'wrap'",
    "two keys' values swapped": (
        "UPDATE keys SET sealed = (SELECT sealed FROM keys AS other WHERE other.name <> keys.name LIMIT 1)"
    ),
    "a retired key revived": "UPDATE keys SET retires = NULL WHERE name = 'second'",
    "a key removed": "DELETE FROM keys WHERE name = 'second'",
    "the revision alone": "UPDATE store SET revision = revision + 1",
    "the seal alone": "UPDATE store SET state_mac = '0'",
    "the store's name": "UPDATE store SET store_id = '0'",
    "no description": "DELETE FROM store",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_whatever_is_changed_without_the_master_key_is_refused(place: Place, attack: str) -> None:
    with place.administration() as administration:
        administration.retire_key("second", 1, force=True)
    sql(place, ATTACKS[attack])
    with pytest.raises((StoreTamperedError, WrongMasterKeyError)), place.store() as store:
        store.load()
    with pytest.raises((StoreTamperedError, WrongMasterKeyError)), place.administration() as administration:
        administration.create_key("another")


AUDIT_ATTACKS = {
    "edited": "UPDATE audit SET line = replace(line, 'key-import', 'key-create') WHERE sequence = 5",
    "removed": "DELETE FROM audit WHERE sequence = 3",
    "the end removed": "DELETE FROM audit WHERE sequence = (SELECT max(sequence) FROM audit)",
    "moved": "UPDATE audit SET sequence = 1000 WHERE sequence = 3",
    "a decision's number": "UPDATE audit SET decision = 'x' WHERE sequence = 3",
    "the head": "UPDATE audit_head SET hash = '" + "00" * 32 + "'",
    "the head's number": "UPDATE audit_head SET sequence = sequence - 1",
    "no head": "DELETE FROM audit_head",
    "everything": "DELETE FROM audit",
}


@pytest.mark.parametrize("attack", AUDIT_ATTACKS)
def test_a_changed_audit_table_is_found_out(place: Place, attack: str) -> None:
    with place.store() as store:
        store.verify_audit()
    sql(place, AUDIT_ATTACKS[attack])
    with place.store() as store, pytest.raises(AuditTamperedError):
        store.verify_audit()


def test_a_forged_head_stops_the_chain(place: Place) -> None:
    sql(place, AUDIT_ATTACKS["the head"])
    with place.store() as store, pytest.raises(AuditTamperedError):
        store.append_audit([{"event": "decision"}])


def test_the_audit_table_cannot_be_changed_by_accident(place: Place) -> None:
    with contextlib.closing(sqlite3.connect(place.directory / "broker.db")) as connection:
        for statement in ("DELETE FROM audit", "UPDATE audit SET line = ''"):
            with pytest.raises(sqlite3.IntegrityError, match="only grows"):
                connection.execute(statement)


def test_an_earlier_state_put_back_is_found_out(place: Place, tmp_path: Path) -> None:
    """While it is open by whoever saw the later one; afterwards by the audit chain, unless that was put back too."""
    copy = tmp_path / "earlier.db"
    with contextlib.closing(sqlite3.connect(place.directory / "broker.db")) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    with place.administration() as administration, place.store() as store:
        administration.delete_grant("digits")
        assert store.load().grants == {}
        with contextlib.closing(sqlite3.connect(place.directory / "broker.db")) as connection:
            connection.execute("ATTACH ? AS earlier", (str(copy),))
            for table in ("store", "keys", "policies", "grants"):
                connection.execute("DELETE FROM " + table)  # noqa: S608 - names of ours
                connection.execute("INSERT INTO " + table + " SELECT * FROM earlier." + table)  # noqa: S608
            connection.commit()
        with pytest.raises(StoreTamperedError, match="earlier copy"):
            store.load()
    with place.store() as store:
        assert list(store.load().grants) == ["digits"]
        with pytest.raises(StoreTamperedError, match="audit log records changes up to"):
            store.check()


@pytest.mark.parametrize("read", [Store.load, Store.mark], ids=["load", "mark"])
def test_a_reader_whom_other_threads_overtake_sees_no_earlier_copy(
    place: Place, monkeypatch: pytest.MonkeyPatch, read: Callable[[Store], object]
) -> None:
    with place.store() as store:
        reading = store._database.reading

        @contextlib.contextmanager
        def overtaken() -> Iterator[Any]:
            with reading() as connection:
                yield connection
            monkeypatch.undo()
            BrokerAdministration(store, actor="another thread").rotate_key("wrap")
            store.append_audit([{"event": "decision"}])

        monkeypatch.setattr(store._database, "reading", overtaken)
        read(store)
        store.append_audit([{"event": "decision"}])
        assert ("wrap", 4) in store.load().keys


def test_a_damaged_file_is_a_clear_error(place: Place) -> None:
    path = place.directory / "broker.db"
    content = path.read_bytes()
    for damaged in (b"x" * len(content), content[:100] + b"\xff" * (len(content) - 100)):
        path.write_bytes(damaged)
        with pytest.raises((StoreTamperedError, StoreError, StoreUnavailableError)), place.store() as store:
            store.load()


def test_a_whole_store_checks(place: Place) -> None:
    with place.administration() as administration:
        administration.rotate_key("wrap")
        administration.destroy_key("wrap", 4, confirmation="wrap")
    with place.store() as store:
        report = store.check()
    assert (report.keys, report.opened, report.policies, report.grants) == (3, 2, 1, 1)
    assert report.revision == report.audit.revision


# --- the master key -------------------------------------------------------------------------------------------------


def test_the_master_key_lies_where_the_operator_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEALSERVE_MASTER_KEY_FILE", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigurationError):
        MasterKeyPlace.find(None)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    credential = tmp_path / "sealserve-master-key"
    Store.create(str(tmp_path / "a.db"), MasterKeyPlace(credential), actor="test").close()
    credential.chmod(0o440)  # as systemd shows it: an access list guards it
    Store(str(tmp_path / "a.db"), MasterKeyPlace.find(None)).close()
    with pytest.raises(KeyFileError):
        Store(str(tmp_path / "a.db"), MasterKeyPlace.find(credential))
    monkeypatch.setenv("SEALSERVE_MASTER_KEY_FILE", str(tmp_path / "named"))
    assert MasterKeyPlace.find(None).path == tmp_path / "named"
    assert MasterKeyPlace.find(tmp_path / "settings").path == tmp_path / "settings"


def values(place: Place) -> dict[tuple[str, int], bytes]:
    with place.store() as store:
        return {name: bytes(store.value(key).reveal()) for name, key in store.load().keys.items()}


def test_a_rewrapped_store_is_under_the_new_key_alone(place: Place) -> None:
    old, following = place.directory / "master.key", place.directory / "master.key.next"
    before, first = values(place), old.read_bytes()
    with place.store() as store:
        sealed = {key.sealed for key in store.load().keys.values()}
        with pytest.raises(StoreError):
            store.finish_rewrap()
        store.rewrap("test")
        # Whoever had it open goes on.
        assert {bytes(store.value(key).reveal()) for key in store.load().keys.values()} == set(before.values())
        assert not sealed & {key.sealed for key in store.load().keys.values()}
        store.check()
        # And whoever starts before the new key is in place.
        assert values(place) == before
        store.finish_rewrap()
        with pytest.raises(StoreError, match="there is no") as caught:
            store.finish_rewrap()
        assert "all is done" in (caught.value.hint or ""), "whoever repeats it must not be sent to rewrap once more"
    assert not following.exists()
    assert old.read_bytes() != first
    assert values(place) == before
    old.write_bytes(first)
    with pytest.raises(WrongMasterKeyError):
        values(place)


def test_a_rewrap_that_was_not_finished_can_be_repeated(place: Place) -> None:
    before = values(place)
    with place.store() as store:
        (place.directory / "master.key.next").write_bytes(os.urandom(32))
        (place.directory / "master.key.next").chmod(0o600)
    assert values(place) == before  # a new key lies there, and the store is under the old one still
    for _ in range(2):
        with place.store() as store:
            store.rewrap("test")
    assert values(place) == before


# --- schema and place -----------------------------------------------------------------------------------------------


def test_making_a_store_again_changes_nothing(place: Place) -> None:
    before = values(place), place.chain
    place.settings().create_store(actor="test").close()
    assert (values(place), place.chain) == before


def test_a_schema_of_another_version_is_refused_and_an_older_one_brought_up_to_date(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = values(place)

    def next_one(connection: Any) -> None:
        connection.exec_driver_sql("CREATE TABLE later (x INTEGER)")

    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, next_one))
    monkeypatch.setattr(schema.migrate, "__defaults__", (schema.MIGRATIONS,))
    with pytest.raises(StoreError, match=f"needs {len(schema.MIGRATIONS)}") as caught:
        values(place)
    assert "store init" in str(caught.value.hint)
    place.settings().create_store(actor="test").close()
    assert values(place) == before
    assert inspect(create_engine(f"sqlite:///{place.directory}/broker.db")).has_table("later")
    monkeypatch.undo()
    with pytest.raises(StoreError, match="newer"):
        values(place)
    with pytest.raises(StoreError, match="newer"):
        place.settings().create_store(actor="test")


def test_a_migration_that_fails_changes_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(connection: Any) -> None:
        connection.exec_driver_sql("CREATE TABLE later (x INTEGER)")
        connection.exec_driver_sql("NONSENSE")

    before = values(place)
    with monkeypatch.context() as patch:
        patch.setattr(schema.migrate, "__defaults__", ((*schema.MIGRATIONS, broken),))
        with pytest.raises(StoreUnavailableError):
            place.settings().create_store(actor="test")
    assert values(place) == before


def test_a_place_that_cannot_be_a_store_is_a_clear_error(tmp_path: Path) -> None:
    key = MasterKeyPlace(tmp_path / "master.key")
    with pytest.raises(StoreMissingError):
        Store(str(tmp_path / "missing.db"), key)
    (tmp_path / "empty.db").touch(mode=0o600)
    with pytest.raises(StoreMissingError):
        Store(str(tmp_path / "empty.db"), key)
    with pytest.raises(ConfigurationError):
        Store(str(tmp_path), key)
    with pytest.raises(InputError, match="missing"):
        Store.create(str(tmp_path / "missing" / "a.db"), key, actor="test")


def test_a_lost_master_key_is_not_said_to_be_replaceable_by_a_wrap_key(place: Place) -> None:
    (place.directory / "master.key").unlink()
    with pytest.raises(KeyFileError, match="there is no master key") as caught:
        Store(str(place.directory / "broker.db"), MasterKeyPlace(place.directory / "master.key"))
    assert "backup" in str(caught.value.hint)
    assert "key generate" not in str(caught.value.hint)


def test_a_copy_of_the_store_alone_opens_with_its_master_key_only(place: Place, tmp_path: Path) -> None:
    shutil.copy(place.directory / "broker.db", tmp_path / "copy.db")
    with Store(str(tmp_path / "copy.db"), MasterKeyPlace(place.directory / "master.key")) as store:
        assert BrokerAdministration(store, actor="test").grant("digits")
    other = MasterKeyPlace(tmp_path / "other.key")
    other.make()
    with pytest.raises(WrongMasterKeyError):
        Store(str(tmp_path / "copy.db"), other)
