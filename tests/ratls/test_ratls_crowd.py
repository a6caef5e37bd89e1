"""Who is let in and who must leave, by a clock of our own; and over real connections."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

import pytest
from authorities import Authority
from test_ratls_stream import connecting, echo, in_loop, listening

from sealserve.ratls.crowd import ConnectionLimits, Crowd, Member
from sealserve.ratls.stream import TlsConnectionError
from sealserve.ratls.tcp import peer_group


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@dataclass
class Tcp:
    host: str
    waits: bool = True
    spoke: bool = False

    @property
    def peer(self) -> tuple[str, int]:
        return (self.host, 1)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def make(clock: Clock, **limits: Any) -> Crowd:
    return Crowd(ConnectionLimits(**limits), clock)


def enter(crowd: Crowd, host: str, *, waits: bool = True) -> tuple[Member | None, Member | None]:
    return crowd.enter(Tcp(host, waits))  # type: ignore[arg-type]


def filled(clock: Clock, *hosts: str, **limits: Any) -> tuple[Crowd, list[Member]]:
    crowd = make(clock, **{"connections": len(hosts), **limits})
    members = []
    for host in hosts:
        member, leaving = enter(crowd, host)
        assert member is not None
        assert leaving is None
        members.append(member)
        clock.now += 0.001
    return crowd, members


@pytest.mark.parametrize(
    ("host", "group"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("no address", "no address"),
    ],
)
def test_a_peer_is_an_address_or_a_network_of_ipv6(host: str, group: str) -> None:
    assert peer_group(host) == group


def test_the_oldest_silent_one_of_the_peer_with_the_most_leaves() -> None:
    clock = Clock()
    crowd, members = filled(clock, "192.0.2.1", "192.0.2.66", "192.0.2.66", "192.0.2.66")
    clock.now += 1
    member, leaving = enter(crowd, "192.0.2.2")
    assert member is not None
    assert leaving is members[1]
    assert len(crowd) == 4


def test_whoever_is_worked_for_stays() -> None:
    clock = Clock()
    crowd, members = filled(clock, "192.0.2.66", "192.0.2.66", "192.0.2.1")
    clock.now += 1
    members[0].tcp.waits = False  # type: ignore[misc]
    assert enter(crowd, "192.0.2.2")[1] is members[1]


def test_when_the_crowded_peer_is_worked_for_the_oldest_of_all_leaves() -> None:
    clock = Clock()
    crowd, members = filled(clock, "192.0.2.1", "192.0.2.66", "192.0.2.66")
    clock.now += 1
    for member in members[1:]:
        member.tcp.waits = False  # type: ignore[misc]
    assert enter(crowd, "192.0.2.2")[1] is members[0]


def test_whoever_got_further_stays_longer() -> None:
    clock = Clock()
    crowd, members = filled(clock, *["192.0.2.66"] * 4)
    clock.now += 1
    members[0].shaken = True
    members[1].tcp.spoke = True
    left = []
    for number in range(4):
        _, leaving = enter(crowd, f"192.0.2.{number}")
        left.append(leaving)
    assert left == [members[2], members[3], members[1], members[0]]


def test_the_young_are_not_driven_out() -> None:
    clock = Clock()
    crowd, _ = filled(clock, "192.0.2.1", "192.0.2.2")
    assert enter(crowd, "192.0.2.3") == (None, None)
    clock.now += 1
    assert enter(crowd, "192.0.2.3")[0] is not None


def test_one_peer_has_a_limit_of_its_own_and_drives_out_itself() -> None:
    clock = Clock()
    crowd, members = filled(clock, "2001:db8::1", "2001:db8::2", "192.0.2.1", connections=100, per_peer=2)
    assert enter(crowd, "2001:db8::3") == (None, None)
    assert enter(crowd, "192.0.2.1")[0] is not None
    clock.now += 1
    member, leaving = enter(crowd, "2001:db8::3")
    assert member is not None
    assert leaving is members[0]


def test_there_is_room_again_when_somebody_left() -> None:
    clock = Clock()
    crowd, members = filled(clock, "192.0.2.1", "192.0.2.2")
    crowd.leave(members[0])
    crowd.leave(members[0])
    assert len(crowd) == 1
    assert enter(crowd, "192.0.2.3")[0] is not None
    assert enter(crowd, "192.0.2.4") == (None, None)


def test_handshakes_get_less_time_from_half_of_the_connections_on() -> None:
    clock = Clock()
    crowd = make(clock, connections=10, handshake_seconds=10.0)
    seconds = []
    for number in range(10):
        seconds.append(crowd.handshake_seconds)
        enter(crowd, f"192.0.2.{number}")
    assert seconds == pytest.approx([10, 10, 10, 10, 10, 10, 8, 6, 4, 2])
    assert crowd.handshake_seconds == pytest.approx(1)


def test_silent_connections_of_one_stranger_make_room_for_others(authority: Authority) -> None:
    async def body() -> None:
        async with listening(authority, echo, handshake_timeout=60, max_connections=50) as server:
            host, port = server.address.host, server.address.port
            idle = [await asyncio.open_connection(host, port) for _ in range(50)]
            finished = await connecting_or_none(server, authority)
            assert finished is None  # within their first second nobody must leave
            await asyncio.sleep(1.1)
            streams = [await connecting(server, authority) for _ in range(5)]
            for stream in streams:
                await stream.write(b"hello")
                assert await stream.read_exactly(5) == b"hello"
            assert server.handshakes["evicted"] == 5
            assert server.handshakes["dropped"] == 1
            gone = [await ended(reader) for reader, _ in idle[:5]]
            assert gone == [True] * 5
            for stream in streams:
                await stream.close()
            for _, writer in idle:
                writer.close()

    in_loop(body)


async def connecting_or_none(server: Any, authority: Authority) -> Any:
    with contextlib.suppress(TlsConnectionError):
        return await connecting(server, authority)
    return None


async def ended(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(5):
            return await reader.read() == b""
    except ConnectionResetError:
        return True
