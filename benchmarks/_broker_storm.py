"""Replicas that start together beside slow or silent peers: `python -m benchmarks._broker_storm`, told what in JSON.

The replicas are the project's own client. One process is all of them, so what it takes is missing to the broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import resource
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from sealserve.broker.client import request_grant
from sealserve.evidence import SimulatedAttester
from sealserve.ratls import create_identity

from ._broker_place import ENCLAVE

HELLO_BEGINS = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


class Attempts(logging.Handler):
    """Counts the attempts that failed: cut off by the broker, and those that took longer than a client waits."""

    cut = late = 0

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg == "broker-failed":
            late = "no answer within" in record.fields["reason"]  # type: ignore[attr-defined]
            self.late += late
            self.cut += not late


@contextlib.asynccontextmanager
async def slow_peers(port: int, count: int) -> AsyncIterator[None]:
    """A third says nothing, a third begins a handshake, a third sends it byte by byte; who is cut off comes again."""

    async def one(number: int) -> None:
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    if number % 3 == 1:
                        writer.write(HELLO_BEGINS)
                    for byte in HELLO_BEGINS if number % 3 == 2 else b"":
                        if writer.is_closing():
                            break
                        writer.write(bytes([byte]))
                        await asyncio.sleep(0.5)
                    await reader.read()
                finally:
                    writer.transport.abort()
            await asyncio.sleep(0.1)

    peers = [asyncio.create_task(one(number)) for number in range(count)]
    await asyncio.sleep(1.5)
    try:
        yield
    finally:
        for peer in peers:
            peer.cancel()
        await asyncio.gather(*peers, return_exceptions=True)


async def storm(told: dict[str, Any]) -> dict[str, Any]:
    directory = Path(told["directory"])
    attester = SimulatedAttester(directory / "platform", ENCLAVE)
    identity = create_identity(attester)
    authority = (directory / "ca.pem").read_bytes()
    attempts = Attempts()
    logging.getLogger("sealserve.broker.client").addHandler(attempts)
    gate = asyncio.Semaphore(told["at_once"])

    async def replica() -> float:
        async with gate:
            began = time.perf_counter()
            await request_grant(
                [f"localhost:{told['port']}"],
                ca_pem=authority,
                identity=identity,
                attester=attester,
                deployment="digits",
                timeout=120,
            )
            return time.perf_counter() - began

    async with slow_peers(told["port"], told["slow"]):
        started = time.perf_counter()
        ended = await asyncio.gather(*(replica() for _ in range(told["replicas"])), return_exceptions=True)
        took = time.perf_counter() - started
    seconds = sorted(value for value in ended if isinstance(value, float))
    return {"served": len(seconds), "cut": attempts.cut, "late": attempts.late, "took": took, "seconds": seconds}


def main() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(json.dumps(asyncio.run(storm(json.loads(sys.argv[1])))))


if __name__ == "__main__":
    main()
