"""One-way and two-way TLS: what `up` makes, what it takes from the owner, and where each part of it goes."""

from __future__ import annotations

import stat
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.verification import PolicyBuilder, Store

from sealserve.addresses import Address
from sealserve.broker.settings import BrokerSettings
from sealserve.broker.store.documents import TlsDocument
from sealserve.client import OwnerCertificates
from sealserve.deploy import Deployment
from sealserve.errors import ConfigurationError, InputError, KeyFileError
from sealserve.local.certificates import ensure_authority, ensure_server_certificate
from sealserve.local.layout import Layout
from sealserve.local.ownership import claim
from sealserve.local.prepare import PreparedModel, prepare_keys, prepare_platform, prepare_policies
from sealserve.local.tls import client_certificates, prepare_tls

BROKER = Address("127.0.0.1", 4433)
NAME = "models.example.com"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    claim(tmp_path / "state", "cluster")
    return Layout(tmp_path / "state").make()


def deployment(mode: str, **settings: Any) -> Deployment:
    tls = {"mode": mode, "server_name": NAME} | {key: str(value) for key, value in settings.items()}
    return Deployment.model_validate({"name": "mine", "model": {"name": "m", "path": "model"}, "tls": tls})


def granted(wanted: Deployment, layout: Layout) -> TlsDocument | None:
    """What the replicas are granted after an `up`."""
    prepare_platform(layout)
    prepare_keys(wanted, layout, brokers=[BROKER])
    model = PreparedModel(version=1, digest=bytes(32), files=1, size=1, newly_sealed=True)
    prepare_policies(wanted, layout, model, broker=BROKER)
    with BrokerSettings.load(layout.broker_configuration).open_store() as store:
        return store.load().grants["mine"].document.tls


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


class Earlier(datetime):
    """A clock of 300 days ago."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime.now(tz) - timedelta(days=300)


def verifier(roots: Path) -> PolicyBuilder:
    return PolicyBuilder().store(Store([read(roots)]))


class Own:
    """A server's certificate that the owner has from elsewhere."""

    def __init__(self, directory: Path, name: str = NAME) -> None:
        self.files = {
            "certificate": directory / "own.pem",
            "private_key": directory / "own.key",
            "authority": directory / "own-ca.pem",
        }
        authority = (directory / "own-ca.key", self.files["authority"])
        ensure_authority(*authority, name="elsewhere")
        ensure_server_certificate(
            *(self.files["private_key"], self.files["certificate"]),
            authority_key=authority[0],
            authority=authority[1],
            hosts=[name],
        )


def test_strict_verifiers_accept_what_is_made_for_both_sides(layout: Layout) -> None:
    prepare_tls(deployment("two-way"), layout)
    server = verifier(layout.client_roots).build_server_verifier(x509.DNSName(NAME))
    server.verify(read(layout.server_certificate), [])
    verifier(layout.client_authority).build_client_verifier().verify(read(layout.client_certificate), [])
    with pytest.raises(x509.verification.VerificationError):
        verifier(layout.client_authority).build_server_verifier(x509.DNSName(NAME)).verify(
            read(layout.server_certificate), []
        )


def test_private_keys_are_their_owners_alone_and_none_is_the_platforms(layout: Layout) -> None:
    granted(deployment("two-way"), layout)
    keys = [layout.server_authority_key, layout.server_key, layout.client_authority_key, layout.client_key]
    assert all(stat.S_IMODE(key.stat().st_mode) == 0o600 for key in keys)
    assert {key.parent for key in keys} == {layout.owner, layout.client}
    secrets = [key.read_bytes().splitlines()[2] for key in keys]
    for path in layout.platform.rglob("*"):
        assert not path.is_file() or not any(secret in path.read_bytes() for secret in secrets), path
    assert not any(secret in path.read_bytes() for path in layout.owner.glob("broker.db*") for secret in secrets)


def test_the_grant_has_the_certificate_and_asks_clients_for_theirs_in_two_way_only(layout: Layout) -> None:
    for mode, authority in (("two-way", layout.client_authority), ("one-way", None)):
        tls = granted(deployment(mode), layout)
        assert tls is not None
        assert tls.certificate == layout.server_certificate.read_text()
        assert tls.client_authority == (authority and authority.read_text())
        assert (tls.key, tls.key_version) == ("server-tls", 1), "the same key is imported once"
    assert granted(deployment("attested"), layout) is None


