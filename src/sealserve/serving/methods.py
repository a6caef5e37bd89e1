"""gRPC methods from functions over our protobuf messages, for services without generated code."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from sealserve.errors import SealserveError
from sealserve.logs import event, get_logger
from sealserve.serving.admission import Admission
from sealserve.serving.errors import RequestError
from sealserve.wire.skim import SkimError, skim

Request = TypeVar("Request", bound=Message)

SMALL = 8 << 10
"""Bytes of a request that is a name or a nonce, with room for what later versions of a protocol add."""

_MOST_TEXT = 500  # characters: messages of errors go out as headers, for which nobody waits and nothing counts

_log = get_logger(__name__)


@dataclass(frozen=True)
class Method:
    """A method that takes one message and gives one; :func:`unary_method` makes it.

    :ivar max_bytes: of a request, and of its lists of numbers once parsed.
    :ivar always: it is quick, and answered even when the server has as many requests as it takes.
    """

    function: Callable[[Any, grpc.ServicerContext], Message]
    request_type: type[Message]
    max_bytes: int = SMALL
    always: bool = False


@dataclass(frozen=True)
class Service:
    """A gRPC service.

    :ivar name: with its package: ``sealserve.v1.Attestation``.
    :ivar methods: by name. Others are answered UNIMPLEMENTED.
    """

    name: str
    methods: Mapping[str, Method]


def unary_method(
    function: Callable[[Request, grpc.ServicerContext], Message],
    request_type: type[Request],
    *,
    max_bytes: int = SMALL,
    always: bool = False,
) -> Method:
    """A method that takes one message and gives one.

    Errors of ``function`` become status codes: a :class:`RequestError` its own; another error of sealserve INTERNAL,
    with its message; anything else INTERNAL, without. A request that cannot be parsed, or that would take too much once
    parsed (:mod:`sealserve.wire.skim`), is INVALID_ARGUMENT. Messages are cut to 500 characters.
    """
    return Method(function, request_type, max_bytes, always)


def generic_handler(service: Service, admission: Admission) -> grpc.GenericRpcHandler:
    """The service in the form that grpcio adds to a server."""
    # A stream of one message is the same on the wire, and lets us wait for the message ourselves.
    handlers = {
        name: grpc.stream_unary_rpc_method_handler(_handler(method, admission))
        for name, method in service.methods.items()
    }
    handler: Any = grpc.method_handlers_generic_handler(service.name, handlers)
    return handler


def _handler(method: Method, admission: Admission) -> Callable[[Iterator[bytes], grpc.ServicerContext], bytes]:
    def handle(messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        try:
            return _answer(method, admission, messages, context)
        except DecodeError:
            code, text = "INVALID_ARGUMENT", f"the request is no {method.request_type.DESCRIPTOR.full_name}"
        except SkimError as error:
            code, text = "INVALID_ARGUMENT", error.message
        except RequestError as error:
            code, text = error.code, error.message
        except SealserveError as error:
            event(_log, logging.ERROR, "request-failed", reason=error)
            code, text = "INTERNAL", error.message
        except grpc.RpcError:
            raise  # grpcio knows that this request has ended
        except Exception:
            if context.code() is not None:
                raise  # the function called context.abort, which raises a bare Exception
            _log.exception("request-failed")
            code, text = "INTERNAL", "an error inside the server; its log has more"
        context.abort(grpc.StatusCode[code], text[:_MOST_TEXT])
        raise AssertionError("unreachable: abort raises")

    return handle


def _answer(method: Method, admission: Admission, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
    data = admission.receive(messages, context)
    if len(data) > method.max_bytes:
        raise RequestError(f"a request of this method has at most {method.max_bytes} bytes, and this one {len(data)}")
    size = skim(data, method.request_type, max_bytes=method.max_bytes)
    if method.always:
        return _call(method, data, context)
    with admission.work(context, size):
        answer = _call(method, data, context)
    admission.answer(context, len(answer))
    return answer


def _call(method: Method, data: bytes, context: grpc.ServicerContext) -> bytes:
    # Parsed here and not by grpcio, which would log a traceback for each malformed request, and answer INTERNAL.
    return method.function(method.request_type.FromString(data), context).SerializeToString()
