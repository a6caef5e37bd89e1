"""Protocol version 1 as Gramine's client speaks it: a blocking TLS client over pyOpenSSL, and OpenSSL's own command."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from broker_parties import (
    ENCLAVE,
    OTHER_ENCLAVE,
    SECOND_KEY,
    WRAP_KEY,
    Place,
    foreign_identity,
    full_disk,
    in_loop,
    new_identity,
    rsa_identity,
    running,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from OpenSSL import SSL

from sealserve.broker.server import Broker
from sealserve.ratls import TlsIdentity
from sealserve.ratls.certificate import DICE_EVIDENCE, LEGACY_QUOTE, dice_claims, dice_report_data, encode_dice

REQUEST = b"SECRET_PROVISION_RA_TLS_REQUEST_V1\0"
RESPONSE = b"SECRET_PROVISION_RA_TLS_RESPONSE_V1:\0"
OPENSSL = shutil.which("openssl") or ""
WHOLE = [REQUEST]


def test_the_headers_have_their_documented_sizes() -> None:
    from sealserve.broker import version1

    assert (version1.REQUEST, version1.RESPONSE) == (REQUEST, RESPONSE)
    assert (len(REQUEST), len(RESPONSE)) == (35, 37)


def gramine_client(
    port: int,
    identity: TlsIdentity | None,
    *,
    records: Sequence[bytes] = WHOLE,
    version: int = SSL.TLS1_3_VERSION,
    close_first: bool = True,
) -> bytes:
    """What came back until the end of the stream. ``close_first``: after the whole secret, as Gramine's client does."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    if identity is not None:
        context.use_certificate(identity.certificate)
        context.use_privatekey(identity.private_key)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as plain:
        plain.settimeout(None)  # OpenSSL reads a blocking socket
        connection = SSL.Connection(context, plain)
        connection.set_tlsext_host_name(b"localhost")
        connection.set_connect_state()
        connection.do_handshake()
        for record in records:
            connection.send(record)
        received = b""
        # A stranger gets no answer: the broker closes, and the system may reset the connection.
        with contextlib.suppress(SSL.ZeroReturnError, SSL.SysCallError):
            while True:
                received += connection.recv(7)  # a few bytes at a time
                if close_first and len(received) >= 41 and len(received) >= 41 + int.from_bytes(received[37:41], "big"):
                    connection.shutdown()
                    plain.shutdown(socket.SHUT_WR)
                    break
        if not close_first:
            with contextlib.suppress(SSL.Error):
                connection.shutdown()
        return received


def answer(secret: bytes) -> bytes:
    return RESPONSE + len(secret).to_bytes(4, "big") + secret


async def provision(broker: Broker, identity: TlsIdentity | None, **options: Any) -> bytes:
    return await asyncio.to_thread(gramine_client, broker.address.port, identity, **options)


@pytest.fixture
def place(place: Place) -> Place:
    place.put(version_1={"key": "wrap"})
    return place


# --- granted --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("close_first", [True, False], ids=["client closes first", "server closes first"])
@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["TLS 1.2", "TLS 1.3"])
@pytest.mark.parametrize(
    "records",
    [WHOLE, [REQUEST[:1], REQUEST[1:34], REQUEST[34:]], [REQUEST[i : i + 1] for i in range(35)]],
    ids=["one record", "three records", "35 records"],
)
def test_an_accepted_enclave_gets_its_key(
    place: Place, identity: TlsIdentity, records: list[bytes], version: int, close_first: bool
) -> None:
    async def body() -> None:
        async with running(place) as broker:
            received = await provision(broker, identity, records=records, version=version, close_first=close_first)
        assert received == answer(WRAP_KEY)
        (record,) = place.records
        assert (record["outcome"], record["protocol"], record["deployment"]) == ("granted", 1, "digits")
        assert record["keys"] == [{"name": "wrap", "version": 3}]
        assert record["key_sha256"] == identity.spki_digest.hex()

    in_loop(body)


@pytest.mark.parametrize("form", [PublicFormat.SubjectPublicKeyInfo, PublicFormat.PKCS1], ids=["SPKI", "PKCS #1"])
@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["TLS 1.2", "TLS 1.3"])
def test_an_enclave_of_graphenes_time_gets_its_key(place: Place, form: PublicFormat, version: int) -> None:
    async def body() -> None:
        async with running(place) as broker:
            assert await provision(broker, rsa_identity(place, form=form), version=version) == answer(WRAP_KEY)

    in_loop(body)


