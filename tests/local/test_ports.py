from __future__ import annotations

import os
import socket

import pytest

from sealserve.addresses import Address
from sealserve.errors import MachineError
from sealserve.local.ports import ReservedPort, find_listener, require_free


def test_a_taken_port_is_reported_with_the_setting_and_the_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(MachineError) as caught:
            require_free(address, setting="gateway.listen")
    message = str(caught.value)
    assert f"port {address.port} (gateway.listen: {address}) is in use by" in message
    assert f"(process {os.getpid()})" in message
    assert "gateway.listen" in str(caught.value.hint)


def test_a_free_port_is_left_free() -> None:
    address = require_free(Address("127.0.0.1", 0), setting="x")
    assert require_free(address, setting="x") == address
    with socket.create_server((address.host, address.port)):
        assert find_listener(address) is not None


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(MachineError, match=r"cannot listen on 192\.0\.2\.1:8500"):
        require_free(Address("192.0.2.1", 8500), setting="x")
    with pytest.raises(MachineError, match=r"cannot listen on 192\.0\.2\.1"):
        require_free(Address("192.0.2.1", 0), setting="x")


def test_a_reserved_port_is_closed_to_others_but_open_to_a_server_that_shares() -> None:
    reserved = ReservedPort()
    endpoint = (reserved.address.host, reserved.address.port)
    try:
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(endpoint)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(endpoint)
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            server.bind(endpoint)
            server.listen()
            for _ in range(8):
                with socket.create_connection(endpoint):
                    server.accept()[0].close()
    finally:
        reserved.close()
