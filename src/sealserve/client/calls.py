"""What a client asks of models, in either protocol: requests to send, and answers read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

from google.protobuf.json_format import ParseDict, ParseError
from numpy.typing import ArrayLike

from sealserve.client.errors import MalformedReplyError
from sealserve.client.messages import (
    GET_MODEL_METADATA,
    PREDICT,
    Array,
    metadata_request,
    parse,
    predict_request,
    read_outputs,
)
from sealserve.client.metadata import FIELD, ModelMetadata, read_metadata, read_signatures
from sealserve.client.protocols import REST, Exchange, Grpc, Rest, UnaryCall
from sealserve.client.reply import Reply
from sealserve.client.rest.reply import RestReply
from sealserve.client.rest.request import RestRequest
from sealserve.client.rest.tensors import infer_request, read_infer
from sealserve.client.status import Code, error_of
from sealserve.errors import InputError
from sealserve.wire.tensorflow_serving_pb2 import GetModelMetadataResponse, PredictResponse, SignatureDefMap


@dataclass(frozen=True)
class Answer:
    """An answer of a model. ``outputs`` reads them, when it is sure that they may be seen."""

    model: str
    version: int
    outputs: Callable[[], dict[str, Array]]


class Calls(Protocol):
    """The calls that a client knows the meaning of; all of them may be repeated."""

    def predict(
        self,
        inputs: Mapping[str, ArrayLike],
        *,
        model: str,
        signature: str,
        version: int | None,
        outputs: Iterable[str],
        compress: bool = False,
    ) -> Exchange:
        """Run a model. :raises InputError: an input cannot be sent."""

    def prediction(self, reply: Any) -> Answer:
        """What that gave. :raises SealserveError: no success, or it is malformed."""

    def metadata(self, model: str, version: int | None) -> Exchange:
        """Ask for signatures."""

    def signatures(self, reply: Any) -> ModelMetadata:
        """What that gave; errors as :meth:`prediction`."""


def calls_of(protocol: Grpc | Rest, max_reply: int) -> Calls:
    """:param max_reply: bytes of the largest answer to take."""
    return RestCalls(max_reply) if protocol is REST else GrpcCalls(max_reply)


class GrpcCalls:
    """TensorFlow Serving's messages over gRPC."""

    def __init__(self, max_reply: int) -> None:
        self._max_reply = max_reply

    def predict(
        self,
        inputs: Mapping[str, ArrayLike],
        *,
        model: str,
        signature: str,
        version: int | None,
        outputs: Iterable[str],
        compress: bool = False,
    ) -> UnaryCall:
        """See :class:`Calls`."""
        if compress:
            raise InputError(
                "requests over gRPC are not compressed: a server would unpack them before it looks at any limit",
                hint="Make a client with the target https://host:port, which speaks REST.",
            )
        message = predict_request(inputs, model=model, signature=signature, version=version, outputs=outputs)
        return UnaryCall(PREDICT, message, self._max_reply)

    def prediction(self, reply: Reply) -> Answer:
        """See :class:`Calls`."""
        response = parse(PredictResponse, require_success(reply).message)
        spec = response.model_spec
        return Answer(spec.name, spec.version.value, lambda: read_outputs(response, self._max_reply))

    def metadata(self, model: str, version: int | None) -> UnaryCall:
        """See :class:`Calls`."""
        return UnaryCall(GET_MODEL_METADATA, metadata_request(model, version, FIELD), self._max_reply)

    def signatures(self, reply: Reply) -> ModelMetadata:
        """See :class:`Calls`."""
        return read_metadata(parse(GetModelMetadataResponse, require_success(reply).message))


class RestCalls:
    """Binary tensors of the Open Inference Protocol, and TensorFlow Serving's metadata, over REST."""

    def __init__(self, max_reply: int) -> None:
        self._max_reply = max_reply

    def predict(
        self,
        inputs: Mapping[str, ArrayLike],
        *,
        model: str,
        signature: str,
        version: int | None,
        outputs: Iterable[str],
        compress: bool = False,
    ) -> RestRequest:
        """See :class:`Calls`."""
        request = infer_request(
            inputs, model=model, signature=signature, version=version, outputs=outputs, max_reply=self._max_reply
        )
        return request.compressed() if compress else request

    def prediction(self, reply: RestReply) -> Answer:
        """See :class:`Calls`."""
        require_success(reply.as_grpc())
        model, version, arrays = read_infer(reply)
        return Answer(model, version, lambda: arrays)

    def metadata(self, model: str, version: int | None) -> RestRequest:
        """See :class:`Calls`."""
        at = f"/v1/models/{quote(model, safe='')}" + (f"/versions/{version}" if version is not None else "")
        return RestRequest("GET", f"{at}/metadata", max_reply=self._max_reply)

    def signatures(self, reply: RestReply) -> ModelMetadata:
        """See :class:`Calls`."""
        require_success(reply.as_grpc())
        document = reply.json()
        try:
            spec = document["model_spec"]
            told = ParseDict(document["metadata"][FIELD], SignatureDefMap(), ignore_unknown_fields=True)
            return read_signatures(str(spec["name"]), int(spec["version"]), told)
        except (LookupError, TypeError, ValueError, ParseError, RecursionError) as error:
            raise MalformedReplyError("the server told malformed signatures") from error


def require_success(reply: Reply) -> Reply:
    """The reply itself. :raises SealserveError: its status is not OK."""
    if reply.status != Code.OK:
        raise error_of(reply)
    return reply
