"""What callers of the REST API are told when something is wrong: HTTP statuses, as TensorFlow Serving gives them."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from sealserve.serving.errors import RequestError, StoppingError
from sealserve.wire.not_begun import NOT_BEGUN, STOPPING

# tensorflow_serving/model_servers/http_server.cc, ToHTTPStatusCode
_STATUS = {
    "CANCELLED": 499,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "UNAUTHENTICATED": 401,
}
_LATER = {429, 503}


class HttpError(RequestError):
    """A request that HTTP has a status for and gRPC has none."""

    def __init__(self, status: int, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})


class DeadlineError(RequestError):
    """A request was not answered in time."""

    code = "DEADLINE_EXCEEDED"


class BusyError(RequestError):
    """The server cannot take the request now."""

    code = "UNAVAILABLE"


def status_of(error: RequestError) -> int:
    """The HTTP status of an error."""
    if isinstance(error, HttpError):
        return error.status
    return _STATUS.get(error.code, int(HTTPStatus.INTERNAL_SERVER_ERROR))


def headers_of(error: RequestError) -> dict[str, str]:
    """Headers of the answer that tells an error."""
    headers = dict(error.headers) if isinstance(error, HttpError) else {}
    if status_of(error) in _LATER:
        headers["Retry-After"] = "1"
    if isinstance(error, StoppingError):
        headers[NOT_BEGUN] = STOPPING
    return headers
