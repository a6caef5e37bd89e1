"""The connections of a server: how many there may be, of whom, and which goes when there are too many.

Anybody can open connections and be silent. So a new connection is not refused while there is one that waits for its
peer: of the peer that has the most, the one that got least far goes, and of those the oldest. What an honest enclave
has to say is said within milliseconds, so that it is never that one for long, and whom we work for is not waiting. A
connection has a second at least, so that many that start together do not drive each other out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sealserve.ratls.tcp import TcpConnection, peer_group

PATIENCE = 1.0
"""Seconds that a connection has at least."""


@dataclass(frozen=True)
class ConnectionLimits:
    """How many connections, and how long a handshake may take.

    :param connections: of all peers together. :param per_peer: of one IPv4 address, or one IPv6 network of 64 bits.
    :param handshake_seconds: while there is room; less and less, down to a tenth, from half of the connections on.
    """

    connections: int = 3000
    per_peer: int = 2000
    handshake_seconds: float = 10.0


@dataclass(eq=False)
class Member:
    """A connection that is open.

    :ivar shaken: whether its handshake is over.
    """

    tcp: TcpConnection
    group: str
    since: float
    shaken: bool = False
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def progress(self) -> int:
        """How far it got: nothing said, something said, or the handshake done."""
        return 2 if self.shaken else int(self.tcp.spoke)


class Crowd:
    """All open connections. For one event loop.

    :param clock: seconds, monotonic.
    """

    def __init__(self, limits: ConnectionLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self._clock = clock
        self._groups: dict[str, dict[Member, None]] = {}  # members in the order in which they came
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def members(self) -> list[Member]:
        """All of them."""
        return [member for group in self._groups.values() for member in group]

    @property
    def handshake_seconds(self) -> float:
        """How long a handshake that begins now may take."""
        free = 1 - self._size / self.limits.connections
        return self.limits.handshake_seconds * min(1.0, max(0.1, 2 * free))

    def enter(self, tcp: TcpConnection) -> tuple[Member | None, Member | None]:
        """Let a connection in.

        :returns: it as a member, none if there is no room; and the one that must leave for it, none if nobody must.
        """
        host = tcp.peer[0] if tcp.peer is not None else ""
        group = peer_group(host)
        leaving = None
        if len(self._groups.get(group, ())) >= self.limits.per_peer:
            leaving = self._idlest(self._groups[group])
            if leaving is None:
                return None, None
        elif self._size >= self.limits.connections:
            leaving = self._one_too_many()
            if leaving is None:
                return None, None
        if leaving is not None:
            self.leave(leaving)
        member = Member(tcp, group, self._clock())
        self._groups.setdefault(group, {})[member] = None
        self._size += 1
        return member, leaving

    def leave(self, member: Member) -> None:
        """It is closed."""
        group = self._groups.get(member.group, {})
        if member in group:
            del group[member]
            self._size -= 1
            if not group:
                del self._groups[member.group]

    def _one_too_many(self) -> Member | None:
        largest = max(self._groups.values(), key=len)
        return self._idlest(largest) or self._idlest(sorted(self.members, key=lambda member: member.since))

    def _idlest(self, members: Iterable[Member]) -> Member | None:
        """:param members: the oldest first."""
        limit = self._clock() - PATIENCE
        found: Member | None = None
        for member in members:
            if member.since > limit:
                break  # those that follow are younger
            if member.tcp.waits and (found is None or member.progress < found.progress):
                found = member
                if found.progress == 0:
                    break
        return found
