"""The tap forwards what passes, unchanged, and keeps a copy."""

from __future__ import annotations

import asyncio
import os

from sealserve.demo.tap import Tap


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write((await reader.read()).upper())
    writer.close()


def test_both_directions_are_forwarded_and_kept() -> None:
    async def run() -> None:
        server = await asyncio.start_server(shout, "127.0.0.1", 0)
        async with server, Tap("127.0.0.1", server.sockets[0].getsockname()[1]) as tap:
            for _ in range(2):
                reader, writer = await asyncio.open_connection(*tap.address.split(":"))
                writer.write(b"hello")
                writer.write_eof()
                assert await reader.read() == b"HELLO"
                writer.close()
            assert tap.connections == 2
            assert tap.sent == b"hellohello"
            assert tap.received == b"HELLOHELLO"

    asyncio.run(run())


def test_a_large_stream_arrives_whole() -> None:
    data = os.urandom(3_000_000).replace(b"a", b"A")

    async def run() -> None:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.read())
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server, Tap("127.0.0.1", server.sockets[0].getsockname()[1]) as tap:
            reader, writer = await asyncio.open_connection(*tap.address.split(":"))
            writer.write(data)
            writer.write_eof()
            assert await reader.read() == data
            writer.close()
            assert bytes(tap.sent) == bytes(tap.received) == data

    asyncio.run(run())


def test_a_target_that_is_down_closes_the_connection() -> None:
    async def run() -> None:
        async with Tap("127.0.0.1", 1) as tap:
            reader, writer = await asyncio.open_connection(*tap.address.split(":"))
            assert await reader.read() == b""
            writer.close()

    asyncio.run(run())
