"""Many replicas at once, beside many peers that are slow, silent or hostile."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from broker_parties import Place, ask, in_loop, running
from crowds import LOCAL_SOURCES, crowd, idlers, more_files
from test_broker_process import broker_process

from sealserve.broker.client import Grant, request_grant
from sealserve.ratls import TlsIdentity

MEGABYTE = 1_000_000


async def storm(place: Place, port: int, identity: TlsIdentity, count: int) -> list[Grant]:
    """So many replicas ask at the same moment, each once: who is refused for load raises."""
    return await asyncio.gather(
        *(
            request_grant(
                [f"localhost:{port}"],
                ca_pem=place.authority.pem,
                identity=identity,
                attester=place.attester(),
                deployment="digits",
                timeout=60,
            )
            for _ in range(count)
        )
    )


def failures(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [str(record.fields["reason"]) for record in caplog.records if record.msg == "broker-failed"]  # type: ignore[attr-defined]


def test_a_storm_is_served_beside_slow_and_silent_peers(
    place: Place, identity: TlsIdentity, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        place.document["limits"] = {"connections": 250, "connections_per_peer": 250}
        async with running(place) as broker, crowd(broker.address.port, 80):
            grants = await storm(place, broker.address.port, identity, 60)
            assert len({grant.decision for grant in grants}) == 60
            assert failures(caplog) == []

    caplog.set_level(logging.WARNING)
    in_loop(body)


@pytest.mark.parametrize("sources", [("127.0.0.1",), LOCAL_SOURCES], ids=["of one address", "of ten addresses"])
def test_more_silent_peers_than_there_is_room_for_shut_nobody_out(
    place: Place, identity: TlsIdentity, sources: tuple[str, ...]
) -> None:
    async def body() -> None:
        place.document["limits"] = {"connections": 100, "connections_per_peer": 100}
        async with running(place) as broker, crowd(broker.address.port, 120, sources=sources):
            await asyncio.sleep(1.1)
            for _ in range(10):
                assert (await ask(place, broker, identity)).model.name == "digits"
            outcomes = broker.counts().handshakes
            assert outcomes["evicted"] + outcomes["timed-out"] >= 1

    in_loop(body)


def test_enclaves_that_fall_silent_after_the_handshake_make_room_too(place: Place, identity: TlsIdentity) -> None:
    async def body() -> None:
        place.document["limits"] = {"connections": 30, "step_seconds": 60}
        async with running(place) as broker, idlers(place, broker.address.port, identity, 30):
            await asyncio.sleep(1.1)
            for _ in range(3):
                assert (await ask(place, broker, identity)).model.name == "digits"

    in_loop(body)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("sources", [("127.0.0.1",), LOCAL_SOURCES], ids=["of one address", "of ten addresses"])
def test_a_long_storm_in_a_process_of_its_own(
    place: Place, identity: TlsIdentity, tmp_path: Path, caplog: pytest.LogCaptureFixture, sources: tuple[str, ...]
) -> None:
    assert more_files(4096)

    async def body(port: int) -> None:
        async with crowd(port, 500, sources=sources):
            grants = await storm(place, port, identity, 400)
            assert len({grant.decision for grant in grants}) == 400
        async with crowd(port, 2000, sources=sources):
            await asyncio.sleep(1.1)
            grants = await storm(place, port, identity, 50)
            assert len({grant.decision for grant in grants}) == 50

    caplog.set_level(logging.WARNING)
    directory = tmp_path / "process"
    directory.mkdir()
    with broker_process(place, directory) as process:
        # Somebody must read its log: a pipe that is full stops whoever writes to it.
        reader = threading.Thread(target=process.popen.stderr.read)  # type: ignore[union-attr]
        reader.start()
        asyncio.run(body(process.port))
        status: dict[str, Any] = dict(
            line.split(":", 1) for line in Path(f"/proc/{process.popen.pid}/status").read_text().splitlines()
        )
        process.popen.terminate()
        process.popen.wait(30)
        reader.join()
    assert failures(caplog) == []
    assert int(status["VmHWM"].split()[0]) * 1024 < 300 * MEGABYTE
