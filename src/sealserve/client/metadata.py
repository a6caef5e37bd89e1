"""What a served model takes and gives: the signatures that ``GetModelMetadata`` tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from sealserve.client.errors import MalformedReplyError, ModelNotServedError
from sealserve.wire import tensorflow_pb2, tensorflow_serving_pb2
from sealserve.wire.tensors import type_name

FIELD = "signature_def"
_MAP_TYPE = "tensorflow.serving.SignatureDefMap"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: its TensorFlow type (``uint8``, ``float``, ``string``) and shape.

    ``shape`` has None for sizes that are free, and is None itself where even the rank is free.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        sizes = "any shape" if self.shape is None else "x".join("?" if n is None else str(n) for n in self.shape)
        return f"{self.name}: {self.dtype} {sizes or 'scalar'}"


@dataclass(frozen=True)
class Signature:
    """A function of the model."""

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]


@dataclass(frozen=True)
class ModelMetadata:
    """A model version and its signatures."""

    model: str
    version: int
    signatures: Mapping[str, Signature]

    def signature(self, name: str) -> Signature:
        """The signature of that name.

        :raises ModelNotServedError: the model has none.
        """
        try:
            return self.signatures[name]
        except KeyError:
            raise ModelNotServedError(
                f"the model {self.model} has no signature {name!r}",
                hint=f"Its signatures: {', '.join(sorted(self.signatures)) or 'none'}.",
            ) from None


def read_metadata(response: tensorflow_serving_pb2.GetModelMetadataResponse) -> ModelMetadata:
    """Read what the server told.

    :raises MalformedReplyError: the signatures are missing or malformed.
    """
    packed = response.metadata.get(FIELD)
    if packed is None or packed.type_url.rpartition("/")[2] != _MAP_TYPE:
        raise MalformedReplyError("the server told no signatures")
    try:
        signatures = tensorflow_serving_pb2.SignatureDefMap.FromString(packed.value)
    except DecodeError as error:
        raise MalformedReplyError("the server told malformed signatures") from error
    return read_signatures(response.model_spec.name, response.model_spec.version.value, signatures)


def read_signatures(model: str, version: int, signatures: tensorflow_serving_pb2.SignatureDefMap) -> ModelMetadata:
    """The signatures of a model version."""
    return ModelMetadata(
        model=model,
        version=version,
        signatures={
            name: Signature(name, _specs(signature.inputs), _specs(signature.outputs))
            for name, signature in signatures.signature_def.items()
        },
    )


def _specs(tensors: Mapping[str, Any]) -> dict[str, TensorSpec]:
    return {name: TensorSpec(name, type_name(info.dtype), _shape(info)) for name, info in sorted(tensors.items())}


def _shape(info: tensorflow_pb2.TensorInfo) -> tuple[int | None, ...] | None:
    if info.tensor_shape.unknown_rank:
        return None
    return tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim)