def test_a_key_on_secp256r1_does_as_well(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        claims = dice_claims(key.public_key())
        evidence = encode_dice(place.attester().quote(dice_report_data(claims)), claims)
        small = with_extensions(identity, (DICE_EVIDENCE, evidence), key=key)
        async with running(place) as broker:
            assert await provision(broker, small) == answer(WRAP_KEY)

    in_loop(body)


def test_a_key_can_be_sent_as_the_text_that_early_gramine_expects(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        place.put(version_1={"key": "second", "encoding": "hex"})
        async with running(place) as broker:
            assert await provision(broker, identity) == answer(SECOND_KEY.hex().encode() + b"\0")

    in_loop(body)


def test_which_key_an_enclave_gets_follows_from_the_policy_that_accepts_it(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        place.add_policy("letters.yaml", OTHER_ENCLAVE)
        place.put_policy("letters")
        place.put(deployment="letters", policy="letters", version_1={"key": "second"})
        async with running(place) as broker:
            assert await provision(broker, identity) == answer(WRAP_KEY)
            assert await provision(broker, new_identity(place, OTHER_ENCLAVE)) == answer(SECOND_KEY)
        assert [record["deployment"] for record in place.records] == ["digits", "letters"]

    in_loop(body)


@pytest.mark.skipif(not OPENSSL, reason="openssl is not on PATH")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_gets_the_key_too(place: Place, identity: TlsIdentity, version: str, tmp_path: Path) -> None:
    write_files(tmp_path, place, identity)

    async def body() -> None:
        async with running(place) as broker:
            done = await asyncio.to_thread(s_client, broker.address.port, tmp_path, version)
        assert done.stdout == answer(WRAP_KEY), done.stderr

    in_loop(body)


def s_client(port: int, files: Path, version: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [
            *(OPENSSL, "s_client", "-quiet", "-verify_return_error", version, "-connect", f"127.0.0.1:{port}"),
            *("-servername", "localhost", "-verify_hostname", "localhost", "-CAfile", files / "ca.pem"),
            *("-cert", files / "enclave.pem", "-key", files / "enclave.key"),
        ],
        input=REQUEST,
        capture_output=True,
        timeout=20,
        check=False,
    )


def standard_library_client(port: int, files: Path, version: ssl.TLSVersion, records: Sequence[bytes]) -> bytes:
    """A peer with nothing of ours and nothing of pyOpenSSL's in it."""
    context = ssl.create_default_context(cafile=files / "ca.pem")
    context.minimum_version = context.maximum_version = version
    context.load_cert_chain(files / "enclave.pem", files / "enclave.key")
    with socket.create_connection(("127.0.0.1", port), timeout=20) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(plain, server_hostname="localhost") as connection:
            for record in records:
                connection.send(record)
            received = b""
            while part := connection.recv(3):
                received += part
            return received


def write_files(files: Path, place: Place, identity: Any) -> None:
    (files / "ca.pem").write_bytes(place.authority.pem)
    (files / "enclave.pem").write_bytes(identity.certificate.public_bytes(Encoding.PEM))
    key = identity.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (files / "enclave.key").write_bytes(key)


@pytest.mark.parametrize("kind", ["P-256", "P-384", "RSA-3072"])  # ours, Gramine's, Graphene's
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_standard_library_gets_the_key_too(
    place: Place, identity: TlsIdentity, kind: str, version: ssl.TLSVersion, tmp_path: Path
) -> None:
    theirs = {
        "P-256": lambda: identity,
        "P-384": lambda: foreign_identity(place, ec.generate_private_key(ec.SECP384R1())),
        "RSA-3072": lambda: rsa_identity(place),
    }
    write_files(tmp_path, place, theirs[kind]())

    async def body() -> None:
        async with running(place) as broker:
            for records in (WHOLE, [REQUEST[:20], REQUEST[20:]]):
                received = await asyncio.to_thread(
                    standard_library_client, broker.address.port, tmp_path, version, records
                )
                assert received == answer(WRAP_KEY)

    in_loop(body)


@pytest.mark.skipif(not OPENSSL, reason="openssl is not on PATH")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_gets_the_key_with_an_rsa_key_too(place: Place, version: str, tmp_path: Path) -> None:
    write_files(tmp_path, place, rsa_identity(place, form=PublicFormat.PKCS1))

    async def body() -> None:
        async with running(place) as broker:
            done = await asyncio.to_thread(s_client, broker.address.port, tmp_path, version)
        assert done.stdout == answer(WRAP_KEY), done.stderr

    in_loop(body)


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["TLS 1.2", "TLS 1.3"])
def test_a_client_that_goes_away_at_any_point_harms_nobody(place: Place, identity: TlsIdentity, version: int) -> None:
    async def body() -> None:
        async with running(place) as broker:
            for sent in (0, 1, 34, 35):
                await asyncio.to_thread(go_away, broker.address.port, identity, version, REQUEST[:sent])
            assert await provision(broker, identity, version=version) == answer(WRAP_KEY)

    in_loop(body)


def go_away(port: int, identity: TlsIdentity, version: int, request: bytes) -> None:
    """Shake hands, send a part, and reset the connection."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    context.use_certificate(identity.certificate)
    context.use_privatekey(identity.private_key)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as plain:
        plain.settimeout(None)
        connection = SSL.Connection(context, plain)
        connection.set_connect_state()
        connection.do_handshake()
        if request:
            connection.send(request)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# --- refused --------------------------------------------------------------------------------------------------------


async def expect_nothing(place: Place, broker: Broker, identity: TlsIdentity | None, reason: str) -> None:
    assert await provision(broker, identity) == b""
    record = place.records[-1]
    assert (record["outcome"], record["protocol"], record["reason"]) == ("refused", 1, reason)


def with_extensions(
    identity: TlsIdentity,
    *extensions: tuple[x509.ObjectIdentifier, bytes],
    key: ec.EllipticCurvePrivateKey | None = None,
) -> TlsIdentity:
    """The key of an identity, or another, with other evidence."""
    key = key or identity.private_key
    certificate = identity.certificate
    builder = (
        x509.CertificateBuilder(certificate.issuer, certificate.subject, key.public_key(), 1)
        .not_valid_before(certificate.not_valid_before_utc)
        .not_valid_after(certificate.not_valid_after_utc)
    )
    for oid, value in extensions:
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
    return TlsIdentity(key, builder.sign(key, hashes.SHA256()))


def extension(identity: TlsIdentity, oid: x509.ObjectIdentifier) -> tuple[x509.ObjectIdentifier, bytes]:
    return oid, identity.certificate.extensions.get_extension_for_oid(oid).value.public_bytes()


def test_enclaves_that_no_grant_accepts_get_nothing(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        thief = new_identity(place, OTHER_ENCLAVE)
        async with running(place) as broker:
            await expect_nothing(place, broker, None, "no-client-certificate")
            await expect_nothing(place, broker, thief, "no-grant-accepts")
            assert "digits: the evidence is genuine but not accepted" in place.records[-1]["detail"]
            plain = with_extensions(identity)
            await expect_nothing(place, broker, plain, "certificate-evidence")
            stolen = with_extensions(thief, extension(identity, DICE_EVIDENCE))
            await expect_nothing(place, broker, stolen, "key-binding")
            stolen = with_extensions(thief, extension(identity, LEGACY_QUOTE))
            await expect_nothing(place, broker, stolen, "no-grant-accepts")
            malformed = with_extensions(identity, extension(identity, LEGACY_QUOTE), (DICE_EVIDENCE, b"\xff"))
            await expect_nothing(place, broker, malformed, "certificate-evidence")
            assert await provision(broker, identity) == answer(WRAP_KEY)

    in_loop(body)


def test_a_grant_speaks_version_1_only_if_it_says_so(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        place.put()
        async with running(place) as broker:
            await expect_nothing(place, broker, identity, "no-grant-accepts")

    in_loop(body)


def test_evidence_that_two_grants_accept_is_refused(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        place.add_policy("both.yaml", ENCLAVE, OTHER_ENCLAVE)
        place.put_policy("both")
        place.put(deployment="letters", policy="both", version_1={"key": "wrap"})
        async with running(place) as broker:
            await expect_nothing(place, broker, identity, "ambiguous-grant")
            assert "digits, letters" in place.records[-1]["detail"]
            assert await provision(broker, new_identity(place, OTHER_ENCLAVE)) == answer(WRAP_KEY)

    in_loop(body)


@pytest.mark.parametrize(
    "records",
    [[b"x" * 35], [REQUEST[:-1] + b"1"], [REQUEST.replace(b"V1", b"V2")], [b"\x00" * 4096]],
)
def test_another_request_gets_nothing(place: Place, identity: TlsIdentity, records: list[bytes]) -> None:
    async def body() -> None:
        async with running(place) as broker:
            assert await provision(broker, identity, records=records) == b""
            assert await provision(broker, identity) == answer(WRAP_KEY)
        assert [record["outcome"] for record in place.records] == ["granted"]

    in_loop(body)


def test_a_client_that_never_asks_is_cut_off(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        place.document["limits"] = {"step_seconds": 0.1}
        async with running(place) as broker:
            assert await provision(broker, identity, records=[REQUEST[:-1]]) == b""

    in_loop(body)


def test_no_key_is_sent_while_the_audit_log_cannot_be_written(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        async with running(place) as broker:
            with full_disk():
                assert await provision(broker, identity) == b""
        assert place.records == []

    in_loop(body)
