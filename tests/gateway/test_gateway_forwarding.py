"""The real nginx in front of TLS servers."""

from __future__ import annotations

import contextlib
import datetime
import json
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sealserve.addresses import Address
from sealserve.gateway import (
    ACCESS_LOG,
    PID_FILE,
    GatewayPort,
    Nginx,
    check_configuration,
    render_nginx,
    worker_user,
)

NAME = "replica.sealserve.internal"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + built.public_bytes(serialization.Encoding.PEM)
    )
    return path


class EchoServer:
    """Ends TLS itself, answers ``NAME:`` and what it was sent, and closes."""

    def __init__(self, label: str, certificate: Path, port: int = 0) -> None:
        self._label = label
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._listener = socket.create_server(("127.0.0.1", port))
        self._stopped = threading.Event()
        self.address = Address("127.0.0.1", self._listener.getsockname()[1])
        self._listener.settimeout(0.05)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(OSError):
                raw, _ = self._listener.accept()
                raw.settimeout(5)
                with self._context.wrap_socket(raw, server_side=True) as stream:
                    stream.sendall(f"{self._label}:".encode() + stream.recv(1000))

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
        self._listener.close()


def _ask(address: Address, text: bytes = b"hello", *, server_name: str | None = NAME) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection((address.host, address.port), timeout=5) as raw,
        context.wrap_socket(raw, server_hostname=server_name) as stream,
    ):
        stream.sendall(text)
        return stream.recv(1000).decode()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 10 s"
        time.sleep(0.02)


@pytest.fixture
def gateway(nginx: Nginx, tmp_path: Path, certificate: Path) -> Iterator[tuple[Address, list[EchoServer]]]:
    with _running(nginx, tmp_path, certificate) as (listen, _, servers):
        yield listen, servers


@contextlib.contextmanager
def _running(
    nginx: Nginx, tmp_path: Path, certificate: Path, *, rest: Sequence[Address] = (), probed: bool = False
) -> Iterator[tuple[Address, Address, list[EchoServer]]]:
    servers = [EchoServer("first", certificate), EchoServer("second", certificate)]
    listen, rest_listen = Address("127.0.0.1", _free_port()), Address("127.0.0.1", _free_port())
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(
        render_nginx(
            nginx=nginx,
            grpc=GatewayPort(listen, [server.address for server in servers]),
            rest=GatewayPort(rest_listen, rest) if rest else None,
            server_name=NAME,
            runtime_dir=tmp_path,
            user=worker_user(),
            probed=probed,
        )
    )
    check_configuration(nginx, configuration, tmp_path)
    process = subprocess.Popen(nginx.command(configuration, tmp_path), stderr=subprocess.PIPE, start_new_session=True)
    try:
        _wait_until(lambda: (tmp_path / PID_FILE).is_file() and (tmp_path / PID_FILE).read_text().strip() != "")
        assert int((tmp_path / PID_FILE).read_text()) == process.pid
        yield listen, rest_listen, servers
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)
        for server in servers:
            server.stop()


def test_connections_go_to_the_replicas_in_turn(gateway: tuple[Address, list[EchoServer]]) -> None:
    address, _ = gateway
    answers = [_ask(address) for _ in range(6)]
    assert answers.count("first:hello") == answers.count("second:hello") == 3


def test_a_dead_replica_costs_no_answer_and_gets_work_again_when_it_is_back(
    gateway: tuple[Address, list[EchoServer]], certificate: Path
) -> None:
    address, servers = gateway
    servers[0].stop()
    assert {_ask(address) for _ in range(6)} == {"second:hello"}
    servers[0] = EchoServer("first again", certificate, servers[0].address.port)
    _wait_until(lambda: _ask(address) == "first again:hello")


@pytest.mark.parametrize("server_name", ["other.example", "internal", f"x.{NAME}", None])
def test_another_server_name_reaches_no_replica(
    gateway: tuple[Address, list[EchoServer]], server_name: str | None
) -> None:
    address, _ = gateway
    with pytest.raises(OSError, match=r".*"):
        _ask(address, server_name=server_name)


def test_rest_has_replicas_of_its_own_and_the_same_rule(nginx: Nginx, tmp_path: Path, certificate: Path) -> None:
    server = EchoServer("rest", certificate)
    try:
        with _running(nginx, tmp_path, certificate, rest=[server.address]) as (address, rest, _):
            assert {_ask(rest) for _ in range(3)} == {"rest:hello"}
            assert {_ask(address) for _ in range(2)} == {"first:hello", "second:hello"}
            with pytest.raises(OSError, match=r".*"):
                _ask(rest, server_name="other.example")
    finally:
        server.stop()


def test_what_is_not_tls_reaches_no_replica(gateway: tuple[Address, list[EchoServer]]) -> None:
    address, _ = gateway
    with socket.create_connection((address.host, address.port), timeout=5) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: replica.sealserve.internal\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert plain.recv(100) == b""


def test_one_address_with_all_the_connections_it_may_have_keeps_no_other_out(
    gateway: tuple[Address, list[EchoServer]],
) -> None:
    address, _ = gateway
    with contextlib.ExitStack() as stack:
        # Silent ones: nginx waits for their ClientHello.
        for _ in range(256):
            stack.enter_context(socket.create_connection((address.host, address.port), timeout=5))
        _wait_until(lambda: _is_closed_to("127.0.0.1", address))
        assert not _is_closed_to("127.0.0.2", address)


def _is_closed_to(source: str, address: Address) -> bool:
    """Whether a connection from there is closed at once instead of waited for."""
    with socket.create_connection((address.host, address.port), timeout=5, source_address=(source, 0)) as plain:
        plain.settimeout(0.5)
        try:
            return plain.recv(1) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False


def test_the_log_tells_who_was_connected_to_what(gateway: tuple[Address, list[EchoServer]], tmp_path: Path) -> None:
    address, servers = gateway
    _ask(address)
    with contextlib.suppress(OSError):
        _ask(address, server_name='evil".example')
    log = tmp_path / ACCESS_LOG
    _wait_until(lambda: len(log.read_text().splitlines()) == 2)
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    served = next(entry for entry in entries if entry["server_name"] == NAME)
    assert served["upstream"] in {str(server.address) for server in servers}
    assert int(served["bytes_sent"]) > 0
    refused = next(entry for entry in entries if entry["server_name"] != NAME)
    assert refused["upstream"] == ""
    assert int(refused["bytes_sent"]) == 0


def test_who_only_looks_whether_the_port_is_open_leaves_no_line(
    nginx: Nginx, tmp_path: Path, certificate: Path
) -> None:
    with _running(nginx, tmp_path, certificate, probed=True) as (address, _, _):
        for _ in range(3):
            socket.create_connection((address.host, address.port), timeout=5).close()
        with socket.create_connection((address.host, address.port), timeout=5):
            time.sleep(0.3)  # who stays without a word is no probe
        with contextlib.suppress(OSError):
            _ask(address, server_name=None)
        _ask(address)
        log = tmp_path / ACCESS_LOG
        _wait_until(lambda: len(log.read_text().splitlines()) == 3)
        assert [json.loads(line)["status"] for line in log.read_text().splitlines()] == ["200", "500", "200"]
