"""Bodies of requests: counted while they come, and while they are decompressed."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from http import HTTPStatus

from aiohttp import web

from sealserve.serving.errors import RequestError
from sealserve.serving.rest.http_errors import HttpError

_PIECE = 1 << 20
_GZIP = 16 + zlib.MAX_WBITS


async def read_body(request: web.BaseRequest, *, max_bytes: int, seconds: float, take: Callable[[int], None]) -> bytes:
    """Wait for a body, as it was sent.

    :param take: told of bytes before they are kept; may refuse them.
    :raises HttpError: it is too large, too slow, in an encoding that nobody reads, or ends too early.
    """
    declared = request.content_length
    if declared is not None and declared > max_bytes:
        raise _too_large(max_bytes)
    _check_encoding(request)
    await _say_continue(request)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            while part := await request.content.readany():
                size += len(part)
                if size > max_bytes:
                    raise _too_large(max_bytes)
                take(len(part))
                parts.append(part)
    except TimeoutError as error:
        raise HttpError(HTTPStatus.REQUEST_TIMEOUT, "the body of the request did not come in time") from error
    except web.RequestPayloadError as error:
        raise HttpError(HTTPStatus.BAD_REQUEST, "the body of the request is malformed") from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


def decompress(body: bytes, *, max_bytes: int, take: Callable[[int], None]) -> bytes:
    """The content of a gzip body.

    :param take: told of bytes before there are more; may refuse them.
    :raises HttpError: it becomes too large. :raises RequestError: it is no gzip, or ends too early.
    """
    parts: list[bytes] = []
    left = max_bytes
    try:
        while body:
            unpacker = zlib.decompressobj(_GZIP)
            while not unpacker.eof:
                take(min(_PIECE, left))
                part = unpacker.decompress(body, min(_PIECE, left) + 1)
                left -= len(part)
                if left < 0:
                    raise _too_large(max_bytes)
                if not part and not unpacker.eof:
                    raise RequestError("the gzip body of the request ends too early")
                parts.append(part)
                body = unpacker.unconsumed_tail
            body = unpacker.unused_data  # gzip files may stand one behind the other
    except zlib.error as error:
        raise RequestError("the body of the request is not gzip") from error
    return b"".join(parts)


def is_compressed(request: web.BaseRequest) -> bool:
    """Whether the body has to be decompressed."""
    return _encoding(request) == "gzip"


def _encoding(request: web.BaseRequest) -> str:
    return ",".join(request.headers.getall("Content-Encoding", ())).strip().lower()


def _check_encoding(request: web.BaseRequest) -> None:
    if _encoding(request) not in {"", "identity", "gzip"}:
        raise HttpError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "the body of the request is encoded; gzip is understood",
            headers={"Accept-Encoding": "gzip, identity"},
        )


async def _say_continue(request: web.BaseRequest) -> None:
    expected = request.headers.get("Expect", "")
    if not expected:
        return
    if expected.lower() != "100-continue":
        raise HttpError(HTTPStatus.EXPECTATION_FAILED, "the expectation of the request is not known")
    if request.transport is not None and request.version >= (1, 1):
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _too_large(max_bytes: int) -> HttpError:
    return HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request has at most {max_bytes} bytes")
