"""Peers of a broker that are slow or silent, at each point where one can be."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from itertools import cycle

from broker_parties import Place

from sealserve.broker.messages import ALPN, MAX_HELLO, read_frame
from sealserve.ratls import TlsIdentity
from sealserve.ratls.contexts import SignedByAuthority, client_context
from sealserve.ratls.stream import TlsStream, connect

HELLO_BEGINS = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


@contextlib.asynccontextmanager
async def crowd(port: int, count: int, *, sources: Sequence[str] = ("127.0.0.1",)) -> AsyncIterator[None]:
    """Connections that say nothing, that begin a handshake and stop, and that send a byte now and then."""
    writers: list[asyncio.StreamWriter] = []
    kinds = cycle(("silent", "begins", "drips"))
    dripping: list[asyncio.StreamWriter] = []
    for source, _ in zip(cycle(sources), range(count), strict=False):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
            writers.append(writer)
            kind = next(kinds)
            if kind == "begins":
                writer.write(HELLO_BEGINS)
            elif kind == "drips":
                dripping.append(writer)
    drip = asyncio.create_task(_drip(dripping))
    try:
        yield
    finally:
        drip.cancel()
        for writer in writers:
            writer.transport.abort()


async def _drip(writers: list[asyncio.StreamWriter]) -> None:
    for byte in HELLO_BEGINS:
        for writer in writers:
            if not writer.is_closing():
                writer.write(bytes([byte]))
        await asyncio.sleep(0.3)


@contextlib.asynccontextmanager
async def idlers(place: Place, port: int, identity: TlsIdentity, count: int) -> AsyncIterator[list[TlsStream]]:
    """Enclaves that shake hands, take the nonce, and fall silent."""
    context = client_context(SignedByAuthority(place.authority.pem), identity=identity, alpn=[ALPN])
    streams = []
    try:
        for _ in range(count):
            stream = await connect("localhost", port, context=context)
            streams.append(stream)
            await read_frame(stream, MAX_HELLO)
        yield streams
    finally:
        for stream in streams:
            stream.abort()


def more_files(count: int) -> bool:
    """Let this process open so many files; false if it must not."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    return count <= hard


LOCAL_SOURCES = tuple(f"127.0.0.{number}" for number in range(2, 12)) if hasattr(socket, "AF_INET") else ()
