"""Requests over HTTP/1.1 (RFC 9112), one at a time, without any I/O: bytes in, bytes out.

``h11`` parses and writes; the synchronous and the asyncio connection both drive this as they drive
:class:`~sealserve.client.http2.UnaryProtocol`. What ``h11`` lets servers do and no replica needs is refused here: an
answer that ends with the connection, that says its length in two ways, that is compressed, or that has no end.
"""

from __future__ import annotations

import re
import time
from collections import deque
from typing import TYPE_CHECKING

import h11

from sealserve import __version__
from sealserve.client.errors import MalformedReplyError
from sealserve.client.reply import not_begun
from sealserve.client.rest.reply import RestReply
from sealserve.errors import InputError
from sealserve.wire.not_begun import NOT_BEGUN

if TYPE_CHECKING:
    from sealserve.client.rest.request import RestRequest

MAX_HEADERS = 32 * 1024
"""Bytes of an answer's headers."""

IDLE_SECONDS = 60.0
"""A connection that was idle for longer is not used again: replicas close theirs after 75 seconds."""

_CHUNK = 1 << 18  # of a body in one `outgoing`, between which a caller looks for an early answer
_OVERHEAD = 1 << 16  # what an answer may cost in bytes beyond twice its body
_MOST_INFORMATIONAL = 8
_WITHOUT_BODY = frozenset({204, 304})
_RESET_CONTENT = 205  # has none either, but says so (RFC 9110, section 15.3.6)
_UNAVAILABLE = 503
_STATUSES_END = 600
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # h11 lets them pass (RFC 9110, section 5.5, does not)


