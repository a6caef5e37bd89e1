"""The clients for asyncio; what they promise says :mod:`sealserve.client.client`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar

from numpy.typing import ArrayLike

from sealserve.client.aio.pool import AsyncPool, Borrowed
from sealserve.client.attestation import VerifiedReplica
from sealserve.client.calls import Answer, calls_of
from sealserve.client.client import require_protocol
from sealserve.client.deadline import Deadline
from sealserve.client.endpoint import Endpoint
from sealserve.client.headers import Metadata
from sealserve.client.judgements import Judgements, boot_time
from sealserve.client.messages import Prediction, answering_models, is_inference
from sealserve.client.metadata import ModelMetadata
from sealserve.client.protocols import GRPC, REST, Exchange, Grpc, Rest, UnaryCall
from sealserve.client.receipts import ReceiptWish, with_wish
from sealserve.client.reply import Reply
from sealserve.client.rest.reply import RestReply
from sealserve.client.rest.request import Headers, RestRequest
from sealserve.client.retries import RETRIED, Retries
from sealserve.client.settings import DEFAULT_SIGNATURE, DEFAULT_TIMEOUT, Limits, require_policy
from sealserve.client.tls import OwnerCertificates
from sealserve.errors import InputError
from sealserve.evidence import AppraisalPolicy

_Result = TypeVar("_Result")
_LONG_TO_HASH = 1 << 20  # bytes: half a millisecond, in which the loop would stand still


class AsyncCaller:
    """What clients with and without evidence have in common."""

    def __init__(self, pool: AsyncPool, limits: Limits) -> None:
        self._pool = pool
        self._max_reply = limits.max_reply_bytes
        self._calls = calls_of(pool.protocol, limits.max_reply_bytes)
        self._closed = False

    async def predict(
        self,
        inputs: Mapping[str, ArrayLike],
        *,
        model: str,
        signature: str = DEFAULT_SIGNATURE,
        version: int | None = None,
        outputs: Iterable[str] = (),
        receipt: bool = False,
        compress: bool = False,
        timeout: float = DEFAULT_TIMEOUT,  # noqa: ASYNC109 - the same surface as without asyncio
    ) -> Prediction:
        """Run a model; see :meth:`sealserve.client.Client.predict`."""
        started = time.monotonic()
        deadline = Deadline(timeout)
        request = self._calls.predict(
            inputs, model=model, signature=signature, version=version, outputs=outputs, compress=compress
        )
        request, wish = with_wish(request, self._pool.policy) if receipt else (request, None)

        async def read(reply: Any, borrowed: Borrowed) -> Answer:
            answer = self._calls.prediction(reply)
            await self._pool.check_answer(borrowed, answer.model, answer.version, deadline)
            if wish is not None:
                wish.check(reply, borrowed.verified, self._pool.policy, answered=((answer.model, answer.version),))
            return answer

        answer, replica = await self._call(request, deadline, read, wish=wish)
        checked = wish.receipt if wish else None
        return Prediction(answer.outputs(), answer.version, replica, time.monotonic() - started, checked)

    async def metadata(
        self,
        model: str,
        *,
        version: int | None = None,
        timeout: float = DEFAULT_TIMEOUT,  # noqa: ASYNC109
    ) -> ModelMetadata:
        """The signatures of a model; errors as :meth:`predict`."""

        async def read(reply: Any, _: Borrowed) -> ModelMetadata:
            return self._calls.signatures(reply)

        return (await self._call(self._calls.metadata(model, version), Deadline(timeout), read))[0]

    async def call(
        self,
        method: str,
        message: bytes,
        *,
        metadata: Metadata = (),
        receipt: bool = False,
        timeout: float = DEFAULT_TIMEOUT,  # noqa: ASYNC109
    ) -> Reply:
        """Call any unary method; see :meth:`sealserve.client.Client.call`."""
        require_protocol(self._pool.protocol, GRPC)
        deadline = Deadline(timeout)

        async def read(reply: Reply, borrowed: Borrowed) -> Reply:
            answered = answering_models(method, reply) if self._pool.lists_models or wish else ()
            for name, version in answered if self._pool.lists_models else ():
                await self._pool.check_answer(borrowed, name, version, deadline)
            if wish is not None and not reply.status:
                receipt = wish.check(reply, borrowed.verified, self._pool.policy, answered=answered)
                return replace(reply, receipt=receipt)
            return reply

        call = UnaryCall(method, [message], self._max_reply, metadata)
        request, wish = with_wish(call, self._pool.policy) if receipt else (call, None)
        return (await self._call(request, deadline, read, repeatable=is_inference(method), wish=wish))[0]

    async def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        headers: Headers = (),
        timeout: float = DEFAULT_TIMEOUT,  # noqa: ASYNC109
    ) -> RestReply:
        """Send any REST request; see :meth:`sealserve.client.Client.request`."""
        require_protocol(self._pool.protocol, REST)
        deadline = Deadline(timeout)
        request = RestRequest(method, path, [body], headers, self._max_reply)

        async def read(reply: RestReply, borrowed: Borrowed) -> RestReply:
            if self._pool.lists_models and (answering := request.answering_model(reply)):
                await self._pool.check_answer(borrowed, *answering, deadline)
            return reply

        return (await self._call(request, deadline, read, repeatable=request.repeatable))[0]

    @property
    def protocol(self) -> Grpc | Rest:
        """What the target speaks."""
        return self._pool.protocol

    def drop_connections(self) -> None:
        """Let later calls make new connections, which a balancer may send to other replicas."""
        self._pool.drop_connections()

    async def close(self) -> None:
        """Close all connections; calls that are under way end first."""
        self._closed = True
        self._pool.drop_connections(for_good=True)
        await asyncio.sleep(0)  # so that the loop closes the sockets, also if it ends now

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(
        self,
        request: Exchange,
        deadline: Deadline,
        read: Callable[[Any, Borrowed], Awaitable[_Result]],
        *,
        repeatable: bool = True,
        wish: ReceiptWish | None = None,
    ) -> tuple[_Result, VerifiedReplica | None]:
        retries = Retries(deadline, repeatable=repeatable)
        while True:
            if self._closed:
                raise InputError("this client was closed")
            sent = answered = False
            try:
                async with self._pool.borrow(deadline) as borrowed:
                    sent = True
                    if wish is not None and wish.size > _LONG_TO_HASH:
                        await asyncio.to_thread(wish.hash_request)
                    reply = await borrowed.connection.run(request, deadline)
                    answered = True
                    if reply.failed:
                        self._pool.doubt(borrowed)
                    return (await read(reply, borrowed), borrowed.replica)
            except RETRIED as error:
                await asyncio.sleep(
                    retries.pause_after(error, sent=sent, answered=answered, reached=self._pool.reached)
                )


class AsyncClient(AsyncCaller):
    """Calls models on attested replicas; parameters as :class:`sealserve.client.Client`."""

    def __init__(
        self,
        target: str,
        policy: AppraisalPolicy,
        *,
        server_name: str | None = None,
        certificates: OwnerCertificates | None = None,
        max_evidence_age: float = 300.0,
        max_connections: int = 16,
        max_reply_bytes: int = 256 * 1024 * 1024,
        clock: Callable[[], float] = boot_time,
    ) -> None:
        limits = Limits(max_evidence_age, max_connections, max_reply_bytes)
        endpoint = Endpoint.attested(target, server_name, certificates)
        judgements = Judgements(endpoint.address, max_age=max_evidence_age, clock=clock)
        super().__init__(
            AsyncPool(endpoint, require_policy(policy), judgements, max_connections=max_connections), limits
        )

    @property
    def policy(self) -> AppraisalPolicy:
        """The policy; a new one holds from the next request on, on connections that are open as well."""
        return require_policy(self._pool.policy)

    @policy.setter
    def policy(self, policy: AppraisalPolicy) -> None:
        self._pool.policy = require_policy(policy)

    async def verify(self, *, timeout: float = DEFAULT_TIMEOUT) -> VerifiedReplica:  # noqa: ASYNC109
        """Connect to a replica and check it, without sending anything else; errors as :meth:`predict`."""
        async with self._pool.borrow(Deadline(timeout)) as borrowed:
            return borrowed.verified


class InsecureAsyncClient(AsyncCaller):
    """Calls models on a server that it knows by its certificate alone; see :class:`sealserve.client.InsecureClient`."""

    def __init__(
        self,
        target: str,
        certificates: OwnerCertificates,
        *,
        server_name: str | None = None,
        max_connections: int = 16,
        max_reply_bytes: int = 256 * 1024 * 1024,
    ) -> None:
        limits = Limits(1.0, max_connections, max_reply_bytes)
        endpoint = Endpoint.by_certificate(target, server_name, certificates)
        judgements = Judgements(endpoint.address, max_age=1.0)
        super().__init__(AsyncPool(endpoint, None, judgements, max_connections=max_connections), limits)
