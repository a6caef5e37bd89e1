"""``grpc.health.v1.Health``: is the server, or one of its services, ready for requests?

``Check`` alone. ``Watch`` would let strangers hold a stream each for as long as they like; it is answered
UNIMPLEMENTED, which clients take for "always healthy", as the protocol says
(https://github.com/grpc/grpc/blob/master/doc/health-checking.md).
"""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from sealserve.serving.errors import UnknownServiceError
from sealserve.serving.methods import Service, unary_method

SERVICE_NAME = "grpc.health.v1.Health"


class HealthService:
    """Tells of the server (the empty name) and of each of ``services``; NOT_SERVING at first."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(("", *services))
        self.serving = False

    def service(self) -> Service:
        """The service for the server."""
        return Service(SERVICE_NAME, {"Check": unary_method(self.check, HealthCheckRequest, always=True)})

    def check(self, request: HealthCheckRequest, _context: grpc.ServicerContext) -> HealthCheckResponse:
        """The method ``Check``."""
        if request.service not in self._services:
            raise UnknownServiceError(f"the server has no service {request.service}")
        return HealthCheckResponse(
            status=HealthCheckResponse.SERVING if self.serving else HealthCheckResponse.NOT_SERVING
        )
