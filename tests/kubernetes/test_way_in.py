"""Whether clients come through the edge, tried before it is said where they connect."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sealserve.kubernetes.live import way_in
from sealserve.kubernetes.live.way_in import WayIn, find_way
from sealserve.local.certificates import ensure_authority, ensure_server_certificate

NAME = "replica.sealserve.internal"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(way_in, "_PAUSE", 0.01)


@contextmanager
def _edge(directory: Path, *, resets: int) -> Iterator[tuple[str, list[str | None]]]:
    """A TLS server that resets its first connections; gives its address, and the names that it was asked for."""
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    ensure_authority(directory / "ca-key.pem", directory / "ca.pem", name="here")
    ensure_server_certificate(
        key, certificate, authority_key=directory / "ca-key.pem", authority=directory / "ca.pem", hosts=[NAME]
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    names: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        left = resets
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            with connection:
                if left > 0:
                    left -= 1
                    continue
                with context.wrap_socket(connection, server_side=True) as secured:
                    secured.recv(1)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}", names
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_an_edge_that_does_not_know_its_replicas_yet_is_tried_again(tmp_path: Path) -> None:
    with _edge(tmp_path, resets=3) as (address, names):
        assert find_way([address], NAME) == WayIn(address, tried=True)
    assert set(names) == {NAME}
    assert len(names) == way_in._IN_A_ROW


def test_an_edge_that_leads_nowhere_is_given_up_with_the_reason(tmp_path: Path) -> None:
    with _edge(tmp_path, resets=1000) as (address, _):
        found = find_way([address], NAME, patience=0.05)
    assert (found.address, found.tried) == (None, True)
    assert address in str(found.reason)


def test_the_address_that_works_is_found_among_those_that_do_not(tmp_path: Path) -> None:
    with _edge(tmp_path, resets=0) as (address, _):
        assert find_way(["nowhere.invalid:8500", address], NAME).address == address


@pytest.mark.parametrize("addresses", [[], ["photos.photos.svc:8500"], ["NODE:30500"], ["nowhere.invalid:8500"]])
def test_what_this_machine_cannot_reach_is_not_tried(addresses: list[str]) -> None:
    found = find_way(addresses, NAME)
    assert (found.address, found.tried) == (None, False)
    assert found.reason
