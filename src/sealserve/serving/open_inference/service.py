"""``inference.GRPCInferenceService``."""

from __future__ import annotations

import grpc

from sealserve.serving.core import ModelServer
from sealserve.serving.engine import Waiting
from sealserve.serving.methods import Service, unary_method
from sealserve.serving.observing import observed
from sealserve.serving.open_inference.inference import infer
from sealserve.serving.open_inference.metadata import model_metadata, model_ready, server_metadata
from sealserve.wire.open_inference_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    ServerLiveRequest,
    ServerLiveResponse,
    ServerMetadataRequest,
    ServerMetadataResponse,
    ServerReadyRequest,
    ServerReadyResponse,
)

SERVICE_NAME = "inference.GRPCInferenceService"


def service(core: ModelServer, *, max_bytes: int) -> Service:
    """The service for :func:`create_server`.

    :param max_bytes: of a request to infer.
    """

    def server_live(_request: ServerLiveRequest, _context: grpc.ServicerContext) -> ServerLiveResponse:
        return ServerLiveResponse(live=True)

    def server_ready(_request: ServerReadyRequest, _context: grpc.ServicerContext) -> ServerReadyResponse:
        return ServerReadyResponse(ready=core.ready)

    def ready(request: ModelReadyRequest, _context: grpc.ServicerContext) -> ModelReadyResponse:
        return ModelReadyResponse(ready=model_ready(core, request.name, request.version))

    def about_server(_request: ServerMetadataRequest, _context: grpc.ServicerContext) -> ServerMetadataResponse:
        return server_metadata()

    def about_model(request: ModelMetadataRequest, _context: grpc.ServicerContext) -> ModelMetadataResponse:
        return model_metadata(core, request.name, request.version)

    def model_infer(request: ModelInferRequest, context: grpc.ServicerContext) -> ModelInferResponse:
        with observed(core, request.model_name, "ModelInfer"):
            return infer(core, request, wanted=Waiting(context.is_active, context.time_remaining))

    methods = {
        "ServerLive": unary_method(server_live, ServerLiveRequest, always=True),
        "ServerReady": unary_method(server_ready, ServerReadyRequest, always=True),
        "ModelReady": unary_method(ready, ModelReadyRequest, always=True),
        "ServerMetadata": unary_method(about_server, ServerMetadataRequest),
        "ModelMetadata": unary_method(about_model, ModelMetadataRequest),
        "ModelInfer": unary_method(model_infer, ModelInferRequest, max_bytes=max_bytes),
    }
    return Service(SERVICE_NAME, methods)
