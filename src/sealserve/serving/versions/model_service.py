"""``tensorflow.serving.ModelService``: what becomes of versions, and another configuration.

Behaviour follows TensorFlow Serving's ``get_model_status_impl.cc`` and ``model_service_impl.cc``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import grpc

from sealserve.errors import ConfigurationError, TrustError
from sealserve.logs import event, get_logger
from sealserve.serving.core import ModelServer
from sealserve.serving.errors import NotPermittedError, RequestError
from sealserve.serving.methods import Service, unary_method
from sealserve.serving.model_spec import model_choice
from sealserve.serving.states import VersionStatus
from sealserve.serving.versions.model_config import check_model_server_config
from sealserve.wire.tensorflow_serving_config_pb2 import ModelServerConfig
from sealserve.wire.tensorflow_serving_pb2 import (
    GetModelStatusRequest,
    GetModelStatusResponse,
    Metric,
    ModelVersionStatus,
    ReloadConfigRequest,
    ReloadConfigResponse,
    StatusProto,
)

SERVICE_NAME = "tensorflow.serving.ModelService"

_MOST_CONFIG = 1 << 20  # bytes: some thousands of models
_MOST_METRICS = 1000

_log = get_logger(__name__)


class ModelService:
    """GetModelStatus and HandleReloadConfigRequest.

    :param reload: goes over to another list of models, which was checked; None to refuse that to callers. Nobody asks
        who they are: whoever reaches the server may call it.
    """

    def __init__(self, core: ModelServer, reload: Callable[[ModelServerConfig], None] | None) -> None:
        self._core = core
        self._reload = reload

    def service(self) -> Service:
        """The service for :func:`create_server`."""
        methods = {
            "GetModelStatus": unary_method(self.get_model_status, GetModelStatusRequest, always=True),
            "HandleReloadConfigRequest": unary_method(
                self.handle_reload_config_request, ReloadConfigRequest, max_bytes=_MOST_CONFIG
            ),
        }
        return Service(SERVICE_NAME, methods)

    def get_model_status(
        self, request: GetModelStatusRequest, _context: grpc.ServicerContext
    ) -> GetModelStatusResponse:
        """The method ``GetModelStatus``. A label is that of one version; TensorFlow Serving ignores it."""
        if not request.HasField("model_spec"):
            raise RequestError("Missing ModelSpec")
        statuses = self._core.status(model_choice(request.model_spec))
        return GetModelStatusResponse(model_version_status=map(_message, statuses))

    def handle_reload_config_request(
        self, request: ReloadConfigRequest, _context: grpc.ServicerContext
    ) -> ReloadConfigResponse:
        """The method ``HandleReloadConfigRequest``: answers when the new models are loaded.

        No metric changes by it: each that is named in the request is answered with an increase of 0.
        """
        if self._reload is None:
            raise NotPermittedError(
                "this server does not take its configuration from callers; sealserve serve does where it listens on "
                "loopback alone, with client_verify, or with --allow_reload_requests"
            )
        config = request.config
        if config.WhichOneof("config") != "model_config_list":
            raise RequestError(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported"
            )
        try:
            check_model_server_config(config)
            self._reload(config)
        except (RequestError, ConfigurationError, TrustError) as error:
            event(_log, logging.WARNING, "configuration-refused", reason=error)
            if isinstance(error, RequestError):
                raise
            raise RequestError(error.message, hint=error.hint) from error
        metrics = [Metric(name=name, int64_value_increase=0) for name in request.metric_names[:_MOST_METRICS]]
        return ReloadConfigResponse(status=StatusProto(), metric=metrics)


def _message(status: VersionStatus) -> ModelVersionStatus:
    code = "UNKNOWN_ERROR" if status.error_code == "UNKNOWN" else status.error_code  # as our message names it
    return ModelVersionStatus(
        version=status.version,
        state=ModelVersionStatus.State.Name(status.state),
        status=StatusProto(error_code=code, error_message=status.error_message),
    )
