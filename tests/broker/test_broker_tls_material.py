"""A certificate that the owner made for the enclaves: from the store to the enclave, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from broker_parties import WRAP_KEY, Authority, Issued, Place, ask, in_loop, running
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import ValidationError
from test_broker_version1 import answer, provision

from sealserve.broker.administration import InUseError
from sealserve.broker.client import GrantRefusedError
from sealserve.broker.messages import Granted, decode
from sealserve.broker.store import GrantDocument
from sealserve.broker.store.documents import TlsDocument
from sealserve.cli.main import main
from sealserve.errors import ConfigurationError, KeyFileError
from sealserve.logs import JsonFormatter
from sealserve.ratls import TlsIdentity, cbor
from sealserve.secret import Secret


def chain_of(place: Place, issued: Issued) -> str:
    return issued.certificate.public_bytes(Encoding.PEM).decode() + place.authority.pem.decode()


def issued_once() -> str:
    return Authority().issue("model.example.com").certificate.public_bytes(Encoding.PEM).decode()


@pytest.fixture
def issued(place: Place) -> Issued:
    made = place.authority.issue("model.example.com")
    with place.administration() as administration:
        administration.import_key("front", Secret(made.key_pem), kind="tls")
    return made


def put(place: Place, issued: Issued, **changes: Any) -> None:
    place.put(tls={"certificate": chain_of(place, issued), "key": "front", "key_version": 1, **changes})


def test_an_enclave_gets_certificate_and_key(
    place: Place, identity: TlsIdentity, issued: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        async with running(place) as broker:
            assert (await ask(place, broker, identity)).tls is None
            put(place, issued)
            broker._grants.refresh()
            grant = await ask(place, broker, identity, keys=("wrap",))
        assert grant.tls is not None
        assert grant.tls.certificate == chain_of(place, issued)
        assert bytes(grant.tls.private_key.reveal()) == issued.key_pem
        assert set(grant.keys) == {"wrap"}
        assert "PRIVATE" not in repr(grant)
        record = place.records[-1]
        assert record["tls"]["key"] == {"name": "front", "version": 1}
        assert len(record["tls"]["certificate_sha256"]) == 64
        grant.wipe()
        with pytest.raises(ValueError, match="wiped"):
            grant.tls.private_key.reveal()

    in_loop(body)
    written = json.dumps(place.chain) + "".join(JsonFormatter().format(record) for record in caplog.records)
    secret = issued.key_pem.decode().splitlines()[1]
    assert secret not in written
    for path in place.directory.glob("broker.db*"):
        assert secret.encode() not in path.read_bytes()


def test_an_enclave_is_told_who_signs_its_clients_certificates(
    place: Place, identity: TlsIdentity, issued: Issued
) -> None:
    async def body() -> None:
        put(place, issued, client_authority=place.authority.pem.decode())
        async with running(place) as broker:
            grant = await ask(place, broker, identity)
        assert grant.tls is not None
        assert grant.tls.client_authority == place.authority.pem.decode()
        assert len(place.records[-1]["tls"]["client_authority_sha256"]) == 64

    in_loop(body)


def test_a_private_key_is_imported_once(place: Place, issued: Issued) -> None:
    with place.administration() as administration:
        for _ in range(2):
            assert administration.ensure_key("front", Secret(issued.key_pem), kind="tls").version == 1
        other = place.authority.issue("model.example.com")
        assert administration.ensure_key("front", Secret(other.key_pem), kind="tls").version == 2
        with pytest.raises(KeyFileError):
            administration.ensure_key("front", Secret(bytes(16)), kind="tls")


def test_version_1_gets_its_key_alone(place: Place, identity: TlsIdentity, issued: Issued) -> None:
    async def body() -> None:
        document = {"certificate": chain_of(place, issued), "key": "front", "key_version": 1}
        place.put(version_1={"key": "wrap"}, tls=document)
        async with running(place) as broker:
            assert await provision(broker, identity) == answer(WRAP_KEY)

    in_loop(body)


def test_a_key_in_use_is_not_retired_and_a_retired_one_not_released(
    place: Place, identity: TlsIdentity, issued: Issued
) -> None:
    async def body() -> None:
        put(place, issued)
        with place.administration() as administration:
            with pytest.raises(InUseError):
                administration.destroy_key("front", 1, confirmation="front")
            administration.destroy_key("front", 1, confirmation="front", force=True)
        async with running(place) as broker:
            with pytest.raises(GrantRefusedError):
                await ask(place, broker, identity)
        assert place.records[-1]["reason"] == "key-not-released"

    in_loop(body)


def test_certificate_and_key_must_fit(place: Place, issued: Issued) -> None:
    other = place.authority.issue("model.example.com")
    with pytest.raises(ConfigurationError, match="is not the private key"):
        put(place, other)
    with pytest.raises(ConfigurationError, match="is not the private key"):
        put(place, issued, key="wrap", key_version=3)
    with pytest.raises(ConfigurationError, match="no wrap key"):
        place.put(keys={"wrap": 3, "front": 1})


@pytest.mark.parametrize("text", ["", "nothing", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        TlsDocument(certificate=text, key="front", key_version=1)
    with pytest.raises(ValidationError):
        TlsDocument(certificate=issued_once(), key="front", key_version=1, client_authority=text)


@pytest.mark.parametrize("pem", [b"nothing", b"x" * 9000, bytes(16)])
def test_what_is_no_private_key_is_refused(place: Place, pem: bytes) -> None:
    with place.administration() as administration, pytest.raises(KeyFileError):
        administration.import_key("front", Secret(pem), kind="tls")


def test_a_message_without_and_with_it() -> None:
    message: dict[str, Any] = {
        "type": "granted",
        "decision": "1",
        "keys": {},
        "model": {"name": "m", "version": 1, "digest": bytes(32), "mount": "/m", "key": "k"},
    }
    assert decode(cbor.encode(message), Granted).tls is None
    message["tls"] = {"certificate": "PEM", "key": b"PEM"}
    found = decode(cbor.encode(message), Granted)
    assert found.tls is not None
    assert found.tls.key == b"PEM"
    assert "PEM" not in repr(found)


def test_the_command_takes_a_key_over(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = place.authority.issue()
    path = tmp_path / "tls.key"
    path.touch(mode=0o600)
    path.write_bytes(made.key_pem)
    with pytest.raises(SystemExit, match="0"):
        main(["broker", "key", "import-tls", "front", str(path), "-f", str(place.write()), "--json"])
    assert json.loads(capsys.readouterr().out)["version"] == 1
    put(place, made)
    with place.administration() as administration:
        stored = administration.grant("digits").document
    assert GrantDocument.model_validate(stored.as_dict()) == stored
    assert stored.tls is not None
