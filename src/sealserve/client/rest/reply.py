"""What a REST request came to, and what its status means in the terms of gRPC, in which errors are told."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from sealserve.client.errors import MalformedReplyError
from sealserve.client.reply import Reply

_INVALID, _DEADLINE, _NOT_FOUND, _DENIED, _EXHAUSTED, _ABORTED = 3, 4, 5, 7, 8, 10
_UNIMPLEMENTED, _INTERNAL, _UNAVAILABLE, _UNAUTHENTICATED, _UNKNOWN, _CANCELLED = 12, 13, 14, 16, 2, 1
_CODES = {
    400: _INVALID,
    401: _UNAUTHENTICATED,
    403: _DENIED,
    404: _NOT_FOUND,
    405: _UNIMPLEMENTED,
    408: _DEADLINE,
    409: _ABORTED,
    413: _INVALID,
    415: _INVALID,
    429: _EXHAUSTED,
    499: _CANCELLED,
    500: _INTERNAL,
    501: _UNIMPLEMENTED,
    502: _UNAVAILABLE,
    503: _UNAVAILABLE,
    504: _DEADLINE,
}


@dataclass(frozen=True)
class RestReply:
    """An answer.

    :param status: HTTP's. :param headers: in their order, names in lower case.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(repr=False)

    @property
    def failed(self) -> bool:
        """Whether it is an error."""
        return self.status >= 400

    def header(self, name: str) -> str | None:
        """The value of a header, by its name in lower case; None if it is not there, or there twice."""
        values = [value for key, value in self.headers if key == name]
        return values[0] if len(values) == 1 else None

    def as_grpc(self) -> Reply:
        """The same with gRPC's status; the body is the message, or the text of an error."""
        if self.status == 200:
            return Reply(0, "", self.body)
        return Reply(_CODES.get(self.status, _UNKNOWN), self._error(), b"")

    def json(self) -> Any:
        """The body. :raises MalformedReplyError: it is no JSON."""
        return parse_json(self.body)

    def _error(self) -> str:
        """TensorFlow Serving's and the Open Inference Protocol's ``{"error": "…"}``."""
        try:
            text = json.loads(self.body)["error"]
        except (ValueError, TypeError, LookupError, RecursionError):
            text = None
        return text if isinstance(text, str) else f"HTTP status {self.status}"


def parse_json(text: bytes | memoryview) -> Any:
    """:raises MalformedReplyError: it is no JSON."""
    try:
        return json.loads(bytes(text))
    except (ValueError, RecursionError) as error:
        raise MalformedReplyError("the server's answer is no JSON") from error
