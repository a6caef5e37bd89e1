"""gRPC methods from functions over our protobuf messages, for services without generated code."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from sealserve.errors import SealserveError
from sealserve.logs import event, get_logger
from sealserve.serving.errors import CallerGoneError, RequestError

Request = TypeVar("Request", bound=Message)

_log = get_logger(__name__)


@dataclass(frozen=True)
class Service:
    """A gRPC service.

    :ivar name: with its package: ``sealserve.v1.Attestation``.
    :ivar methods: handlers by method name; :func:`unary_method` makes them. Others are answered UNIMPLEMENTED.
    """

    name: str
    methods: Mapping[str, grpc.RpcMethodHandler]


def unary_method(
    function: Callable[[Request, grpc.ServicerContext], Message], request_type: type[Request]
) -> grpc.RpcMethodHandler:
    """A method that takes one message and gives one.

    Errors of ``function`` become status codes: a :class:`RequestError` its own; another error of sealserve INTERNAL,
    with its message; anything else INTERNAL, without. A request that cannot be parsed is INVALID_ARGUMENT.
    """

    def handle(data: bytes, context: grpc.ServicerContext) -> bytes:
        # Parsed here and not by grpcio, which would log a traceback for each malformed request, and answer INTERNAL.
        try:
            _require_caller(context)
            return function(request_type.FromString(data), context).SerializeToString()
        except DecodeError:
            code, text = "INVALID_ARGUMENT", f"the request is no {request_type.DESCRIPTOR.full_name}"
        except RequestError as error:
            code, text = error.code, error.message
        except SealserveError as error:
            event(_log, logging.ERROR, "request-failed", reason=error)
            code, text = "INTERNAL", error.message
        except Exception:
            if context.code() is not None:
                raise  # the function called context.abort, which raises a bare Exception
            _log.exception("request-failed")
            code, text = "INTERNAL", "an error inside the server; its log has more"
        context.abort(grpc.StatusCode[code], text)
        raise AssertionError("unreachable: abort raises")

    return grpc.unary_unary_rpc_method_handler(handle)


def _require_caller(context: grpc.ServicerContext) -> None:
    if not context.is_active():
        raise CallerGoneError("the caller does not wait for the answer any more")


def generic_handler(service: Service) -> grpc.GenericRpcHandler:
    """The service in the form that grpcio adds to a server."""
    handler: Any = grpc.method_handlers_generic_handler(service.name, dict(service.methods))
    return handler
