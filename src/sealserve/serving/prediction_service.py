"""``tensorflow.serving.PredictionService`` in front of the data plane.

Behaviour and messages follow TensorFlow Serving's ``predict_impl.cc`` and ``get_model_metadata_impl.cc``.
"""

from __future__ import annotations

import grpc

from sealserve.serving.core import ModelChoice, ModelServer
from sealserve.serving.engine import Array
from sealserve.serving.errors import RequestError
from sealserve.serving.methods import Service, unary_method
from sealserve.wire.tensorflow_serving_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    ModelSpec,
    PredictRequest,
    PredictResponse,
    SignatureDefMap,
)
from sealserve.wire.tensors import TensorError, from_numpy, to_numpy

SERVICE_NAME = "tensorflow.serving.PredictionService"
SIGNATURE_FIELD = "signature_def"

_MOST_NAME = 1024  # characters of a model's name: errors repeat it


class PredictionService:
    """Predict and GetModelMetadata.

    :param max_bytes: of a request to predict, and of inputs that are declared larger than the data they came with.
    """

    def __init__(self, core: ModelServer, *, max_bytes: int) -> None:
        self._core = core
        self._max_bytes = max_bytes

    def service(self) -> Service:
        """The service for :func:`create_server`."""
        methods = {
            "Predict": unary_method(self.predict, PredictRequest, max_bytes=self._max_bytes),
            "GetModelMetadata": unary_method(self.get_model_metadata, GetModelMetadataRequest),
        }
        return Service(SERVICE_NAME, methods)

    def predict(self, request: PredictRequest, context: grpc.ServicerContext) -> PredictResponse:
        """The method ``Predict``."""
        choice = _choice(request)
        # Looked up first: what is wrong with the name is said before what is wrong with the tensors.
        self._core.find(choice)
        inputs = self._read_all(request)
        answer = self._core.predict(
            choice,
            inputs,
            list(request.output_filter),
            signature=request.model_spec.signature_name,
            wanted=context.is_active,
        )
        # TensorFlow Serving answers with typed values, and clients read them: `outputs["y"].float_val`.
        outputs = {name: from_numpy(array, typed_values=True) for name, array in answer.outputs.items()}
        return PredictResponse(model_spec=_spec(choice.name, answer.version, answer.signature), outputs=outputs)

    def get_model_metadata(
        self, request: GetModelMetadataRequest, _context: grpc.ServicerContext
    ) -> GetModelMetadataResponse:
        """The method ``GetModelMetadata``."""
        choice = _choice(request)
        if not request.metadata_field:
            raise RequestError("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != SIGNATURE_FIELD:
                raise RequestError(f"Metadata field {field} is not supported")
        version, definitions = self._core.metadata(choice)
        response = GetModelMetadataResponse(model_spec=_spec(choice.name, version))
        packed = response.metadata[SIGNATURE_FIELD]
        packed.type_url = f"type.googleapis.com/{SignatureDefMap.DESCRIPTOR.full_name}"
        packed.value = SignatureDefMap(signature_def=definitions).SerializeToString(deterministic=True)
        return response

    def _read_all(self, request: PredictRequest) -> dict[str, Array]:
        """All inputs, within one budget: a small request must not be filled up to many large arrays."""
        left, inputs = self._max_bytes, {}
        for name in request.inputs:
            inputs[name] = array = self._read(name, request, max(left, 0))
            left -= array.nbytes
        return inputs

    def _read(self, name: str, request: PredictRequest, max_bytes: int) -> Array:
        try:
            return to_numpy(request.inputs[name], max_bytes=max_bytes)
        except TensorError as error:
            raise RequestError(f"tensor parsing error: {name}: {error.message}") from error


def _choice(request: PredictRequest | GetModelMetadataRequest) -> ModelChoice:
    if not request.HasField("model_spec"):
        raise RequestError("Missing ModelSpec")
    spec = request.model_spec
    if len(spec.name) > _MOST_NAME:
        raise RequestError(f"the model's name has {len(spec.name)} characters; at most {_MOST_NAME} are supported")
    match spec.WhichOneof("version_choice"):
        case "version":
            return ModelChoice(spec.name, version=spec.version.value)
        case "version_label":
            return ModelChoice(spec.name, label=spec.version_label)
        case _:
            return ModelChoice(spec.name)


def _spec(name: str, version: int, signature: str = "") -> ModelSpec:
    spec = ModelSpec(name=name, signature_name=signature)
    spec.version.value = version
    return spec
