"""Our errors as gRPC users know errors: a status code, details, and metadata for programs."""

from __future__ import annotations

import grpc

from sealserve.client.errors import DeadlinePassedError, MalformedReplyError
from sealserve.errors import InputError, SealserveError, TrustError, UnavailableError

REASON = "sealserve-reason"
"""Trailing metadata with the machine-readable cause (:attr:`SealserveError.reason`) of an error that no server gave."""

_CODES = {code.value[0]: code for code in grpc.StatusCode}


def code_of(status: int) -> grpc.StatusCode:
    """The code of a number; UNKNOWN for one that gRPC does not define."""
    return _CODES.get(status, grpc.StatusCode.UNKNOWN)


def explain(error: SealserveError) -> tuple[grpc.StatusCode, str]:
    """Code and details. A refusal of trust is UNAUTHENTICATED, which nobody's retry policy repeats."""
    details = f"{error.message}. {error.hint}" if error.hint else error.message
    match error:
        case TrustError():
            return grpc.StatusCode.UNAUTHENTICATED, details
        case DeadlinePassedError():
            return grpc.StatusCode.DEADLINE_EXCEEDED, details
        case MalformedReplyError():
            return grpc.StatusCode.INTERNAL, details
        case UnavailableError():
            return grpc.StatusCode.UNAVAILABLE, details
        case InputError():
            return grpc.StatusCode.INVALID_ARGUMENT, details
        case _:
            return grpc.StatusCode.INTERNAL, details
