"""How a unary call ended, read from the headers and the body that came (gRPC: PROTOCOL-HTTP2.md)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from sealserve.client.errors import ConnectionLostError, MalformedReplyError, NotProcessedError
from sealserve.client.headers import Metadata, read_metadata_value
from sealserve.wire.not_begun import NOT_BEGUN

if TYPE_CHECKING:
    from sealserve.client.receipts import Receipt

_CANCELLED, _UNKNOWN, _UNIMPLEMENTED, _INTERNAL, _UNAVAILABLE = 1, 2, 12, 13, 14
# What an HTTP status means where a proxy answered instead of a gRPC server (grpc: http-grpc-status-mapping.md).
_HTTP_STATUS = {
    b"400": _INTERNAL,
    b"401": 16,
    b"403": 7,
    b"404": _UNIMPLEMENTED,
    **dict.fromkeys((b"429", b"502", b"503", b"504"), _UNAVAILABLE),
}
_PREFIX = 5
_REFUSED_STREAM = 7
# RFC 9113, section 7, the ones that a server uses.
_ERROR_CODES = {1: "PROTOCOL_ERROR", 2: "INTERNAL_ERROR", 5: "STREAM_CLOSED", 8: "CANCEL", 11: "ENHANCE_YOUR_CALM"}

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Reply:
    """The end of a call.

    :param status: gRPC status code; 0 is success. :param text: the server's words for it.
    :param message: the serialized message; empty without success.
    :param initial_metadata: what the server sent before its message, without the headers of HTTP/2 and of gRPC.
    :param trailing_metadata: and what it sent after it. :param receipt: for it, if one was asked for and checked.
    """

    status: int
    text: str
    message: bytes | memoryview
    initial_metadata: Metadata = ()
    trailing_metadata: Metadata = ()
    receipt: Receipt | None = None

    @property
    def failed(self) -> bool:
        """Whether it is an error."""
        return self.status != 0


def read_reply(headers: Headers, trailers: Headers, body: bytearray, *, ended: bool, reset: int | None) -> Reply:
    """The outcome of a finished exchange; a gRPC status that the server gave is no exception.

    :param ended: whether the server ended the stream. :param reset: the code by which it broke it off, if it did.
    :raises ConnectionLostError: it was broken off, without a status or as CANCELLED: so ends what a server still has,
        or finds on its sockets, when it stops. :raises NotProcessedError: the server did not begin with it.
    :raises MalformedReplyError: there is no status, or with success not exactly one message.
    """
    named = dict(headers) | dict(trailers)
    status = named.get(b"grpc-status")
    if status is None and not ended:
        if reset == _REFUSED_STREAM:
            raise NotProcessedError("the server did not take the call (REFUSED_STREAM)", hint="Try again.")
        cause = _ERROR_CODES.get(reset or 0, reset)
        raise ConnectionLostError(f"the server broke the call off ({cause})", hint="Try again.")
    if not trailers:  # what came is "trailers only"
        headers, trailers = [], headers
    before, after = _metadata(headers), _metadata(trailers)
    if status is None:
        http_status = named.get(b":status", b"")
        if not http_status.isdigit() or http_status == b"200":
            raise MalformedReplyError("the server's reply has no gRPC status")
        text = f"HTTP status {http_status.decode('ascii')}"
        return Reply(_HTTP_STATUS.get(http_status, _UNKNOWN), text, b"", before, after)
    if not (status.isdigit() and len(status) <= 3):
        raise MalformedReplyError("the server's gRPC status is no number")
    text = unquote_to_bytes(named.get(b"grpc-message", b"")).decode(errors="replace")
    code = int(status)
    if code == _CANCELLED:
        raise ConnectionLostError(f"the server broke the call off ({text or 'CANCELLED'})", hint="Try again.")
    if code != 0:
        if code == _UNAVAILABLE and not body and NOT_BEGUN in dict(after):
            raise not_begun()
        return Reply(code, text, b"", before, after)
    if len(body) < _PREFIX or body[0] != 0 or int.from_bytes(body[1:_PREFIX], "big") != len(body) - _PREFIX:
        raise MalformedReplyError("the server's reply is not exactly one uncompressed message")
    return Reply(0, text, memoryview(body)[_PREFIX:].toreadonly(), before, after)


def not_begun() -> NotProcessedError:
    """The error for a server that says so (:mod:`sealserve.wire.not_begun`). Its connection is of no more use."""
    return NotProcessedError("the server is stopping and did not begin with the request", hint="Try again.")


def _metadata(headers: Iterable[tuple[bytes, bytes]]) -> Metadata:
    return tuple(
        (text, read_metadata_value(text, value))
        for name, value in headers
        if not name.startswith((b":", b"grpc-")) and name not in {b"content-type", b"te"}
        for text in (name.decode("ascii", errors="replace"),)
    )
