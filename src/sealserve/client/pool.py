"""Connections whose replica was checked, and when.

The rule of the room stands here (and, for asyncio, in :mod:`sealserve.client.aio.pool`): a connection leaves
:meth:`VerifiedPool.borrow` only if the key that its TLS session was made with has evidence that is fresh and accepted
by the policy of this moment. Evidence is asked for on the connection itself, so a balancer cannot send the question to
one replica and the input to another.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from sealserve.client.attestation import VerifiedReplica, check_answer, judge, open_connection, request_evidence
from sealserve.client.connection import Connection
from sealserve.client.deadline import Deadline
from sealserve.client.endpoint import Endpoint
from sealserve.client.errors import DeadlinePassedError, ModelChangedError, ModelChangingError
from sealserve.client.judgements import Judgements, pauses_of_a_change
from sealserve.client.protocols import Grpc, Rest
from sealserve.errors import InputError, TrustError
from sealserve.evidence import AppraisalPolicy


@dataclass
class Borrowed:
    """A connection for one call, and the replica at its other end; None only where no policy asks for evidence."""

    connection: Connection
    replica: VerifiedReplica | None

    @property
    def verified(self) -> VerifiedReplica:
        """:raises InputError: no policy asked for evidence."""
        if self.replica is None:
            raise InputError("this client asks for no evidence")
        return self.replica


class VerifiedPool:
    """Connections to one target, for any number of threads.

    :param policy: None asks for no evidence: the server's certificate is all that is checked.
    :param max_connections: open at the same time; callers beyond that wait.
    """

    def __init__(
        self, endpoint: Endpoint, policy: AppraisalPolicy | None, judgements: Judgements, *, max_connections: int
    ) -> None:
        self.policy = policy
        self._endpoint = endpoint
        self._judgements = judgements
        self._changed = threading.Condition()
        self._idle: list[Connection] = []
        self._slots = max_connections
        self._reached = False
        self._generation = 0
        self._closed = False

    @property
    def protocol(self) -> Grpc | Rest:
        """What the target speaks."""
        return self._endpoint.protocol

    @property
    def reached(self) -> bool:
        """Whether the target ever said something. A TLS session says little: servers may want a certificate yet."""
        return self._reached

    @property
    def lists_models(self) -> bool:
        """Whether the policy has a list that answers must be on."""
        return self.policy is not None and bool(self.policy.models)

    @contextlib.contextmanager
    def borrow(self, deadline: Deadline) -> Iterator[Borrowed]:
        """A checked connection; given back afterwards if it can be used again.

        :raises TrustError: the replica that answers is not accepted. Its connection is closed; nothing was sent.
        :raises UnavailableError: no replica can be reached in time.
        """
        connection, generation = self._take_idle(deadline)
        try:
            if connection is None:
                connection = open_connection(self._endpoint, deadline)
            yield Borrowed(connection, self._checked(connection, deadline))
        except TrustError:
            if connection is not None:
                connection.close()
            raise
        finally:
            self._reached = self._reached or (connection is not None and connection.heard)
            self._give_back(connection, generation)

    def doubt(self, borrowed: Borrowed) -> None:
        """The replica answered with an error, which names no model. Where the policy lists models, ask for evidence
        before the next request, unless that was done a moment ago.
        """
        if self.lists_models and borrowed.replica is not None:
            self._judgements.doubt(borrowed.replica.spki_digest, borrowed.connection)

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

    def check_answer(self, borrowed: Borrowed, model: str, version: int, deadline: Deadline) -> None:
        """Make sure that what answered is what the evidence names; asks again, on the same connection, if it is not.

        :raises TrustError: the new evidence is not accepted, or does not name it either.
        """
        policy, replica = self.policy, borrowed.replica
        if policy is None or replica is None:
            return
        try:
            check_answer(replica, policy, model, version)
        except ModelChangedError:
            self._judgements.forget(replica.spki_digest, borrowed.connection)
            borrowed.replica = replica = self._judge(borrowed.connection, policy, deadline)
            check_answer(replica, policy, model, version)

    def _checked(self, connection: Connection, deadline: Deadline) -> VerifiedReplica | None:
        policy = self.policy
        if policy is None:
            return None
        return self._judgements.find(connection.peer.key, policy, connection) or self._judge(
            connection, policy, deadline
        )

    def _judge(self, connection: Connection, policy: AppraisalPolicy, deadline: Deadline) -> VerifiedReplica:
        pauses, changing = pauses_of_a_change(deadline), None
        while True:
            asked_at = self._judgements.now()
            try:
                replica = judge(request_evidence(connection, deadline), policy)
            except DeadlinePassedError:
                if changing is None:
                    raise
                raise changing from None
            except TrustError as error:
                changing = error if isinstance(error, ModelChangingError) else None
                pause = next(pauses, None) if changing else None
                if pause is None:
                    self._judgements.refuse(connection.peer.key, error, asked_at, connection)
                    raise
                time.sleep(pause)
            else:
                self._judgements.accept(replica, policy, asked_at, connection)
                return replica

    def _take_idle(self, deadline: Deadline) -> tuple[Connection | None, int]:
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

    def _give_back(self, connection: Connection | None, generation: int) -> None:
        usable = connection is not None and connection.reusable
        with self._changed:
            self._slots += 1
            usable = usable and not self._closed and generation == self._generation
            if connection is not None and usable:
                self._idle.append(connection)
            self._changed.notify()
        if connection is not None and not usable:
            connection.close()
