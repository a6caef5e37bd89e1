"""What a broker refuses to start with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from broker_parties import Authority, Place, make_place

from sealserve.broker.server import Broker
from sealserve.broker.store import StoreError, StoreMissingError, WrongMasterKeyError
from sealserve.errors import ConfigurationError, KeyFileError
from sealserve.files import write_atomically

Change = Callable[[dict[str, Any]], object]

BAD: dict[str, tuple[Change, str]] = {
    "no store": (lambda d: d.pop("store"), "store"),
    "store empty": (lambda d: d.update(store=""), "store"),
    "another database": (lambda d: d.update(store="mysql://host/x"), "store"),
    "grants in the file": (lambda d: d.update(grants=[]), "grants"),
    "unknown setting": (lambda d: d.update(master_kee="x"), "master_key"),
    "listen": (lambda d: d.update(listen="4433"), "listen"),
    "limits": (lambda d: d.update(limits={"step_seconds": 0}), "step_seconds"),
}


@pytest.mark.parametrize(("change", "names"), BAD.values(), ids=BAD)
def test_a_setting_that_cannot_be_meant_is_refused_by_name(place: Place, change: Change, names: str) -> None:
    document = json.loads(json.dumps(place.document))
    change(document)
    with pytest.raises(ConfigurationError) as caught:
        Place(place.directory, place.authority, document).settings()
    assert names in str(caught.value)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
@pytest.mark.parametrize("name", ["master.key", "broker.key", "broker.db"])
def test_what_others_can_read_is_refused(place: Place, name: str, mode: int) -> None:
    (place.directory / name).chmod(mode)
    with pytest.raises((KeyFileError, StoreError), match=name):
        Broker(place.settings())


@pytest.mark.parametrize("content", [b"", bytes(31), bytes(33), b"0" * 64])
def test_a_master_key_of_another_size_is_refused(place: Place, content: bytes) -> None:
    write_atomically(place.directory / "master.key", content, mode=0o600)
    with pytest.raises(KeyFileError, match=r"master\.key"):
        Broker(place.settings())


def test_a_missing_or_wrong_master_key_is_refused(place: Place) -> None:
    write_atomically(place.directory / "master.key", bytes(32), mode=0o600)
    with pytest.raises(WrongMasterKeyError):
        Broker(place.settings())
    (place.directory / "master.key").unlink()
    with pytest.raises(KeyFileError, match=r"master\.key"):
        Broker(place.settings())


def test_a_missing_store_is_not_made_by_the_broker(place: Place) -> None:
    (place.directory / "broker.db").unlink()
    with pytest.raises(StoreMissingError) as caught:
        Broker(place.settings())
    assert "store init" in str(caught.value.hint)
    assert not (place.directory / "broker.db").exists()


def test_a_password_in_the_stores_url_is_refused(place: Place) -> None:
    for url in ("postgresql://broker:hunter2@db/x", "postgresql://db/x?password=hunter2"):
        place.document["store"] = url
        with pytest.raises(ConfigurationError) as caught:
            Broker(place.settings())
        assert "hunter2" not in str(caught.value)


def test_a_certificate_and_a_key_that_do_not_fit_are_refused(place: Place, tmp_path: Path) -> None:
    write_atomically(place.directory / "broker.key", Authority().issue().key_pem, mode=0o600)
    with pytest.raises(ConfigurationError, match="fit together"):
        Broker(place.settings())
    write_atomically(place.directory / "broker.key", b"no key", mode=0o600)
    with pytest.raises(KeyFileError) as caught:
        Broker(place.settings())
    assert caught.value.__cause__ is None
    (place.directory / "broker.pem").write_text("no certificate")
    with pytest.raises(ConfigurationError):
        Broker(place.settings())


def test_paths_are_relative_to_the_file(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert list(Broker(place.settings()).grants) == ["digits"]


def test_making_a_broker_writes_nothing(tmp_path: Path) -> None:
    place = make_place(tmp_path)
    settings = place.settings()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    Broker(settings).close()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
