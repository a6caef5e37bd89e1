"""A tap on the wire: forwards TCP connections and keeps what passes, as somebody who owns the network could."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

_CHUNK = 1 << 16


@dataclass
class Tap:
    """Listens on an ephemeral loopback port and forwards to ``host``:``port``.

    ``sent`` holds what clients sent towards the target, ``received`` what came back, in the order of arrival.
    """

    host: str
    port: int
    sent: bytearray = field(default_factory=bytearray)
    received: bytearray = field(default_factory=bytearray)
    connections: int = 0
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def address(self) -> str:
        """``127.0.0.1:PORT`` of the tap itself."""
        if self._server is None:
            raise RuntimeError("the tap is not open")
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.closing(writer):
            try:
                upstream_reader, upstream_writer = await asyncio.open_connection(self.host, self.port)
            except OSError:
                return
            with contextlib.closing(upstream_writer), contextlib.suppress(OSError):
                await asyncio.gather(
                    _forward(reader, upstream_writer, self.sent), _forward(upstream_reader, writer, self.received)
                )


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, record: bytearray) -> None:
    while chunk := await reader.read(_CHUNK):
        record += chunk
        writer.write(chunk)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
