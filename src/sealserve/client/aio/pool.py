"""Connections whose replica was checked, and when, for asyncio: the rule of :mod:`sealserve.client.pool`.

A connection leaves :meth:`AsyncPool.borrow` only if the key that its TLS session was made with has evidence that is
fresh and accepted by the policy of this moment.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from sealserve.client.aio.attestation import ask_and_judge
from sealserve.client.aio.connection import AsyncConnection, bounded, connect
from sealserve.client.attestation import CONNECT_SECONDS, VerifiedReplica, check_answer
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

    connection: AsyncConnection
    replica: VerifiedReplica | None

    @property
    def verified(self) -> VerifiedReplica:
        """:raises InputError: no policy asked for evidence."""
        if self.replica is None:
            raise InputError("this client asks for no evidence")
        return self.replica


class AsyncPool:
    """Connections to one target; parameters as :class:`sealserve.client.pool.VerifiedPool`."""

    def __init__(
        self, endpoint: Endpoint, policy: AppraisalPolicy | None, judgements: Judgements, *, max_connections: int
    ) -> None:
        self.policy = policy
        self.reached = False
        self._endpoint = endpoint
        self._judgements = judgements
        self._slots = asyncio.Semaphore(max_connections)
        self._idle: list[AsyncConnection] = []
        self._generation = 0
        self._closed = False

    @property
    def protocol(self) -> Grpc | Rest:
        """What the target speaks."""
        return self._endpoint.protocol

    @property
    def lists_models(self) -> bool:
        """Whether the policy has a list that answers must be on."""
        return self.policy is not None and bool(self.policy.models)

    @contextlib.asynccontextmanager
    async def borrow(self, deadline: Deadline) -> AsyncIterator[Borrowed]:
        """A checked connection; given back afterwards if it can be used again.

        :raises TrustError: the replica that answers is not accepted. Its connection is closed; nothing was sent.
        :raises UnavailableError: no replica can be reached in time.
        """
        async with bounded(deadline, "waiting for a free connection"):
            await self._slots.acquire()
        generation, connection, refused = self._generation, None, False
        try:
            connection = self._take_idle() or await connect(self._endpoint, deadline.within(CONNECT_SECONDS))
            yield Borrowed(connection, await self._checked(connection, deadline))
        except TrustError:
            refused = True
            raise
        finally:
            if connection is not None:
                self.reached = self.reached or connection.heard
                # A call that was broken off has closed its connection.
                if connection.reusable and not refused and not self._closed and generation == self._generation:
                    self._idle.append(connection)
                else:
                    connection.close()
            self._slots.release()

    async def check_answer(self, borrowed: Borrowed, model: str, version: int, deadline: Deadline) -> None:
        """As :meth:`sealserve.client.pool.VerifiedPool.check_answer`."""
        policy, replica = self.policy, borrowed.replica
        if policy is None or replica is None:
            return
        try:
            check_answer(replica, policy, model, version)
        except ModelChangedError:
            self._judgements.forget(replica.spki_digest, borrowed.connection)
            borrowed.replica = replica = await self._judge(borrowed.connection, policy, deadline)
            check_answer(replica, policy, model, version)

    def doubt(self, borrowed: Borrowed) -> None:
        """The replica answered with an error, which names no model. Where the policy lists models, ask for evidence
        before the next request, unless that was done a moment ago.
        """
        if self.lists_models and borrowed.replica is not None:
            self._judgements.doubt(borrowed.replica.spki_digest, borrowed.connection)

    def drop_connections(self, *, for_good: bool = False) -> None:
        """As :meth:`sealserve.client.pool.VerifiedPool.drop_connections`."""
        self._generation += 1
        self._closed = self._closed or for_good
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take_idle(self) -> AsyncConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
            connection.close()
        return None

    async def _checked(self, connection: AsyncConnection, deadline: Deadline) -> VerifiedReplica | None:
        policy = self.policy
        if policy is None:
            return None
        return self._judgements.find(connection.peer.key, policy, connection) or await self._judge(
            connection, policy, deadline
        )

    async def _judge(self, connection: AsyncConnection, policy: AppraisalPolicy, deadline: Deadline) -> VerifiedReplica:
        pauses, changing = pauses_of_a_change(deadline), None
        while True:
            asked_at = self._judgements.now()
            try:
                replica = await ask_and_judge(connection, policy, deadline)
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
                await asyncio.sleep(pause)
            else:
                self._judgements.accept(replica, policy, asked_at, connection)
                return replica