def test_clients_of_the_deployment_find_their_part(layout: Layout) -> None:
    for mode in ("attested", "one-way", "two-way"):
        prepare_tls(deployment(mode), layout)
    assert client_certificates(deployment("attested"), layout) is None
    assert client_certificates(deployment("one-way"), layout) == OwnerCertificates(layout.client_roots)
    assert client_certificates(deployment("two-way"), layout) == OwnerCertificates(
        layout.client_roots, layout.client_certificate, layout.client_key
    )
    others = deployment("two-way", client_authority=layout.client_authority)
    assert client_certificates(others, layout) == OwnerCertificates(layout.client_roots)


def test_a_second_run_changes_nothing(layout: Layout) -> None:
    wanted = deployment("two-way")
    prepare_tls(wanted, layout)
    files = [path for path in (*layout.owner.iterdir(), *layout.client.iterdir()) if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    prepare_tls(wanted, layout)
    assert {path: path.read_bytes() for path in files} == before


def test_a_certificate_near_its_end_is_renewed_for_the_same_key(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = deployment("two-way")
    with monkeypatch.context() as patch:
        patch.setattr("sealserve.deploy.certificates.datetime", Earlier)
        prepare_tls(wanted, layout)
    first, client, key = (
        read(layout.server_certificate),
        read(layout.client_certificate),
        layout.server_key.read_bytes(),
    )
    prepare_tls(wanted, layout)
    renewed = read(layout.server_certificate)
    assert renewed.not_valid_after_utc - first.not_valid_after_utc > timedelta(days=299)
    assert layout.server_key.read_bytes() == key
    assert renewed.public_key() == first.public_key()
    assert read(layout.client_certificate) != client
    assert read(layout.client_roots) == read(layout.server_authority)


def test_another_server_name_gets_another_certificate(layout: Layout) -> None:
    prepare_tls(deployment("one-way"), layout)
    wanted = deployment("one-way", server_name="other.example.com")
    prepare_tls(wanted, layout)
    name = x509.DNSName("other.example.com")
    verifier(layout.client_roots).build_server_verifier(name).verify(read(layout.server_certificate), [])


def test_the_owners_own_certificate_is_granted_and_nothing_is_made(layout: Layout, tmp_path: Path) -> None:
    own = Own(tmp_path)
    tls = granted(deployment("one-way", **own.files), layout)
    assert tls is not None
    assert tls.certificate == own.files["certificate"].read_text()
    assert layout.client_roots.read_bytes() == own.files["authority"].read_bytes()
    assert not layout.server_key.exists()
    with BrokerSettings.load(layout.broker_configuration).open_store() as store:
        value = store.value(store.load().keys["server-tls", 1])
    expected = load_pem_private_key(own.files["private_key"].read_bytes(), None).private_numbers()  # type: ignore[union-attr]
    with value as pem:
        assert load_pem_private_key(bytes(pem.reveal()), None).private_numbers() == expected  # type: ignore[union-attr]


def test_what_clients_would_refuse_is_said_before_anything_starts(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    mine, theirs = Own(tmp_path), Own(other)
    with pytest.raises(ConfigurationError, match=r"clients would not accept .*for the name models"):
        prepare_tls(deployment("one-way", **(mine.files | {"authority": theirs.files["authority"]})), layout)
    with pytest.raises(ConfigurationError, match="cannot be used as a server's certificate and its key"):
        prepare_tls(deployment("one-way", **(mine.files | {"private_key": theirs.files["private_key"]})), layout)
    with pytest.raises(ConfigurationError, match=r"for the name other\.example"):
        prepare_tls(deployment("one-way", **mine.files, server_name="other.example"), layout)
    with pytest.raises(InputError, match="missing"):
        prepare_tls(deployment("one-way", **(mine.files | {"authority": tmp_path / "missing"})), layout)

    monkeypatch.setattr("sealserve.deploy.certificates.datetime", Earlier)
    expired = tmp_path / "expired"
    expired.mkdir()
    with pytest.raises(ConfigurationError, match="certificate has expired"):
        prepare_tls(deployment("one-way", **Own(expired).files), layout)


def test_a_private_key_that_others_can_read_is_refused(layout: Layout, tmp_path: Path) -> None:
    own = Own(tmp_path)
    own.files["private_key"].chmod(0o644)
    with pytest.raises(KeyFileError, match="can be read by others"):
        prepare_tls(deployment("one-way", **own.files), layout)


def test_an_authority_for_clients_that_is_none_is_refused(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no certificate")
    with pytest.raises(ConfigurationError, match="holds no certificate"):
        granted(deployment("two-way", client_authority=tmp_path / "text"), layout)
