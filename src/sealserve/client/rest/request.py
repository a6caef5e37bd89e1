"""One REST request, and what its path says of it."""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import unquote

from sealserve.client.deadline import Deadline
from sealserve.client.errors import ModelNotAcceptedError
from sealserve.client.rest.http1 import RestProtocol
from sealserve.client.rest.reply import RestReply
from sealserve.errors import InputError

EVIDENCE_PATH = "/v1/attestation:evidence"
MODEL_VERSION = "sealserve-model-version"
"""Header of an answer: which version of the model gave it. TensorFlow Serving's JSON does not tell."""

MAX_HEADERS = 8 * 1024
"""Bytes of headers and path that a request may have: replicas take 8 KiB a line."""

_COMPRESSION = 1  # nearly as small as with more, in a fifth of the time
_METHODS = frozenset({"GET", "HEAD", "POST"})
_PATH = re.compile(r"/[!-~]*")
_NAME = re.compile(r"[0-9A-Za-z_-]+")
_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?|")
# The request's own, and what HTTP/1.1 says about the connection (RFC 9110, section 7.6.1).
_RESERVED = frozenset(
    {"host", "user-agent", "content-length", "connection", "keep-alive", "proxy-connection", "te", "trailer"}
    | {"transfer-encoding", "upgrade", "expect", "accept-encoding", "proxy-authorization", "proxy-authenticate"}
)
_INFERENCE = re.compile(
    r"/v1/models/(?P<v1>[^/:]+)(?:/(?:versions|labels)/[^/:]+)?:(?:predict|classify|regress)"
    r"|/v2/models/(?P<v2>[^/]+)(?:/versions/[^/]+)?/infer/*",
    re.IGNORECASE,
)

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class RestRequest:
    """A request.

    :param path: with its query, as it stands on the wire. :param headers: beside those of the connection.
    :param body: in parts, which must not change until it was answered. :param max_reply: bytes of the answer's body.
    :raises InputError: method, path or a header cannot be sent.
    """

    method: str
    path: str
    body: Sequence[bytes | memoryview] = field(default=(), repr=False)  # inputs are not for logs
    headers: Headers = ()
    max_reply: int = 1 << 20

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise InputError(f"the method {self.method!r} is not sent", hint="Use GET, HEAD or POST.")
        if not _PATH.fullmatch(self.path) or "#" in self.path:
            raise InputError("the path cannot be sent", hint="It begins with / and is escaped where it must be.")
        size = len(self.path)
        for name, value in self.headers:
            if not _NAME.fullmatch(name) or name.lower() in _RESERVED or not _VALUE.fullmatch(value):
                raise InputError(f"the header {name[:80]!r} cannot be sent", hint="Text is printable ASCII.")
            size += len(name) + len(value)
        if size > MAX_HEADERS:
            raise InputError(f"path and headers have more than {MAX_HEADERS} bytes", hint="Send fewer headers.")

    def compressed(self) -> RestRequest:
        """The same with its body under gzip."""
        body = gzip.compress(b"".join(self.body), compresslevel=_COMPRESSION, mtime=0)
        return replace(self, body=[body], headers=(*self.headers, ("content-encoding", "gzip")))

    def begin(self, http: RestProtocol, authority: str, deadline: Deadline) -> None:
        """Start it on a connection. :raises DeadlinePassedError: there is no time left."""
        deadline.remaining("sending")
        http.begin(self, authority)

    @property
    def model(self) -> str | None:
        """The model that is to answer; None if the path is not one of an inference."""
        found = _INFERENCE.fullmatch(self.path.partition("?")[0])
        return unquote(found["v1"] or found["v2"]) if found else None

    @property
    def repeatable(self) -> bool:
        """Whether it may reach a server twice: inferences change nothing, and so do GET and HEAD."""
        return self.method != "POST" or self.model is not None

    def answering_model(self, reply: RestReply) -> tuple[str, int] | None:
        """The model and version that an answer is of; None if it is no answer of a model.

        :raises ModelNotAcceptedError: it may be one, and does not tell.
        """
        if self.method != "POST" or not 200 <= reply.status < 300 or self.path == EVIDENCE_PATH:
            return None
        version = reply.header(MODEL_VERSION) or ""
        if self.model is None or not re.fullmatch("[0-9]{1,19}", version):
            raise ModelNotAcceptedError(
                "the answer does not say which version of which model it is of, and the policy lists models",
                hint="The replica may be of an older version than this client.",
            )
        return self.model, int(version)
