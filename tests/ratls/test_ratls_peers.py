"""Our certificates before TLS libraries that nobody here wrote: BoringSSL in gRPC, and OpenSSL's own command."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from sealserve.evidence import SimulatedAttester
from sealserve.ratls import TlsIdentity, create_identity

OPENSSL = shutil.which("openssl") or ""
NAME = "replica.sealserve.internal"


@pytest.fixture
def grpc_port(identity: TlsIdentity) -> Iterator[int]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    method = grpc.unary_unary_rpc_method_handler(lambda request, _: request)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Echo": method}),))
    key = bytes(identity.private_key_pem().reveal())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, identity.certificate_pem())]))
    server.start()
    yield port
    server.stop(None)


def call(port: int, anchor: bytes, name: str = NAME) -> bytes:
    credentials = grpc.ssl_channel_credentials(root_certificates=anchor)
    options = [("grpc.ssl_target_name_override", name)]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
        reply: bytes = channel.unary_unary("/test.Echo/Echo")(b"hello", timeout=10)
        return reply


def test_grpc_takes_our_certificate_as_server_certificate_and_as_its_own_trust_anchor(
    grpc_port: int, identity: TlsIdentity
) -> None:
    assert call(grpc_port, identity.certificate_pem()) == b"hello"


def test_grpc_refuses_a_replica_that_was_not_pinned(
    grpc_port: int, identity: TlsIdentity, attester: SimulatedAttester
) -> None:
    """Every RA-TLS certificate has the same name and serial number: what differs is the key, and that must count."""
    other = create_identity(attester, server_names=[NAME])
    with pytest.raises(grpc.RpcError) as caught:
        call(grpc_port, other.certificate_pem())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
    with pytest.raises(grpc.RpcError):
        call(grpc_port, identity.certificate_pem(), "another.name")


def test_the_standard_library_takes_it_too(identity: TlsIdentity, tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_bytes(identity.certificate_pem())
    key = tmp_path / "key.pem"
    key.touch(mode=0o600)
    key.write_bytes(identity.private_key_pem().reveal())
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(tmp_path / "cert.pem", key)
    asking = ssl.create_default_context(cadata=identity.certificate_pem().decode())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: serving.wrap_socket(listener.accept()[0], server_side=True).close())
        thread.start()
        with socket.create_connection(listener.getsockname()) as plain, asking.wrap_socket(plain, server_hostname=NAME):
            pass
        thread.join()


@pytest.mark.skipif(not OPENSSL, reason="openssl is not on PATH")
def test_openssl_verifies_our_certificate(grpc_port: int, identity: TlsIdentity, tmp_path: Path) -> None:
    pem = tmp_path / "replica.pem"
    pem.write_bytes(identity.certificate_pem())
    arguments = ["-connect", f"127.0.0.1:{grpc_port}", "-servername", NAME, "-verify_hostname", NAME, "-CAfile", pem]
    done = subprocess.run(
        [OPENSSL, "s_client", "-brief", "-verify_return_error", "-alpn", "h2", *arguments],
        input=b"",
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert b"Verification: OK" in done.stderr, done.stderr
