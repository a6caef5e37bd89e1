"""The real nginx in front of replicas that it knows by a DNS name, as in a cluster."""

from __future__ import annotations

import contextlib
import functools
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from dns_server import DnsServer

from sealserve.addresses import Address
from sealserve.errors import ConfigurationError
from sealserve.gateway import GatewayPort, Nginx, check_configuration, render_nginx, worker_user

SERVER_NAME = "replica.sealserve.internal"
CANARY = "mine-replicas-canary.serving.svc.cluster.local"
_PERCENT = 20
UPSTREAM = "mine-replicas.serving.svc.cluster.local"


class Replica:
    """Says its own address to whoever connects."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._listener = socket.create_server((host, port))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                stream, _ = self._listener.accept()
                stream.sendall(self._host.encode())
                stream.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@functools.cache
def _client_hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    stream = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=SERVER_NAME)
    with contextlib.suppress(ssl.SSLWantReadError):
        stream.do_handshake()
    return outgoing.read()


def _who_answers(gateway: Address) -> str:
    with contextlib.suppress(OSError), socket.create_connection((gateway.host, gateway.port), timeout=5) as stream:
        stream.sendall(_client_hello())
        return stream.recv(100).decode()
    return ""


def _render(
    nginx: Nginx, directory: Path, gateway: Address, upstream: Address, resolver: Address, *canary: Address
) -> str:
    return render_nginx(
        nginx=nginx,
        grpc=GatewayPort(gateway, [upstream], canary),
        canary_percent=_PERCENT,
        rest=None,
        server_name=SERVER_NAME,
        runtime_dir=directory,
        user=worker_user(),
        resolver=resolver,
        access_log=Path("/dev/null"),
    )


@contextlib.contextmanager
def _running(nginx: Nginx, configuration: Path) -> Iterator[None]:
    check_configuration(nginx, configuration, configuration.parent)
    process = subprocess.Popen(nginx.command(configuration, configuration.parent), stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=10)


def _until(gateway: Address, expected: set[str], *, asking: int = 6) -> None:
    deadline = time.monotonic() + 10
    while (answers := {_who_answers(gateway) for _ in range(asking)}) != expected:
        assert time.monotonic() < deadline, f"{answers} answer, and not {expected}"
        time.sleep(0.1)


@pytest.mark.slow
def test_replicas_come_and_go_as_dns_says(nginx: Nginx, tmp_path: Path) -> None:
    if nginx.version < (1, 27, 3):
        pytest.skip("nginx looks names up again from 1.27.3 on")
    first = Replica("127.0.0.2", 0)
    second = Replica("127.0.0.3", first.port)
    dns = DnsServer(UPSTREAM)
    with socket.create_server(("127.0.0.1", 0)) as free:
        gateway = Address("127.0.0.1", free.getsockname()[1])
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(_render(nginx, tmp_path, gateway, Address(UPSTREAM, first.port), dns.address))
    try:
        with _running(nginx, configuration):
            dns.addresses[UPSTREAM] = ["127.0.0.2"]  # it starts before there is any replica
            _until(gateway, {"127.0.0.2"})
            dns.addresses[UPSTREAM] = ["127.0.0.2", "127.0.0.3"]
            _until(gateway, {"127.0.0.2", "127.0.0.3"})
            dns.addresses[UPSTREAM] = ["127.0.0.3"]
            _until(gateway, {"127.0.0.3"})
    finally:
        for server in (first, second, dns):
            server.close()


@pytest.mark.slow
def test_a_canary_gets_its_share_of_connections_and_the_others_have_it_while_there_is_none(
    nginx: Nginx, tmp_path: Path
) -> None:
    if nginx.version < (1, 27, 3):
        pytest.skip("nginx looks names up again from 1.27.3 on")
    stable = Replica("127.0.0.2", 0)
    canary = Replica("127.0.0.3", stable.port)
    dns = DnsServer(UPSTREAM, CANARY)
    with socket.create_server(("127.0.0.1", 0)) as free:
        gateway = Address("127.0.0.1", free.getsockname()[1])
    upstream, tried = (Address(name, stable.port) for name in (UPSTREAM, CANARY))
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(_render(nginx, tmp_path, gateway, upstream, dns.address, tried))
    try:
        with _running(nginx, configuration):
            dns.addresses[UPSTREAM] = ["127.0.0.2"]
            _until(gateway, {"127.0.0.2"}, asking=40)
            dns.addresses[CANARY] = ["127.0.0.3"]
            _until(gateway, {"127.0.0.2", "127.0.0.3"}, asking=40)
            answers = Counter(_who_answers(gateway) for _ in range(1000))
            assert set(answers) == {"127.0.0.2", "127.0.0.3"}
            assert 140 < answers["127.0.0.3"] < 260  # 200, and five times the deviation that chance has
            dns.addresses[CANARY] = ["127.0.0.4"]  # nobody is there
            _until(gateway, {"127.0.0.2"}, asking=40)
            dns.addresses[CANARY] = []
            time.sleep(2.5)
            assert {_who_answers(gateway) for _ in range(40)} == {"127.0.0.2"}
    finally:
        for server in (stable, canary, dns):
            server.close()


@pytest.mark.parametrize("percent", [0, 100])
def test_a_share_is_between_nothing_and_everything(tmp_path: Path, percent: int) -> None:
    port = GatewayPort(Address("127.0.0.1", 8500), [Address(UPSTREAM, 8500)], [Address(CANARY, 8500)])
    with pytest.raises(ConfigurationError, match="of a hundred connections"):
        render_nginx(
            nginx=Nginx(Path("nginx"), (1, 29), None),
            grpc=port,
            rest=None,
            server_name=SERVER_NAME,
            runtime_dir=tmp_path,
            user=None,
            canary_percent=percent,
            resolver=Address("dns.example", 53),
        )


@pytest.mark.parametrize("name", ["a; include /etc/passwd", "", "a b.example"])
def test_a_name_that_could_leave_its_place_is_refused(tmp_path: Path, name: str) -> None:
    nginx, fine = Nginx(Path("nginx"), (1, 29), None), Address("dns.example", 53)
    gateway = Address("127.0.0.1", 8500)
    with pytest.raises(ConfigurationError):
        _render(nginx, tmp_path, gateway, Address(name, 8500), fine)
    with pytest.raises(ConfigurationError):
        _render(nginx, tmp_path, gateway, Address(UPSTREAM, 8500), Address(name, 53))
