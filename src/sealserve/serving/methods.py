"""gRPC methods from functions over our protobuf messages, for services without generated code."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from sealserve.errors import SealserveError
from sealserve.logs import event, get_logger
from sealserve.serving.admission import Admission
from sealserve.serving.answering import watched
from sealserve.serving.errors import OverloadedError, RequestError, StoppingError
from sealserve.serving.receipts import ReceiptSigner, Wish, wish_of
from sealserve.wire.not_begun import NOT_BEGUN, STOPPING
from sealserve.wire.skim import SkimError, skim

Request = TypeVar("Request", bound=Message)

SMALL = 8 << 10
"""Bytes of a request that is a name or a nonce, with room for what later versions of a protocol add."""

_TINY = 512  # bytes: no more than 256 fields
_MOST_GROWTH = 81  # two bytes are at most a field, which takes 160 more (:mod:`sealserve.wire.skim`)
_MOST_TEXT = 500  # characters: messages of errors go out as headers, for which nobody waits and nothing counts

_log = get_logger(__name__)


@dataclass(frozen=True)
class Method:
    """A method that takes one message and gives one; :func:`unary_method` makes it.

    :ivar max_bytes: of a request, and of its lists of numbers once parsed.
    :ivar always: it is quick, and answered even when the server has as many requests as it takes.
    :ivar grows: to how many bytes a request asks the server to fill up what it brings.
    """

    function: Callable[[Any, grpc.ServicerContext], Message]
    request_type: type[Message]
    max_bytes: int = SMALL
    always: bool = False
    grows: Callable[[Any], int] | None = None


@dataclass(frozen=True)
class Conversation:
    """A method that takes messages one after the other, and gives an answer to each before it takes the next.

    Each message must arrive, and each answer be fetched, in the time that a single request has. Until its caller has
    the answer, a stream holds a thread and a place among the requests in work: so only a few may at a time.

    :ivar function: the answer to one message; it is quick.
    :ivar most_messages: after which the stream ends; a client then begins another.
    :ivar most_streams: to be answered at the same time. A further one is refused.
    """

    function: Callable[[Any], Message]
    request_type: type[Message]
    most_messages: int = 200
    most_streams: int = 4


@dataclass(frozen=True)
class Service:
    """A gRPC service.

    :ivar name: with its package: ``sealserve.v1.Attestation``.
    :ivar methods: by name. Others are answered UNIMPLEMENTED.
    """

    name: str
    methods: Mapping[str, Method | Conversation]


def unary_method(
    function: Callable[[Request, grpc.ServicerContext], Message],
    request_type: type[Request],
    *,
    max_bytes: int = SMALL,
    always: bool = False,
    grows: Callable[[Request], int] | None = None,
) -> Method:
    """A method that takes one message and gives one.

    :param grows: to how many bytes a request asks the server to fill up what it brings: they count among those that
        the server holds.

    Errors of ``function`` become status codes: a :class:`RequestError` its own; another error of sealserve INTERNAL,
    with its message; anything else INTERNAL, without. A request that cannot be parsed, or that would take too much once
    parsed (:mod:`sealserve.wire.skim`), is INVALID_ARGUMENT. Messages are cut to 500 characters.
    """
    return Method(function, request_type, max_bytes, always, grows)


def generic_handler(
    service: Service, admission: Admission, signer: ReceiptSigner | None = None
) -> grpc.GenericRpcHandler:
    """The service in the form that grpcio adds to a server.

    :param signer: of receipts; without one, requests that ask for a receipt are refused.
    """
    handlers = {
        name: _rpc_handler(method, admission, f"/{service.name}/{name}", signer)
        for name, method in service.methods.items()
    }
    handler: Any = grpc.method_handlers_generic_handler(service.name, handlers)
    return handler


def _rpc_handler(method: Method | Conversation, admission: Admission, path: str, signer: ReceiptSigner | None) -> Any:
    if isinstance(method, Conversation):
        return grpc.stream_stream_rpc_method_handler(_converse(method, admission))

    def handle(messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        try:
            wish = wish_of(context, signer, path)
            return _answer(method, admission, messages, context, wish)
        except Exception as error:
            _abort(error, method.request_type, context)
            raise

    # A stream of one message is the same on the wire, and lets us wait for the message ourselves.
    return grpc.stream_unary_rpc_method_handler(handle)


def _abort(error: Exception, request_type: type[Message], context: grpc.ServicerContext) -> None:
    """End the request with the error's status. Returns if it has ended already."""
    match error:
        case DecodeError():
            code, text = "INVALID_ARGUMENT", f"the request is no {request_type.DESCRIPTOR.full_name}"
        case SkimError():
            code, text = "INVALID_ARGUMENT", error.message
        case RequestError():
            code, text = error.code, error.message
            if isinstance(error, StoppingError):
                context.set_trailing_metadata(((NOT_BEGUN, STOPPING),))
        case SealserveError():
            event(_log, logging.ERROR, "request-failed", reason=error)
            code, text = "INTERNAL", error.message
        case grpc.RpcError():
            return  # grpcio knows that this request has ended
        case _ if context.code() is not None:
            return  # the function called context.abort, which raises a bare Exception
        case _:
            _log.exception("request-failed")
            code, text = "INTERNAL", "an error inside the server; its log has more"
    context.abort(grpc.StatusCode[code], text[:_MOST_TEXT])


def _converse(
    method: Conversation, admission: Admission
) -> Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]:
    places = threading.Semaphore(method.most_streams)

    def converse(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        for _ in range(method.most_messages):
            data = admission.receive_next(messages, context)
            if data is None:
                return
            if not places.acquire(blocking=False):
                raise OverloadedError("the server answers as many streams of this method as it does at once")
            try:
                with admission.work(context, len(data)):
                    answer = _reply(method, data)
                    with admission.sending(context, len(answer)):
                        yield answer
            finally:
                places.release()

    def handle(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            yield from converse(messages, context)
        except Exception as error:
            _abort(error, method.request_type, context)
            raise

    return handle


def _reply(method: Conversation, data: bytes) -> bytes:
    if len(data) > SMALL:
        raise RequestError(f"a request of this method has at most {SMALL} bytes, and this one {len(data)}")
    skim(data, method.request_type, max_bytes=SMALL)
    return method.function(method.request_type.FromString(data)).SerializeToString()


def _answer(
    method: Method,
    admission: Admission,
    messages: Iterator[bytes],
    context: grpc.ServicerContext,
    wish: Wish | None,
) -> bytes:
    data = admission.receive(messages, context)
    if len(data) > method.max_bytes:
        raise RequestError(f"a request of this method has at most {method.max_bytes} bytes, and this one {len(data)}")
    # What is this small cannot take much, whatever is in it; the parser's own bound of depth holds.
    size = (
        len(data) * _MOST_GROWTH if len(data) <= _TINY else skim(data, method.request_type, max_bytes=method.max_bytes)
    )
    if method.always and wish is None:
        return method.function(method.request_type.FromString(data), context).SerializeToString()
    with admission.work(context, size), watched() if wish else nullcontext() as used:
        # Parsed here and not by grpcio, which would log a traceback for each malformed request, and answer INTERNAL.
        request = method.request_type.FromString(data)
        more = method.grows(request) if method.grows else 0
        if more:
            with admission.memory(more):
                answer = method.function(request, context).SerializeToString()
        else:
            answer = method.function(request, context).SerializeToString()
        if wish and used is not None:
            wish.grant(data, answer, used, context)
    admission.answer(context, len(answer))
    return answer
