"""Connections whose replica was checked, and when.

The rule of the room stands here: a connection leaves :meth:`VerifiedPool.borrow` only if the key that its TLS session
was made with has evidence that is fresh and accepted by the policy of this moment. Evidence is asked for on the
connection itself, so a balancer cannot send the question to one replica and the input to another.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sealserve.addresses import Address
from sealserve.client.attestation import VerifiedReplica, judge, open_connection, request_evidence
from sealserve.client.deadline import Deadline
from sealserve.client.grpc_connection import GrpcConnection
from sealserve.errors import TrustError
from sealserve.evidence import AppraisalPolicy
from sealserve.logs import event, get_logger

_log = get_logger(__name__)


def boot_time() -> float:
    """Seconds on a clock that nobody sets and that goes on while the machine sleeps, where there is one."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


@dataclass(frozen=True)
class _Judged:
    replica: VerifiedReplica
    policy: AppraisalPolicy
    asked_at: float  # before the nonce left, so that age is never understated


@dataclass(frozen=True)
class Borrowed:
    """A connection for one call, and the replica at its other end."""

    connection: GrpcConnection
    replica: VerifiedReplica


class VerifiedPool:
    """Connections to one target, for any number of threads.

    :param max_age: seconds after which evidence is asked for again. :param max_connections: open at the same time;
        callers beyond that wait. :param clock: monotonic seconds, by which evidence ages.
    """

    def __init__(
        self,
        target: Address,
        policy: AppraisalPolicy,
        *,
        server_name: str,
        max_age: float,
        max_connections: int,
        clock: Callable[[], float] = boot_time,
    ) -> None:
        self.target = target
        self.policy = policy
        self._server_name = server_name
        self._max_age = max_age
        self._clock = clock
        self._changed = threading.Condition()
        self._idle: list[GrpcConnection] = []
        self._slots = max_connections
        self._judged: dict[bytes, _Judged] = {}
        self._reached = False
        self._generation = 0
        self._closed = False

    @property
    def reached(self) -> bool:
        """Whether a connection to the target ever worked."""
        return self._reached

    @contextlib.contextmanager
    def borrow(self, deadline: Deadline) -> Iterator[Borrowed]:
        """A checked connection; given back afterwards if it can be used again.

        :raises TrustError: the replica that answers is not accepted. Its connection is closed; nothing was sent.
        :raises UnavailableError: no replica can be reached in time.
        """
        connection, generation = self._take_idle(deadline)
        try:
            if connection is None:
                connection = open_connection(self.target, server_name=self._server_name, deadline=deadline)
                self._reached = True
            yield Borrowed(connection, self._checked(connection, deadline))
        except TrustError:
            if connection is not None:
                connection.close()
            raise
        finally:
            self._give_back(connection, generation)

    def drop_connections(self, *, for_good: bool = False) -> None:
        """Close all connections, those in use when their calls end, so that later calls make new ones.

        :param for_good: also those that are made from now on, when their calls end.
        """
        with self._changed:
            self._generation += 1
            self._closed = self._closed or for_good
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _checked(self, connection: GrpcConnection, deadline: Deadline) -> VerifiedReplica:
        policy = self.policy
        key = connection.transport.peer_key
        known = self._judged.get(key)
        if known and known.policy is policy and 0 <= self._clock() - known.asked_at <= self._max_age:
            return known.replica
        self._judged.pop(key, None)
        asked_at = self._clock()
        try:
            replica = judge(request_evidence(connection, deadline), policy)
        except TrustError as error:
            event(_log, logging.WARNING, "replica-refused", target=str(self.target), reason=error.reason)
            raise
        event(_log, logging.INFO, "replica-verified", target=str(self.target), replica=replica.name)
        self._forget_old()
        self._judged[key] = _Judged(replica, policy, asked_at)
        return replica

    def _forget_old(self) -> None:
        now = self._clock()
        for key, judged in list(self._judged.items()):
            if now - judged.asked_at > self._max_age:
                self._judged.pop(key, None)

    def _take_idle(self, deadline: Deadline) -> tuple[GrpcConnection | None, int]:
        """An idle connection that is alive, or None: the caller may open one. Either way it holds a slot.

        With it comes the generation to give it back under.
        """
        with self._changed:
            while not self._slots:
                self._changed.wait(deadline.remaining("waiting for a free connection"))
            self._slots -= 1
            while self._idle:
                connection = self._idle.pop()
                if connection.alive():
                    return connection, self._generation
                connection.close()
            return None, self._generation

    def _give_back(self, connection: GrpcConnection | None, generation: int) -> None:
        usable = connection is not None and connection.reusable
        with self._changed:
            self._slots += 1
            usable = usable and not self._closed and generation == self._generation
            if connection is not None and usable:
                self._idle.append(connection)
            self._changed.notify()
        if connection is not None and not usable:
            connection.close()
