"""Errors as HTTP tells them: ``application/problem+json`` (RFC 9457), with ``reason`` and ``hint``."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from aiohttp import web

from sealserve.broker.administration import ChangedMeanwhileError, InUseError, NameTakenError, UnknownNameError
from sealserve.errors import InputError, MachineError, SealserveError, TrustError

CONTENT_TYPE = "application/problem+json"

_STATUS: tuple[tuple[type[SealserveError], HTTPStatus], ...] = (
    (UnknownNameError, HTTPStatus.NOT_FOUND),
    (NameTakenError, HTTPStatus.CONFLICT),
    (InUseError, HTTPStatus.CONFLICT),
    (ChangedMeanwhileError, HTTPStatus.PRECONDITION_FAILED),
    (InputError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (MachineError, HTTPStatus.SERVICE_UNAVAILABLE),
    (TrustError, HTTPStatus.INTERNAL_SERVER_ERROR),  # it is the store that is not to be trusted
)


class HttpError(SealserveError):
    """A request that is refused for what it is as HTTP.

    :param headers: for the answer.
    """

    def __init__(
        self,
        status: HTTPStatus,
        message: str,
        *,
        reason: str | None = None,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.headers = dict(headers or {})
        self._reason = reason or status.phrase.lower().replace(" ", "-")

    @property
    def reason(self) -> str:
        """A stable machine-readable name of the cause."""
        return self._reason


def problem(error: SealserveError) -> web.Response:
    """The answer that tells an error."""
    status = error.status if isinstance(error, HttpError) else _status(error)
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": status.phrase,
        "status": int(status),
        "detail": error.message,
        "reason": error.reason,
    }
    if error.hint:
        body["hint"] = error.hint
    headers = error.headers if isinstance(error, HttpError) else {}
    return web.json_response(body, status=status, content_type=CONTENT_TYPE, headers=headers)


def _status(error: SealserveError) -> HTTPStatus:
    return next((status for kind, status in _STATUS if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)
