"""The question for evidence over REST: the messages of the gRPC method, in protobuf's own JSON.

It waits for a thread like any request for an answer, and is refused like one when there is no room.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from google.protobuf.json_format import MessageToJson, Parse, ParseError

from sealserve.enclave.attestation import AttestationService
from sealserve.serving.errors import RequestError
from sealserve.serving.methods import SMALL
from sealserve.serving.rest.json_text import Take
from sealserve.serving.rest.work import Reply, Work
from sealserve.wire.attestation_pb2 import EvidenceRequest

EVIDENCE_PATH = "/v1/attestation:evidence"


def evidence_work(service: AttestationService) -> Mapping[str, Work]:
    """For :func:`~sealserve.serving.rest.server.create_rest_server`: what a POST to the path of evidence does."""

    def answer(body: bytes, wanted: Callable[[], bool], take: Take) -> Reply:
        del wanted, take  # it is quick, and small
        try:
            request = Parse(body, EvidenceRequest())
        except (ParseError, UnicodeDecodeError) as error:
            raise RequestError('the request is no JSON of the form {"nonce": "BASE64"}') from error
        return Reply(MessageToJson(service.answer(request), indent=None).encode())

    return {EVIDENCE_PATH: Work(answer, max_bytes=SMALL)}