class RestProtocol:
    """One connection's state. After a :class:`MalformedReplyError` it must not be used again."""

    def __init__(self) -> None:
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADERS)
        self._request: RestRequest | None = None
        self._out: list[bytes] = []
        self._parts: deque[memoryview] = deque()
        self._response: h11.Response | None = None
        self._body = bytearray()
        self._budget = 0
        self._informational = 0
        self._over = False
        self._idle_since: float | None = None  # from the first answer on

    @property
    def reusable(self) -> bool:
        """Whether another request may begin."""
        return (
            self._http.our_state is h11.IDLE
            and self._http.their_state is h11.IDLE
            and (self._idle_since is None or time.monotonic() - self._idle_since < IDLE_SECONDS)
        )

    @property
    def over(self) -> bool:
        """Whether the request was answered."""
        return self._over

    @property
    def has_more_to_send(self) -> bool:
        """Whether :meth:`outgoing` has bytes now."""
        return bool(self._out) or (len(self._parts) > 0 and not self._over)

    def begin(self, request: RestRequest, authority: str) -> None:
        """Start a request.

        :param authority: for ``Host``.
        :raises InputError: it cannot be sent.
        """
        size = sum(len(part) for part in request.body)
        headers = [("host", authority), ("user-agent", f"sealserve/{__version__}"), *request.headers]
        if size or request.method not in {"GET", "HEAD"}:
            headers.append(("content-length", str(size)))
        try:
            head = self._http.send(h11.Request(method=request.method, target=request.path, headers=headers))
        except h11.LocalProtocolError as error:
            raise InputError(f"the request cannot be sent: {error}") from error
        self._out.append(head or b"")
        self._parts.extend(memoryview(part).cast("B") for part in request.body if len(part))
        if not self._parts:
            self._end()
        self._request, self._response, self._over = request, None, False
        self._body = bytearray()
        self._budget = 2 * request.max_reply + _OVERHEAD
        self._informational = 0

    def outgoing(self) -> bytes:
        """What is to be sent now."""
        pieces: list[bytes | memoryview] = [*self._out]
        self._out.clear()
        room = _CHUNK
        while self._parts and room and not self._over:
            part = self._parts.popleft()
            if len(part) > room:
                self._parts.appendleft(part[room:])
                part = part[:room]
            room -= len(part)
            # h11 hands the data through as it is: arrays are copied once, by the join.
            pieces += self._http.send_with_data_passthrough(h11.Data(data=part)) or []  # type: ignore[arg-type]
            if not self._parts:
                self._end()
                pieces += self._out
                self._out.clear()
        return b"".join(pieces)

    def feed(self, data: bytes) -> None:
        """Act on what arrived.

        :raises MalformedReplyError: the server breaks a rule, or sends more than an answer may have.
        """
        if self._request is None or self._over:
            raise MalformedReplyError("the server sends what nobody asked for")
        self._budget -= len(data)
        if self._budget < 0:
            raise MalformedReplyError("the server sends far more than an answer needs")
        try:
            self._http.receive_data(data)
            while (event := self._http.next_event()) is not h11.NEED_DATA:
                self._take(event, self._request)
                if isinstance(event, h11.EndOfMessage):
                    return
        except h11.RemoteProtocolError as error:
            raise _broken(str(error)) from error

    def finish(self) -> RestReply:
        """The answer to the request that is over. :raises NotProcessedError: the server stops."""
        response, self._request = self._response, None
        if response is None or not self._over:
            raise RuntimeError("there is no request to finish")
        self._over = False
        self._parts.clear()
        self._out.clear()
        # Not after an early answer, whose request was not sent whole; nor with bytes behind the answer, which would be
        # taken for the next one.
        states = (self._http.our_state, self._http.their_state)
        if states == (h11.DONE, h11.DONE) and not self._http.trailing_data[0]:
            self._http.start_next_cycle()
        self._idle_since = time.monotonic()
        headers = tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in response.headers)
        if response.status_code == _UNAVAILABLE and NOT_BEGUN in dict(headers):
            raise not_begun()
        return RestReply(response.status_code, headers, bytes(self._body))

    def _end(self) -> None:
        self._out.append(self._http.send(h11.EndOfMessage()) or b"")

    def _take(self, event: object, request: RestRequest) -> None:
        match event:
            case h11.InformationalResponse():
                self._informational += 1
                if event.status_code == 101 or self._informational > _MOST_INFORMATIONAL:
                    raise _broken(f"status {event.status_code} that leads to no answer")
            case h11.Response():
                self._response = event
                _check_head(event, request)
            case h11.Data():
                if len(self._body) + len(event.data) > request.max_reply:
                    raise _too_large(request)
                self._body += event.data
            case h11.EndOfMessage():
                if self._body and self._response is not None and self._response.status_code == _RESET_CONTENT:
                    raise _broken("status 205 with a body")
                self._over = True
            case _:
                raise _broken("an answer that ends too early")


def _check_head(response: h11.Response, request: RestRequest) -> None:
    if response.status_code >= _STATUSES_END:
        raise _broken(f"status {response.status_code}")
    headers = dict(response.headers)
    length = headers.get(b"content-length")
    if sum(len(name) + len(value) for name, value in response.headers) > MAX_HEADERS:
        raise MalformedReplyError("the server's headers are too large")
    if any(_CONTROL.search(value) for _, value in response.headers):
        raise _broken("a control character in a header")
    if length is not None and b"transfer-encoding" in headers:
        raise _broken("an answer that says its length in two ways")
    if any(value.lower() != b"identity" for name, value in response.headers if name == b"content-encoding"):
        raise MalformedReplyError("the server's answer is compressed, which was not asked for")
    if request.method == "HEAD" or response.status_code in _WITHOUT_BODY:
        return
    if length is None and b"transfer-encoding" not in headers:
        raise _broken("an answer that does not say where it ends")
    if length is not None and int(length) > request.max_reply:
        raise _too_large(request)


def _too_large(request: RestRequest) -> MalformedReplyError:
    return MalformedReplyError(
        f"the answer is larger than {request.max_reply} bytes",
        hint="If the model's outputs are meant to be that large, allow more (max_reply_bytes).",
    )


def _broken(what: str) -> MalformedReplyError:
    return MalformedReplyError(f"the server breaks the rules of HTTP/1.1: {what}")
