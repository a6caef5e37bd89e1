"""What handlers are given, and what they give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from sealserve.serving.rest.http_errors import HttpError
from sealserve.serving.rest.json_text import Take

MODEL_VERSION = "Sealserve-Model-Version"
"""Header of an answer: the version of the model that it is of, which TensorFlow Serving's JSON does not tell."""

_SHOWN = 1024  # characters


@dataclass
class Call:
    """A request without its body.

    :ivar path: as it came, without the query.
    :ivar model: for the count of requests; empty until it is known.
    :ivar operation: likewise, under gRPC's name: ``Predict``; empty for what is not counted.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    model: str = ""
    operation: str = ""


@dataclass(frozen=True)
class Reply:
    """An answer."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """What is to be done in a thread.

    :ivar run: gives the answer to a body; asks ``wanted`` whether somebody waits for it.
    :ivar has_body: the body is read; else it is ignored.
    :ivar beside: it is quick, and done even when the server has as many requests as it takes.
    :ivar max_bytes: of the body, if fewer than the server takes.
    """

    run: Callable[[bytes, Callable[[], bool], Take], Reply]
    has_body: bool = True
    beside: bool = False
    max_bytes: int | None = None


def require(call: Call, *methods: str) -> None:
    """:raises HttpError: the method is none of those."""
    if call.method not in methods:
        raise HttpError(HTTPStatus.METHOD_NOT_ALLOWED, malformed(call), headers={"Allow": ", ".join(methods)})


def malformed(call: Call) -> str:
    """What TensorFlow Serving says of a path that it does not know."""
    return f"Malformed request: {call.method} {call.path}"[:_SHOWN]
