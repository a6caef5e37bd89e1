from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from sealserve.errors import KeyFileError
from sealserve.local.certificates import ensure_authority, ensure_server_certificate


class Files:
    def __init__(self, directory: Path) -> None:
        self.authority_key, self.authority = directory / "ca.key", directory / "ca.pem"
        self.key, self.certificate = directory / "server.key", directory / "server.pem"

    def make_authority(self) -> bool:
        return ensure_authority(self.authority_key, self.authority, name="test")

    def make_server(self, *hosts: str) -> bool:
        return ensure_server_certificate(
            self.key, self.certificate, authority_key=self.authority_key, authority=self.authority, hosts=hosts
        )

    def verify(self, name: x509.GeneralName) -> None:
        store = Store([x509.load_pem_x509_certificate(self.authority.read_bytes())])
        leaf = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        PolicyBuilder().store(store).build_server_verifier(name).verify(leaf, [])  # type: ignore[arg-type]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    files = Files(tmp_path)
    files.make_authority()
    return files


def test_a_strict_verifier_accepts_the_chain(files: Files) -> None:
    import ipaddress

    assert files.make_server("localhost", "127.0.0.1", "::1", "127.0.0.1")
    files.verify(x509.DNSName("localhost"))
    files.verify(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    with pytest.raises(x509.verification.VerificationError):
        files.verify(x509.DNSName("other"))


def test_a_fitting_certificate_is_kept(files: Files) -> None:
    assert files.make_server("localhost", "127.0.0.1")
    assert not files.make_authority()
    assert not files.make_server("localhost")


def test_another_host_needs_another_certificate(files: Files) -> None:
    files.make_server("localhost")
    assert files.make_server("localhost", "10.0.0.1")


def test_a_new_authority_needs_another_certificate(files: Files) -> None:
    files.make_server("localhost")
    files.authority_key.unlink()
    assert files.make_authority()
    assert files.make_server("localhost")


@pytest.mark.parametrize("file", ["authority", "authority_key"])
def test_a_damaged_file_is_named(files: Files, file: str) -> None:
    getattr(files, file).write_text("-----BEGIN NONSENSE-----\n")
    with pytest.raises(KeyFileError, match=r"is not a (certificate|private key) in PEM"):
        files.make_authority()
