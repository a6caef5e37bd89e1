"""gRPC status codes (grpc: statuscodes.md) as errors of our tree."""

from __future__ import annotations

import enum

from sealserve.client.errors import (
    ConnectionLostError,
    DeadlinePassedError,
    ModelNotServedError,
    RequestRefusedError,
    ServerFaultError,
)
from sealserve.client.reply import Reply
from sealserve.errors import SealserveError

_LONGEST_TEXT = 2000


class Code(enum.IntEnum):
    """The codes that gRPC defines."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


def name(status: int) -> str:
    """The name of a code: ``NOT_FOUND``."""
    return Code(status).name if status in set(Code) else f"status {status}"


def error_of(reply: Reply) -> SealserveError:
    """The error that a reply without success stands for. The server's words are cut at 2,000 characters."""
    text = printable(reply.text) or name(reply.status)
    match reply.status:
        case Code.NOT_FOUND:
            return ModelNotServedError(text, hint="Check the name and version of the model and of its signature.")
        case Code.RESOURCE_EXHAUSTED if "larger than max" in text:  # gRPC's words for a request that is too large
            return RequestRefusedError(text, hint="Send fewer or smaller inputs at once.")
        case Code.INVALID_ARGUMENT | Code.FAILED_PRECONDITION | Code.OUT_OF_RANGE:
            return RequestRefusedError(text, hint="Check the inputs against the model's signature.")
        case Code.UNIMPLEMENTED:
            return RequestRefusedError(f"the server does not offer this: {text}")
        case Code.DEADLINE_EXCEEDED:
            return DeadlinePassedError(f"the server ran out of time: {text}", hint="Allow more time (timeout).")
        case Code.UNAVAILABLE:
            return ConnectionLostError(f"the server is not available: {text}", hint="Try again.")
        case _:
            return ServerFaultError(
                f"the server failed with {name(reply.status)}: {text}", hint="Look into the replica's log."
            )


def printable(text: str) -> str:
    """Text of somebody else, at most 2,000 characters, that cannot steer a terminal."""
    kept = (c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text[:_LONGEST_TEXT])
    return "".join(kept).strip()
