"""The clients for asyncio; what they promise says :mod:`sealserve.client.client`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self, TypeVar

from numpy.typing import ArrayLike

from sealserve.client.aio.pool import AsyncPool, Borrowed
from sealserve.client.attestation import VerifiedReplica
from sealserve.client.client import require_evidence_for_receipts, require_success
from sealserve.client.deadline import Deadline
from sealserve.client.endpoint import Endpoint
from sealserve.client.headers import Metadata
from sealserve.client.judgements import Judgements, boot_time
from sealserve.client.messages import (
    GET_MODEL_METADATA,
    PREDICT,
    Prediction,
    answering_model,
    metadata_request,
    parse,
    predict_request,
    read_outputs,
)
from sealserve.client.metadata import FIELD, ModelMetadata, read_metadata
from sealserve.client.receipts import ReceiptWish
from sealserve.client.reply import Reply
from sealserve.client.retries import RETRIED, Retries
from sealserve.client.settings import DEFAULT_SIGNATURE, DEFAULT_TIMEOUT, Limits, require_policy
from sealserve.client.tls import OwnerCertificates
from sealserve.errors import InputError
from sealserve.evidence import AppraisalPolicy
from sealserve.wire.tensorflow_serving_pb2 import GetModelMetadataResponse, PredictResponse

_Result = TypeVar("_Result")
_LONG_TO_HASH = 1 << 20  # bytes: half a millisecond, in which the loop would stand still


class AsyncCaller:
    """What clients with and without evidence have in common."""

    def __init__(self, pool: AsyncPool, limits: Limits) -> None:
        self._pool = pool
        self._max_reply = limits.max_reply_bytes
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
        timeout: float = DEFAULT_TIMEOUT,  # noqa: ASYNC109 - the same surface as without asyncio
    ) -> Prediction:
        """Run a model; see :meth:`sealserve.client.Client.predict`."""
        started = time.monotonic()
        deadline = Deadline(timeout)
        message = predict_request(inputs, model=model, signature=signature, version=version, outputs=outputs)
        wish = self._wish(PREDICT, message) if receipt else None

        async def read(reply: Reply, borrowed: Borrowed) -> PredictResponse:
            response = parse(PredictResponse, require_success(reply).message)
            spec = response.model_spec
            await self._pool.check_answer(borrowed, spec.name, spec.version.value, deadline)
            if wish is not None:
                answered = (spec.name, spec.version.value)
                wish.check(reply, borrowed.verified, self._pool.policy, answered=answered)
            return response

        response, replica = await self._call(PREDICT, message, deadline, read, wish=wish)
        arrays = read_outputs(response, self._max_reply)
        checked = wish.receipt if wish else None
        return Prediction(arrays, response.model_spec.version.value, replica, time.monotonic() - started, checked)

    async def metadata(
        self,
        model: str,
        *,
        version: int | None = None,
        timeout: float = DEFAULT_TIMEOUT,  # noqa: ASYNC109
    ) -> ModelMetadata:
        """The signatures of a model; errors as :meth:`predict`."""

        async def read(reply: Reply, _: Borrowed) -> Reply:
            return require_success(reply)

        message = metadata_request(model, version, FIELD)
        reply, _ = await self._call(GET_MODEL_METADATA, message, Deadline(timeout), read)
        return read_metadata(parse(GetModelMetadataResponse, reply.message))

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

        deadline = Deadline(timeout)

        async def read(reply: Reply, borrowed: Borrowed) -> Reply:
            if self._pool.lists_models and (answering := answering_model(method, reply)):
                await self._pool.check_answer(borrowed, *answering, deadline)
            if wish is not None and not reply.status:
                return replace(reply, receipt=wish.check(reply, borrowed.verified, self._pool.policy))
            return reply

        wish = self._wish(method, [message]) if receipt else None
        return (await self._call(method, [message], deadline, read, metadata, repeatable=False, wish=wish))[0]

    def _wish(self, method: str, message: Sequence[bytes | memoryview]) -> ReceiptWish:
        require_evidence_for_receipts(self._pool.policy)
        return ReceiptWish(method, message)

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
        method: str,
        message: Sequence[bytes | memoryview],
        deadline: Deadline,
        read: Callable[[Reply, Borrowed], Awaitable[_Result]],
        metadata: Metadata = (),
        *,
        repeatable: bool = True,
        wish: ReceiptWish | None = None,
    ) -> tuple[_Result, VerifiedReplica | None]:
        if wish is not None:
            metadata = (*metadata, *wish.metadata)
        retries = Retries(deadline, repeatable=repeatable)
        while True:
            if self._closed:
                raise InputError("this client was closed")
            sent = False
            try:
                async with self._pool.borrow(deadline) as borrowed:
                    sent = True
                    if wish is not None and sum(map(len, message)) > _LONG_TO_HASH:
                        await asyncio.to_thread(wish.hash_request)
                    reply = await borrowed.connection.call(
                        method, message, deadline=deadline, max_reply=self._max_reply, metadata=metadata
                    )
                    return (await read(reply, borrowed), borrowed.replica)
            except RETRIED as error:
                await asyncio.sleep(retries.pause_after(error, sent=sent, reached=self._pool.reached))


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
