"""A ``grpc.aio.Channel`` whose every connection is attested before it carries a request, for asyncio stubs as they are.

The counterpart of :mod:`sealserve.client.with_grpcio.channel`: a call of a stub becomes a call of
:class:`~sealserve.client.aio.AsyncClient`. Unary methods work; streaming ones are UNIMPLEMENTED when they are called.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator
from typing import Any, NoReturn

import grpc
import grpc.aio

from sealserve.client.aio import AsyncClient
from sealserve.client.client import require_protocol
from sealserve.client.headers import Metadata
from sealserve.client.protocols import GRPC
from sealserve.client.with_grpcio.codes import REASON, code_of, explain
from sealserve.errors import InputError, SealserveError, TrustError
from sealserve.evidence import AppraisalPolicy

_FOREVER = 99_999.0  # seconds; where a caller sets no deadline, which is what gRPC's users expect
_STREAMING = "a verified channel carries unary calls only: this method streams"


def verified_aio_channel(target: str, policy: AppraisalPolicy, **options: Any) -> VerifiedAioChannel:
    """A channel to attested replicas, to be made and used in one event loop.

    :param options: of :class:`~sealserve.client.aio.AsyncClient`, and ``interceptors``, as ``grpc.aio`` takes them.
    :raises InputError: the target speaks REST, or there are interceptors: they are not supported.
    """
    if options.pop("interceptors", None):
        raise InputError("a verified asyncio channel takes no interceptors", hint="Wrap the stub instead.")
    return VerifiedAioChannel(AsyncClient(target, policy, **options))


class VerifiedAioChannel(grpc.aio.Channel):  # type: ignore[misc] # grpcio has no types
    """Calls through ``client``, which it closes when it is closed.

    A request is repeated only when it is certain that no server began with it. Errors are ``grpc.aio.AioRpcError``; a
    replica that is refused is UNAUTHENTICATED, with the :class:`~sealserve.errors.TrustError` as ``__cause__``.
    """

    def __init__(self, client: AsyncClient) -> None:
        require_protocol(client.protocol, GRPC)
        self._client = client
        self._state = grpc.ChannelConnectivity.IDLE
        self._changed = asyncio.Condition()
        self._calls: set[asyncio.Task[Any]] = set()

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> AioUnaryMethod:
        """A callable for a unary method, as a stub asks for it."""
        return AioUnaryMethod(self, method, request_serializer, response_deserializer)

    def unary_stream(self, method: str, *_: Any, **__: Any) -> AioStreamingMethod:
        """A callable that refuses."""
        return AioStreamingMethod(method)

    stream_unary = stream_stream = unary_stream

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """IDLE, or what the last look at a replica came to; ``try_to_connect`` takes a new one."""
        if try_to_connect and self._state is not grpc.ChannelConnectivity.SHUTDOWN:
            self.start(self._try())
        return self._state

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the state is another."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._state is not last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until a replica was reached and accepted.

        :raises TrustError: one was refused: waiting longer would not help.
        """
        while self._state is not grpc.ChannelConnectivity.READY:
            if self._state is grpc.ChannelConnectivity.SHUTDOWN:
                raise grpc.aio.UsageError("Channel is closed.")
            try:
                await self._look()
            except TrustError:
                raise
            except SealserveError:
                await asyncio.sleep(0.2)

    async def close(self, grace: float | None = None) -> None:
        """Close the client and its connections; calls under way have ``grace`` seconds."""
        await self._enter(grpc.ChannelConnectivity.SHUTDOWN)
        if self._calls and grace:
            await asyncio.wait(self._calls, timeout=grace)
        for call in list(self._calls):
            call.cancel()
        await self._client.close()

    async def __aenter__(self) -> VerifiedAioChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def start(self, work: Any) -> asyncio.Task[Any]:
        """Run a coroutine until the channel is closed."""
        task = asyncio.get_running_loop().create_task(work)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return task

    def check_open(self) -> None:
        """:raises grpc.aio.UsageError: the channel is closed; it is what grpcio raises."""
        if self._state is grpc.ChannelConnectivity.SHUTDOWN:
            raise grpc.aio.UsageError("Channel is closed.")

    async def call(self, method: str, message: bytes, timeout: float | None, metadata: Any) -> Any:  # noqa: ASYNC109
        """Call a method with bytes. :raises grpc.aio.AioRpcError: it did not end with OK."""
        seconds = _FOREVER if timeout is None else timeout
        if seconds <= 0:
            raise _failed(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline was over before the call")
        pairs = tuple((key, value) for key, value in metadata or ())
        try:
            reply = await self._client.call(method, message, metadata=pairs, timeout=min(seconds, _FOREVER))
        except SealserveError as error:
            raise _failed(*explain(error), trailing=((REASON, error.reason),)) from error
        if reply.status:
            raise _failed(code_of(reply.status), reply.text, reply.initial_metadata, reply.trailing_metadata)
        return reply

    async def _try(self) -> None:
        with contextlib.suppress(SealserveError):
            await self._look()

    async def _look(self) -> None:
        try:
            await self._client.verify()
        except SealserveError:
            await self._enter(grpc.ChannelConnectivity.TRANSIENT_FAILURE)
            raise
        await self._enter(grpc.ChannelConnectivity.READY)

    async def _enter(self, state: grpc.ChannelConnectivity) -> None:
        async with self._changed:
            if self._state is not grpc.ChannelConnectivity.SHUTDOWN:
                self._state = state
            self._changed.notify_all()


class AioUnaryMethod(grpc.aio.UnaryUnaryMultiCallable):  # type: ignore[misc]
    """One method of one channel; parameters of its calls are those of grpcio. ``compression`` is not used."""

    def __init__(
        self,
        channel: VerifiedAioChannel,
        method: str,
        serialize: Callable[[Any], bytes] | None,
        deserialize: Callable[[bytes], Any] | None,
    ) -> None:
        self._channel = channel
        self._method = method
        self._serialize = serialize
        self._deserialize = deserialize

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> AioCall:
        """A call that is under way, to be awaited. :raises grpc.aio.UsageError: the channel is closed."""
        del wait_for_ready, compression  # connections are waited for anyway; see docs/client.md on compression
        self._channel.check_open()
        message = request if self._serialize is None else self._serialize(request)
        if credentials is not None:
            error = _failed(grpc.StatusCode.UNIMPLEMENTED, "call credentials: send metadata instead")
            return AioCall(self._channel.start(_fail(error)), None)
        work = self._channel.call(self._method, message, timeout, metadata)
        return AioCall(self._channel.start(work), self._deserialize)


class AioStreamingMethod:
    """A method that cannot be called: stubs make them for every method of a service."""

    def __init__(self, method: str) -> None:
        self._method = method

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """:raises grpc.aio.AioRpcError: always."""
        raise _failed(grpc.StatusCode.UNIMPLEMENTED, f"{_STREAMING} ({self._method})")


class AioCall(grpc.aio.UnaryUnaryCall):  # type: ignore[misc]
    """A call; awaiting it gives the response. One that is cancelled closes its connection."""

    def __init__(self, work: asyncio.Task[Any], deserialize: Callable[[bytes], Any] | None) -> None:
        self._work = work
        self._deserialize = deserialize

    def __await__(self) -> Generator[Any, None, Any]:
        """The response. :raises grpc.aio.AioRpcError: the call did not end with OK."""
        return self._response().__await__()

    async def _response(self) -> Any:
        reply = await self._work
        message = bytes(reply.message)
        if self._deserialize is None:
            return message
        try:
            return self._deserialize(message)
        except Exception as error:
            raise _failed(grpc.StatusCode.INTERNAL, "the response cannot be read") from error

    def cancel(self) -> bool:
        """:returns: whether it was not over yet."""
        return self._work.cancel()

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._work.cancelled()

    def done(self) -> bool:
        """Whether it is over."""
        return self._work.done()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call ``callback`` with this, once it is over."""
        self._work.add_done_callback(lambda _: callback(self))

    def time_remaining(self) -> None:
        """Not told."""
        return

    async def wait_for_connection(self) -> None:
        """Wait for the answer: there is none without a connection. :raises grpc.aio.AioRpcError: it was not OK."""
        await asyncio.shield(self._work)

    async def code(self) -> grpc.StatusCode:
        """The status code, waited for, as the next three."""
        return (await self._outcome())[0]

    async def details(self) -> str:
        """The words for it."""
        return (await self._outcome())[1]

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """What the server sent before its message."""
        return (await self._outcome())[2]

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """What the server sent after it."""
        return (await self._outcome())[3]

    async def _outcome(self) -> tuple[grpc.StatusCode, str, Any, Any]:
        await asyncio.wait([self._work])
        if self._work.cancelled():
            return grpc.StatusCode.CANCELLED, "cancelled by the caller", _metadata(()), _metadata(())
        error = self._work.exception()
        if isinstance(error, grpc.aio.AioRpcError):
            return error.code(), error.details(), error.initial_metadata(), error.trailing_metadata()
        reply = self._work.result()
        return grpc.StatusCode.OK, reply.text, _metadata(reply.initial_metadata), _metadata(reply.trailing_metadata)


async def _fail(error: Exception) -> NoReturn:
    raise error


def _failed(
    code: grpc.StatusCode, details: str, initial: Metadata = (), trailing: Metadata = ()
) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, _metadata(initial), _metadata(trailing), details=details)


def _metadata(pairs: Metadata) -> grpc.aio.Metadata:
    return grpc.aio.Metadata(*pairs)
