"""What a broker refuses to start with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from broker_parties import Authority, Place, make_place

from sealserve.broker.server import Broker
from sealserve.errors import ConfigurationError, InputError, KeyFileError
from sealserve.files import write_atomically

Change = Callable[[dict[str, Any]], object]


def grant_of(document: dict[str, Any]) -> dict[str, Any]:
    grant: dict[str, Any] = document["grants"][0]
    return grant


BAD: dict[str, tuple[Change, str]] = {
    "no grants": (lambda d: d.update(grants=[]), "grants"),
    "no policy": (lambda d: grant_of(d).pop("policy"), "policy"),
    "policy empty": (lambda d: grant_of(d).update(policy=None), "policy"),
    "no keys": (lambda d: grant_of(d).update(keys={}), "keys"),
    "unknown model key": (lambda d: grant_of(d)["model"].update(key="third"), "third"),
    "unknown version 1 key": (lambda d: grant_of(d).update(version_1={"key": "third"}), "third"),
    "short digest": (lambda d: grant_of(d)["model"].update(digest="abcd"), "digest"),
    "relative mount": (lambda d: grant_of(d)["model"].update(mount="models/digits"), "mount"),
    "mount with dots": (lambda d: grant_of(d)["model"].update(mount="/models/../digits"), "mount"),
    "mount with a slash": (lambda d: grant_of(d)["model"].update(mount="/models/digits/"), "mount"),
    "key version 0": (lambda d: grant_of(d)["keys"]["wrap"].update(version=0), "version"),
    "key name": (lambda d: grant_of(d)["keys"].update({"a/b": {"file": "wrap.key"}}), "keys"),
    "deployment twice": (lambda d: d["grants"].append(grant_of(d)), "digits"),
    "unknown setting": (lambda d: d.update(polcy="x"), "polcy"),
    "listen": (lambda d: d.update(listen="4433"), "listen"),
    "limits": (lambda d: d.update(limits={"step_seconds": 0}), "step_seconds"),
    "arguments too large": (lambda d: grant_of(d).update(arguments={"a": "x" * 70_000}), "arguments"),
}


@pytest.mark.parametrize(("change", "names"), BAD.values(), ids=BAD)
def test_a_setting_that_cannot_be_meant_is_refused_by_name(place: Place, change: Change, names: str) -> None:
    document = json.loads(json.dumps(place.document))
    change(document)
    with pytest.raises(ConfigurationError) as caught:
        Place(place.directory, place.authority, document).settings()
    assert names in str(caught.value)


def test_an_empty_policy_or_one_without_a_measurement_is_refused(place: Place) -> None:
    policy = place.directory / "policy.yaml"
    whole = json.loads(policy.read_text())
    for text in ("", "{}", json.dumps({**whole, "enclaves": []}), json.dumps({**whole, "enclaves": [{}]})):
        policy.write_text(text)
        with pytest.raises(ConfigurationError):
            Broker(place.settings())
    policy.unlink()
    with pytest.raises(InputError):
        Broker(place.settings())


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
@pytest.mark.parametrize("name", ["wrap.key", "broker.key"])
def test_a_key_that_others_can_read_is_refused(place: Place, name: str, mode: int) -> None:
    (place.directory / name).chmod(mode)
    with pytest.raises(KeyFileError, match=name):
        Broker(place.settings())


@pytest.mark.parametrize("content", [b"", bytes(15), bytes(17), b"0" * 32])
def test_a_wrap_key_of_another_size_is_refused(place: Place, content: bytes) -> None:
    write_atomically(place.directory / "wrap.key", content, mode=0o600)
    with pytest.raises(KeyFileError, match=r"wrap\.key"):
        Broker(place.settings())


def test_a_missing_wrap_key_is_refused(place: Place) -> None:
    (place.directory / "wrap.key").unlink()
    with pytest.raises(KeyFileError, match=r"wrap\.key"):
        Broker(place.settings())


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
    before = sorted(tmp_path.rglob("*"))
    Broker(settings)
    assert sorted(tmp_path.rglob("*")) == before
