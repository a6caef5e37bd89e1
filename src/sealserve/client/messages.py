"""TensorFlow Serving's messages as a client writes and reads them, without copies of large arrays.

A request is a list of parts that follow each other on the wire: the arrays themselves stand in it, and not their
copies. protobuf allows that, for a message is nothing but its fields one after another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, EncodeError, Message
from numpy.typing import ArrayLike

from sealserve.client.attestation import VerifiedReplica
from sealserve.client.errors import MalformedReplyError
from sealserve.client.reply import Reply
from sealserve.errors import InputError
from sealserve.evidence import VerifiedEvidence
from sealserve.wire.bfloat16 import BFLOAT16, widen
from sealserve.wire.open_inference_pb2 import ModelInferResponse
from sealserve.wire.tensorflow_pb2 import TensorProto, TensorShapeProto
from sealserve.wire.tensorflow_serving_pb2 import (
    ClassificationResponse,
    GetModelMetadataRequest,
    ModelSpec,
    MultiInferenceResponse,
    PredictRequest,
    PredictResponse,
    RegressionResponse,
)
from sealserve.wire.tensors import TensorError, from_numpy, tensor_type, to_numpy

if TYPE_CHECKING:
    from sealserve.client.receipts import Receipt

PREDICT = "/tensorflow.serving.PredictionService/Predict"
GET_MODEL_METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"

_ANSWERS: dict[str, Any] = {
    PREDICT: PredictResponse,
    "/tensorflow.serving.PredictionService/Classify": ClassificationResponse,
    "/tensorflow.serving.PredictionService/Regress": RegressionResponse,
    "/tensorflow.serving.PredictionService/MultiInference": MultiInferenceResponse,
    "/inference.GRPCInferenceService/ModelInfer": ModelInferResponse,
}

Array = np.ndarray[Any, np.dtype[Any]]
Parts = list[bytes | memoryview]
_Response = TypeVar("_Response", bound=Message)

_LARGE = 16 * 1024  # bytes from which an array is not copied
_MOST = (1 << 31) - 1
# Tags of PredictRequest.inputs (2), its entries' key (1) and value (2), and TensorProto.tensor_content (4).
_INPUTS, _KEY, _VALUE, _CONTENT = b"\x12", b"\x0a", b"\x12", b"\x22"


@dataclass(frozen=True)
class Prediction:
    """An answer, and who gave it.

    :param outputs: by name. :param model_version: that answered.
    :param checked: the replica whose TLS key the answer came under, and its evidence; None from a client that asks
        for none.
    :param seconds: from the call to the answer, with connecting, checking and repeating where that was needed.
    :param receipt: for the answer, checked; None if none was asked for.
    """

    outputs: dict[str, Array]
    model_version: int
    checked: VerifiedReplica | None
    seconds: float
    receipt: Receipt | None = None

    @property
    def verified(self) -> VerifiedReplica:
        """The replica that answered.

        :raises InputError: it was not asked for evidence.
        """
        if self.checked is None:
            raise InputError("this answer came without evidence", hint="Use Client, with a policy.")
        return self.checked

    @property
    def replica(self) -> str:
        """The name of the replica that answered, as its evidence has it."""
        return self.checked.name if self.checked else "a server without evidence"

    @property
    def evidence(self) -> VerifiedEvidence:
        """The accepted evidence of the replica that answered; errors as :attr:`verified`."""
        return self.verified.evidence


def predict_request(
    inputs: Mapping[str, ArrayLike], *, model: str, signature: str, version: int | None, outputs: Iterable[str]
) -> Parts:
    """A serialized ``PredictRequest``.

    :raises InputError: an array has no counterpart in TensorFlow, or all are too large for one message.
    """
    head = PredictRequest(model_spec=_model_spec(model, version, signature), output_filter=outputs)
    large: list[tuple[str, Array]] = []
    for name, value in inputs.items():
        array = np.asarray(value)
        if array.dtype.kind in "OSU" or array.nbytes < _LARGE:
            head.inputs[name].CopyFrom(from_numpy(array))
        else:
            large.append((name, array))
    parts: Parts = [serialize(head)]
    for name, array in large:
        parts += _entry(name.encode(), array)
    if sum(map(len, parts)) > _MOST:
        raise InputError("the request is too large for one message (2 GiB)", hint="Send fewer inputs.")
    return parts


def metadata_request(model: str, version: int | None, field: str) -> Parts:
    """A serialized ``GetModelMetadataRequest``."""
    return [serialize(GetModelMetadataRequest(model_spec=_model_spec(model, version, ""), metadata_field=[field]))]


def serialize(message: Message) -> bytes:
    """:raises InputError: the message is too large."""
    try:
        return message.SerializeToString()
    except (EncodeError, ValueError) as error:
        raise InputError("the request is too large for one message (2 GiB)", hint="Send fewer inputs.") from error


def parse(kind: type[_Response], data: bytes | memoryview) -> _Response:
    """:raises MalformedReplyError: it is no such message."""
    try:
        return kind.FromString(data)  # type: ignore[arg-type] # any buffer will do
    except DecodeError as error:
        raise MalformedReplyError("the server's answer is malformed") from error


def read_outputs(response: PredictResponse, max_bytes: int) -> dict[str, Array]:
    """An answer's outputs; bfloat16 as float32, which NumPy can compute with.

    :raises MalformedReplyError: an output is malformed, or they take more than ``max_bytes``.
    """
    left, arrays = max_bytes, {}
    try:
        for name, tensor in response.outputs.items():
            array = to_numpy(tensor, max_bytes=max(left, 0))
            arrays[name] = array = widen(array) if array.dtype == BFLOAT16 else array
            left -= array.nbytes
    except TensorError as error:
        raise MalformedReplyError(f"the server sent an output that cannot be read: {error.message}") from error
    return arrays


def is_inference(method: str) -> bool:
    """Whether a gRPC method asks a model for an answer. That changes nothing, and so may reach a server twice."""
    return method in _ANSWERS


def answering_models(method: str, reply: Reply) -> tuple[tuple[str, int], ...]:
    """The models and versions that an answer says it is of; empty if it is no answer of a model.

    :raises MalformedReplyError: it cannot be read.
    """
    kind = _ANSWERS.get(method)
    if kind is None or reply.status:
        return ()
    match parse(kind, reply.message):
        case MultiInferenceResponse() as several:
            return tuple((result.model_spec.name, result.model_spec.version.value) for result in several.results)
        case ModelInferResponse() as answer:
            if not re.fullmatch("[0-9]{1,19}", answer.model_version):
                raise MalformedReplyError("the answer does not say which version of its model it is of")
            return ((answer.model_name, int(answer.model_version)),)
        case answer:
            return ((answer.model_spec.name, answer.model_spec.version.value),)


def _entry(name: bytes, array: Array) -> Sequence[bytes | memoryview]:
    dimensions = [TensorShapeProto.Dim(size=size) for size in array.shape]
    proto = TensorProto(dtype=tensor_type(array.dtype), tensor_shape=TensorShapeProto(dim=dimensions))  # type: ignore[arg-type]
    values = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    tensor = proto.SerializeToString() + _CONTENT + _varint(values.nbytes)
    key = _KEY + _varint(len(name)) + name
    value = key + _VALUE + _varint(len(tensor) + values.nbytes) + tensor
    head = _INPUTS + _varint(len(value) + values.nbytes) + value
    return head, values.reshape(-1).view(np.uint8).data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _model_spec(model: str, version: int | None, signature: str) -> ModelSpec:
    spec = ModelSpec(name=model, signature_name=signature)
    if version is not None:
        spec.version.value = version
    return spec
