"""What a replica serves TLS with: the grant's certificate or its own, and what becomes of it when the grant changes."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sealserve.broker.grant import Grant, ModelGrant, ReleasedKey, TlsMaterial
from sealserve.enclave.serving_tls import ServingTls
from sealserve.errors import ConfigurationError
from sealserve.evidence import SimulatedAttester, create_simulated_platform, measure_simulated_enclave
from sealserve.ratls import TlsIdentity, create_identity, spki_digest
from sealserve.secret import Secret
from sealserve.serving.core import ModelServer
from sealserve.serving.grpc_server import listen
from sealserve.serving.limits import Limits
from sealserve.serving.rest.server import create_rest_server

NAME = "models.example.com"
KEY = ec.generate_private_key(ec.SECP256R1())


def certificate(serial: int, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = KEY) -> str:
    """Signed by itself: here only what is shown matters."""
    name, now = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)]), datetime.now(UTC)
    ends = (now - timedelta(hours=1), now + timedelta(days=1))
    builder = x509.CertificateBuilder(name, name, key.public_key(), serial, *ends)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def pem_of(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> Secret:
    return Secret(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def grant(tls: TlsMaterial | None, revision: int = 1) -> Grant:
    keys = {"wrap": ReleasedKey("wrap", 1, Secret(b"k" * 16))}
    return Grant(keys, ModelGrant("m", 1, bytes(32), "/m", "wrap"), {}, revision=revision, tls=tls)


def material(serial: int, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = KEY, **more: str) -> TlsMaterial:
    return TlsMaterial(certificate(serial, key), pem_of(key), **more)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> TlsIdentity:
    directory: Path = tmp_path_factory.mktemp("tls") / "platform"
    create_simulated_platform(directory)
    return create_identity(SimulatedAttester(directory, measure_simulated_enclave()))


@pytest.fixture
def serve() -> Iterator[Callable[[ServingTls], list[int]]]:
    """Serves gRPC and REST; gives their ports."""
    with ExitStack() as stack:

        def start(tls: ServingTls) -> list[int]:
            core = ModelServer()
            grpc_server, ports = listen([], addresses=["127.0.0.1:0"], tls=tls.server, limits=Limits())
            rest, rest_port = create_rest_server(core, address="127.0.0.1:0", tls=tls.server)
            for server in (grpc_server, rest):
                server.start()
                stack.callback(server.stop, 0)
            return [ports[0], rest_port]

        yield start


def shown(port: int) -> tuple[int, bytes]:
    """Serial number and SHA-256 of the key of the certificate that a server shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as plain, context.wrap_socket(plain) as tls:
        found = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")
    return found.serial_number, spki_digest(found)


def test_without_certificate_in_the_grant_it_is_the_key_of_the_enclave(own: TlsIdentity) -> None:
    tls = ServingTls(grant(None), own)
    assert tls.key == own.spki_digest
    assert tls.server.certificate_pem == own.certificate_pem()
    assert tls.server.client_ca_pem is None


@pytest.mark.parametrize("key", [KEY, rsa.generate_private_key(65537, 2048)], ids=["ec", "rsa"])
def test_servers_show_what_was_granted_also_after_the_grant_was_wiped(
    own: TlsIdentity, serve: Callable[[ServingTls], list[int]], key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
) -> None:
    given = grant(material(7, key))
    tls = ServingTls(given, own)
    given.wipe()
    for port in serve(tls):
        assert shown(port) == (7, tls.key)
    assert tls.key != own.spki_digest


def test_a_renewed_certificate_of_the_same_key_is_shown_from_then_on(
    own: TlsIdentity, serve: Callable[[ServingTls], list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    tls = ServingTls(grant(material(1)), own)
    ports = serve(tls)
    assert [shown(port)[0] for port in ports] == [1, 1]
    with caplog.at_level(logging.INFO, "sealserve"):
        for _ in range(2):
            tls.follow(grant(material(2), revision=2))
    assert [shown(port) for port in ports] == [(2, tls.key), (2, tls.key)]
    assert [record.getMessage() for record in caplog.records].count("certificate-renewed") == 1


def test_connections_go_on_while_the_certificate_is_renewed(
    own: TlsIdentity, serve: Callable[[ServingTls], list[int]]
) -> None:
    tls = ServingTls(grant(material(1)), own)
    port = serve(tls)[1]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), timeout=20) as plain, context.wrap_socket(plain) as stream:
        for revision in (2, 3):
            tls.follow(grant(material(revision), revision=revision))
            stream.sendall(b"GET /v1/models/m HTTP/1.1\r\nHost: m\r\n\r\n")
            assert stream.recv(65536).startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize(
    "later",
    [
        lambda: material(2, ec.generate_private_key(ec.SECP256R1())),
        lambda: material(2, client_authority=certificate(9)),
        lambda: TlsMaterial("no certificate", pem_of(KEY)),
        lambda: None,
    ],
    ids=["key", "client-authority", "not-readable", "none"],
)
def test_anything_else_waits_for_the_next_start(
    own: TlsIdentity, serve: Callable[[ServingTls], list[int]], later: Callable[[], TlsMaterial | None]
) -> None:
    tls = ServingTls(grant(material(1)), own)
    ports = serve(tls)
    tls.follow(grant(later(), revision=2))
    assert [shown(port) for port in ports] == [(1, tls.key), (1, tls.key)]


def test_a_certificate_that_comes_later_does_not_take_the_place_of_the_enclaves_own(own: TlsIdentity) -> None:
    tls = ServingTls(grant(None), own)
    tls.follow(grant(material(1), revision=2))
    assert tls.server.certificate_pem == own.certificate_pem()
    assert tls.key == own.spki_digest


@pytest.mark.parametrize(
    "tls",
    [
        TlsMaterial(certificate(1), pem_of(ec.generate_private_key(ec.SECP256R1()))),
        TlsMaterial("no certificate", pem_of(KEY)),
        TlsMaterial(certificate(1), Secret(b"no key")),
        TlsMaterial(certificate(1), pem_of(KEY), "no certificate"),
    ],
    ids=["another-key", "no-certificate", "no-key", "no-authority"],
)
def test_what_cannot_be_served_with_is_refused_and_not_replaced(tls: TlsMaterial, own: TlsIdentity) -> None:
    """A replica that fell back to its own key would be refused by every client of one-way TLS, and nobody knew why."""
    with pytest.raises(ConfigurationError, match="cannot be served with") as caught:
        ServingTls(grant(tls), own)
    assert "PRIVATE" not in str(caught.value)
