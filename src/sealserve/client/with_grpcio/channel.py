"""A ``grpc.Channel`` whose every connection is attested before it carries a request, for stubs as they are.

Nothing of ``grpcio`` touches the network here: a call of a stub becomes a call of :class:`~sealserve.client.Client`,
so its promises hold. Unary methods work; streaming ones are UNIMPLEMENTED when they are called.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from sealserve.client.client import Client, require_protocol
from sealserve.client.protocols import GRPC
from sealserve.client.with_grpcio.calls import CallError, FinishedCall, RunningCall
from sealserve.client.with_grpcio.codes import REASON, code_of, explain
from sealserve.errors import SealserveError
from sealserve.evidence import AppraisalPolicy

_FOREVER = 99_999.0  # seconds; where a caller sets no deadline, which is what gRPC's users expect
_STREAMING = "a verified channel carries unary calls only: this method streams"


def verified_channel(target: str, policy: AppraisalPolicy, **options: Any) -> VerifiedChannel:
    """A channel to attested replicas: ``PredictionServiceStub(verified_channel("host:8500", policy))``.

    :param options: of :class:`~sealserve.client.Client`.
    """
    return VerifiedChannel(Client(target, policy, **options))


class VerifiedChannel(grpc.Channel):  # type: ignore[misc] # grpcio has no types
    """Calls through ``client``, which it closes when it is closed.

    A request is repeated only when it is certain that no server began with it. Errors are ``grpc.RpcError``; a replica
    that is refused is UNAUTHENTICATED, with the :class:`~sealserve.errors.TrustError` as ``__cause__``.
    """

    def __init__(self, client: Client) -> None:
        require_protocol(client.protocol, GRPC)
        self._client = client
        self._threads = ThreadPoolExecutor(32, thread_name_prefix="verified-channel")
        self._closed = False

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> UnaryMethod:
        """A callable for a unary method, as a stub asks for it."""
        return UnaryMethod(self, method, request_serializer, response_deserializer)

    def unary_stream(self, method: str, *_: Any, **__: Any) -> StreamingMethod:
        """A callable that refuses."""
        return StreamingMethod(method)

    stream_unary = stream_stream = unary_stream

    def subscribe(
        self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool | None = False
    ) -> None:
        """Tell IDLE now and, if asked to connect, whether a replica was reached and accepted."""
        callback(grpc.ChannelConnectivity.IDLE)
        if try_to_connect:
            self._threads.submit(self._connect, callback)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """Nothing is told later than in :meth:`subscribe`."""

    def close(self) -> None:
        """Close the client and its connections."""
        self._closed = True
        self._client.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> VerifiedChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connect(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        try:
            self._client.verify()
        except SealserveError:
            callback(grpc.ChannelConnectivity.TRANSIENT_FAILURE)
        else:
            callback(grpc.ChannelConnectivity.READY)

    def start(self, work: Callable[[], tuple[Any, FinishedCall]]) -> RunningCall:
        """Do ``work`` in a thread."""
        self.check_open()
        return RunningCall(self._threads.submit(work))

    def check_open(self) -> None:
        """:raises ValueError: the channel is closed; it is what grpcio raises."""
        if self._closed:
            raise ValueError("Cannot invoke RPC on closed channel!")

    def call(self, method: str, message: bytes, timeout: float | None, metadata: Any) -> tuple[bytes, FinishedCall]:
        """Call a method with bytes. :raises CallError: it did not end with OK."""
        self.check_open()
        seconds = _FOREVER if timeout is None else timeout
        if seconds <= 0:
            raise CallError(FinishedCall(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline was over before the call"))
        try:
            reply = self._client.call(method, message, metadata=tuple(metadata or ()), timeout=min(seconds, _FOREVER))
        except SealserveError as error:
            raise CallError(FinishedCall(*explain(error), (), ((REASON, error.reason),))) from error
        call = FinishedCall(code_of(reply.status), reply.text, reply.initial_metadata, reply.trailing_metadata)
        if reply.status:
            raise CallError(call)
        return bytes(reply.message), call


class UnaryMethod(grpc.UnaryUnaryMultiCallable):  # type: ignore[misc]
    """One method of one channel; parameters of its calls are those of grpcio. ``compression`` is not used."""

    def __init__(
        self,
        channel: VerifiedChannel,
        method: str,
        serialize: Callable[[Any], bytes] | None,
        deserialize: Callable[[bytes], Any] | None,
    ) -> None:
        self._channel = channel
        self._method = method
        self._serialize = serialize
        self._deserialize = deserialize

    def __call__(
        self, request: Any, timeout: float | None = None, metadata: Any = None, *options: Any, **o: Any
    ) -> Any:
        """The response. :raises grpc.RpcError: the call did not end with OK."""
        return self.with_call(request, timeout, metadata, *options, **o)[0]

    def with_call(  # noqa: PLR0917 - the signature is grpcio's
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> tuple[Any, FinishedCall]:
        """The response and the call; errors as :meth:`__call__`."""
        del wait_for_ready, compression  # connections are waited for anyway; see docs/client.md on compression
        if credentials is not None:
            raise CallError(FinishedCall(grpc.StatusCode.UNIMPLEMENTED, "call credentials: send metadata instead"))
        message = request if self._serialize is None else self._serialize(request)
        reply, call = self._channel.call(self._method, message, timeout, metadata)
        if self._deserialize is None:
            return reply, call
        try:
            return self._deserialize(reply), call
        except Exception as error:
            raise CallError(FinishedCall(grpc.StatusCode.INTERNAL, "the response cannot be read")) from error

    def future(self, request: Any, *arguments: Any, **options: Any) -> RunningCall:
        """The same in a thread, with the interface of ``grpc.Future``."""
        return self._channel.start(lambda: self.with_call(request, *arguments, **options))


class StreamingMethod:
    """A method that cannot be called: stubs make them for every method of a service."""

    def __init__(self, method: str) -> None:
        self._method = method

    def __call__(self, *_: Any, **__: Any) -> Any:
        """:raises grpc.RpcError: always."""
        raise CallError(FinishedCall(grpc.StatusCode.UNIMPLEMENTED, f"{_STREAMING} ({self._method})"))

    with_call = future = __call__
