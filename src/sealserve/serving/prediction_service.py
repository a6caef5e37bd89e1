"""``tensorflow.serving.PredictionService`` in front of the data plane.

Behaviour and messages follow TensorFlow Serving's ``predict_util.cc`` and ``get_model_metadata_impl.cc``; for what
takes tf.Examples, see :mod:`sealserve.serving.examples`.
"""

from __future__ import annotations

import grpc

from sealserve.serving.core import ModelChoice, ModelServer
from sealserve.serving.engine import DEFAULT_SIGNATURE, Array, Waiting
from sealserve.serving.errors import RequestError
from sealserve.serving.examples import classify, multi_inference, regress
from sealserve.serving.examples.input import merged_bytes
from sealserve.serving.methods import Service, unary_method
from sealserve.serving.model_spec import fill_model_spec, model_choice, model_spec
from sealserve.serving.observing import observed
from sealserve.wire.tensorflow_serving_pb2 import (
    ClassificationResponse,
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    MultiInferenceResponse,
    PredictRequest,
    PredictResponse,
    RegressionResponse,
    SignatureDefMap,
)
from sealserve.wire.tensorflow_serving_serialized_pb2 import SerializedExamplesRequest, SerializedMultiInferenceRequest
from sealserve.wire.tensors import TensorError, declared_bytes, to_numpy, write_tensor

SERVICE_NAME = "tensorflow.serving.PredictionService"
SIGNATURE_FIELD = "signature_def"


class PredictionService:
    """All of its methods.

    :param max_bytes: of a request, of inputs that are declared larger than the data they came with, and of Examples
        with their context.
    """

    def __init__(self, core: ModelServer, *, max_bytes: int) -> None:
        self._core = core
        self._max_bytes = max_bytes

    def service(self) -> Service:
        """The service for :func:`create_server`."""
        most = self._max_bytes
        methods = {
            "Predict": unary_method(self.predict, PredictRequest, max_bytes=most, grows=self._filled),
            "Classify": unary_method(self.classify, SerializedExamplesRequest, max_bytes=most, grows=self._merged),
            "Regress": unary_method(self.regress, SerializedExamplesRequest, max_bytes=most, grows=self._merged),
            "MultiInference": unary_method(
                self.multi_inference, SerializedMultiInferenceRequest, max_bytes=most, grows=self._merged
            ),
            "GetModelMetadata": unary_method(self.get_model_metadata, GetModelMetadataRequest),
        }
        return Service(SERVICE_NAME, methods)

    def predict(self, request: PredictRequest, context: grpc.ServicerContext) -> PredictResponse:
        """The method ``Predict``."""
        with observed(self._core, request.model_spec.name, "Predict"):
            choice = _choice(request)
            signature = request.model_spec.signature_name or DEFAULT_SIGNATURE
            # The model comes first: what is wrong with its name is said before what is wrong with the tensors.
            with self._core.use(choice) as (version, loaded):
                inputs = self._read_all(request)
                answer = loaded.predict(signature, inputs, list(request.output_filter), wanted=_waiting(context))
            # TensorFlow Serving answers with typed values, and clients read them: `outputs["y"].float_val`.
            response = PredictResponse()
            fill_model_spec(response.model_spec, choice.name, version, signature)
            outputs = response.outputs
            for name, array in answer.items():
                write_tensor(outputs[name], array, typed_values=True)
            return response

    def classify(self, request: SerializedExamplesRequest, context: grpc.ServicerContext) -> ClassificationResponse:
        """The method ``Classify``."""
        with observed(self._core, request.model_spec.name, "Classify"):
            return classify(
                self._core,
                _choice(request),
                request.input,
                signature=request.model_spec.signature_name,
                wanted=_waiting(context),
                max_bytes=self._max_bytes,
            )

    def regress(self, request: SerializedExamplesRequest, context: grpc.ServicerContext) -> RegressionResponse:
        """The method ``Regress``."""
        with observed(self._core, request.model_spec.name, "Regress"):
            return regress(
                self._core,
                _choice(request),
                request.input,
                signature=request.model_spec.signature_name,
                wanted=_waiting(context),
                max_bytes=self._max_bytes,
            )

    def multi_inference(
        self, request: SerializedMultiInferenceRequest, context: grpc.ServicerContext
    ) -> MultiInferenceResponse:
        """The method ``MultiInference``."""
        name = request.tasks[0].model_spec.name if request.tasks else ""
        with observed(self._core, name, "MultiInference"):
            return multi_inference(self._core, request, wanted=_waiting(context), max_bytes=self._max_bytes)

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
        response = GetModelMetadataResponse(model_spec=model_spec(choice.name, version))
        packed = response.metadata[SIGNATURE_FIELD]
        packed.type_url = f"type.googleapis.com/{SignatureDefMap.DESCRIPTOR.full_name}"
        packed.value = SignatureDefMap(signature_def=definitions).SerializeToString(deterministic=True)
        return response

    def _filled(self, request: PredictRequest) -> int:
        total = sum(declared_bytes(tensor) for tensor in request.inputs.values() if not tensor.tensor_content)
        return total if total <= self._max_bytes else 0  # what is larger is refused

    def _merged(self, request: SerializedExamplesRequest | SerializedMultiInferenceRequest) -> int:
        total = merged_bytes(request.input)
        return total if total <= self._max_bytes else 0

    def _read_all(self, request: PredictRequest) -> dict[str, Array]:
        """All inputs, within one budget: a small request must not be filled up to many large arrays."""
        left, inputs = self._max_bytes, {}
        for name, tensor in request.inputs.items():
            try:
                inputs[name] = array = to_numpy(tensor, max_bytes=max(left, 0))
            except TensorError as error:
                raise RequestError(f"tensor parsing error: {name}: {error.message}") from error
            left -= array.nbytes
        return inputs


def _choice(request: PredictRequest | GetModelMetadataRequest | SerializedExamplesRequest) -> ModelChoice:
    if not request.HasField("model_spec"):
        raise RequestError("Missing ModelSpec")
    return model_choice(request.model_spec)


def _waiting(context: grpc.ServicerContext) -> Waiting:
    return Waiting(context.is_active, context.time_remaining)
