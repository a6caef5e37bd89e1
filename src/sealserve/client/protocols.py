"""The two protocols that replicas are spoken to in, each on one TLS connection and without I/O of its own.

Connections drive a state machine (:class:`~sealserve.client.http2.UnaryProtocol`,
:class:`~sealserve.client.rest.http1.RestProtocol`) and begin an exchange on it; they do not know which of the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from google.protobuf.json_format import MessageToJson, Parse, ParseError

from sealserve.client.deadline import Deadline
from sealserve.client.errors import MalformedReplyError
from sealserve.client.headers import Metadata, header_block
from sealserve.client.http2 import UnaryProtocol
from sealserve.client.reply import Reply
from sealserve.client.rest.http1 import RestProtocol
from sealserve.client.rest.reply import RestReply
from sealserve.client.rest.request import EVIDENCE_PATH, RestRequest
from sealserve.wire.attestation_pb2 import EvidenceRequest, EvidenceResponse

GET_EVIDENCE = "/sealserve.v1.Attestation/GetEvidence"
MAX_EVIDENCE = 256 * 1024
"""Bytes of an answer with evidence; a quote has about 5 KB."""


class StateMachine(Protocol):
    """What a connection drives."""

    @property
    def reusable(self) -> bool:
        """Whether another exchange may begin."""

    @property
    def over(self) -> bool:
        """Whether the exchange has ended."""

    @property
    def has_more_to_send(self) -> bool:
        """Whether :meth:`outgoing` has bytes now."""

    def outgoing(self) -> bytes:
        """What is to be sent now."""

    def feed(self, data: bytes) -> None:
        """Act on what arrived."""

    def finish(self) -> Any:
        """The outcome of the exchange that is over."""


class Exchange(Protocol):
    """A request that is ready to be sent, on a connection of its protocol."""

    def begin(self, http: Any, authority: str, deadline: Deadline) -> None:
        """Start it."""


@dataclass(frozen=True)
class UnaryCall:
    """A gRPC call.

    :param method: ``/package.Service/Method``. :param message: the serialized message, in parts.
    :param max_reply: bytes that the reply's message may have.
    """

    method: str
    message: Sequence[bytes | memoryview] = field(repr=False)  # inputs are not for logs
    max_reply: int
    metadata: Metadata = ()

    def begin(self, http: UnaryProtocol, authority: str, deadline: Deadline) -> None:
        """Start it; the server is told the time that is left, and need not work for a caller who is gone."""
        block = header_block(self.method, authority, deadline.remaining("sending"), self.metadata)
        http.begin(block, self.message, max_reply=self.max_reply)


class Grpc:
    """gRPC over HTTP/2."""

    title = "HTTP/2"
    alpn = "h2"
    requires_alpn = True

    def start(self) -> UnaryProtocol:
        """The state of a new connection."""
        return UnaryProtocol()

    def question(self, request: EvidenceRequest) -> UnaryCall:
        """Ask for evidence."""
        return UnaryCall(GET_EVIDENCE, [request.SerializeToString()], MAX_EVIDENCE)

    def evidence(self, reply: Reply) -> Reply:
        """The reply to that, with a serialized ``EvidenceResponse``."""
        return reply


class Rest:
    """JSON over HTTP/1.1."""

    title = "HTTP/1.1"
    alpn = "http/1.1"
    requires_alpn = False  # many servers that speak it do not say so

    def start(self) -> RestProtocol:
        """The state of a new connection."""
        return RestProtocol()

    def question(self, request: EvidenceRequest) -> RestRequest:
        """Ask for evidence."""
        body = MessageToJson(request, indent=None).encode()
        headers = (("content-type", "application/json"), ("accept", "application/json"))
        return RestRequest("POST", EVIDENCE_PATH, [body], headers, MAX_EVIDENCE)

    def evidence(self, reply: RestReply) -> Reply:
        """The reply to that, as gRPC has it. :raises MalformedReplyError: it is none."""
        answer = reply.as_grpc()
        if answer.status:
            return answer
        try:
            response = Parse(reply.body, EvidenceResponse(), ignore_unknown_fields=True)
        except (ParseError, ValueError, RecursionError) as error:
            raise MalformedReplyError("the answer is no evidence in JSON") from error
        return Reply(0, "", response.SerializeToString())


GRPC, REST = Grpc(), Rest()
