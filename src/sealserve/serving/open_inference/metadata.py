"""What the server and its models are, and whether they are ready, as the protocol says it."""

from __future__ import annotations

import sealserve
from sealserve.serving.core import ModelServer
from sealserve.serving.engine import TensorSpec
from sealserve.serving.errors import RequestError, SignatureNotFoundError
from sealserve.serving.open_inference.datatypes import require_name
from sealserve.serving.open_inference.inference import find_signature, model_choice
from sealserve.wire.open_inference_pb2 import ModelMetadataResponse, ServerMetadataResponse


def server_metadata() -> ServerMetadataResponse:
    """The server's name and version. It has no extensions."""
    return ServerMetadataResponse(name="sealserve", version=sealserve.__version__)


def model_ready(core: ModelServer, name: str, version: str = "") -> bool:
    """Whether a model has a version that answers, or whether that version does. False too if nobody knows the model."""
    try:
        with core.use(model_choice(name, version)):
            return True
    except RequestError:
        return False


def model_metadata(core: ModelServer, name: str, version: str = "") -> ModelMetadataResponse:
    """A model's versions that answer, its engine, and what its signature takes and gives that answers who names none.

    A dimension that is not known is -1; so is the one dimension that stands for a shape of which nothing is known.

    :raises RequestError: the model is not loaded, it has no such signature, or the protocol lacks a type of it.
    """
    choice = model_choice(name, version)
    with core.use(choice) as (_, loaded):
        signature = loaded.signatures.get(find_signature(loaded))
        if signature is None:
            raise SignatureNotFoundError(
                f'Serving signature key "{find_signature(loaded)}" not found: '
                f"the model has {', '.join(sorted(loaded.signatures))}"
            )
        return ModelMetadataResponse(
            name=name,
            versions=[str(number) for number in core.models.get(name, {})],
            platform=loaded.platform,
            inputs=[_tensor(alias, spec) for alias, spec in signature.inputs.items()],
            outputs=[_tensor(alias, spec) for alias, spec in signature.outputs.items()],
        )


def _tensor(name: str, spec: TensorSpec) -> ModelMetadataResponse.TensorMetadata:
    shape = [-1] if spec.shape is None else spec.shape
    return ModelMetadataResponse.TensorMetadata(name=name, datatype=require_name(spec.data_type, name), shape=shape)
