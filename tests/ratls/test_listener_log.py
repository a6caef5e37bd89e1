"""What strangers can write into the log of a TLS server is bounded."""

from __future__ import annotations

import asyncio
import logging

import pytest

from sealserve.addresses import Address
from sealserve.allowance import BURST, Allowance
from sealserve.ratls.listener import serve
from sealserve.ratls.stream import TlsStream


def test_many_failed_handshakes_are_a_bounded_number_of_lines(caplog: pytest.LogCaptureFixture) -> None:
    from OpenSSL import SSL

    async def nobody(_: TlsStream) -> None:
        raise AssertionError

    async def body() -> None:
        server = await serve(Address("127.0.0.1", 0), SSL.Context(SSL.TLS_SERVER_METHOD), nobody)
        for _ in range(BURST + 30):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.address.port)
            writer.write(b"no TLS at all\n")
            await reader.read()
            writer.close()
        assert server.handshakes["failed"] == BURST + 30
        await server.close()

    with caplog.at_level(logging.INFO):
        asyncio.run(body())
    lines = [record for record in caplog.records if record.message == "connection-failed"]
    assert BURST <= len(lines) < BURST + 20  # one more for each ten seconds that this takes


def test_an_allowance_comes_back_with_time() -> None:
    now = 0.0
    allowance = Allowance(lambda: now)
    assert sum(allowance.take() for _ in range(500)) == BURST
    now = 25.0
    assert sum(allowance.take() for _ in range(500)) == 2
