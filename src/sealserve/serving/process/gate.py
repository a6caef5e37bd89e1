"""Requests for predictions are answered UNAVAILABLE, which clients try again, until the models are there.

TensorFlow Serving does not listen before. This server does, so that it can be asked for its health and its models'.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import grpc
from google.protobuf.message import Message

from sealserve.serving.errors import NotReadyError
from sealserve.serving.methods import Method, Service


class Gate:
    """Closed at first."""

    def __init__(self) -> None:
        self._open = False

    def open(self) -> None:
        """Let requests through, from now on."""
        self._open = True

    def guard(self, service: Service, *, only: Collection[str] = ()) -> Service:
        """The same service behind the gate, or ``only`` some of its methods."""
        methods = {
            name: self._guarded(method) if isinstance(method, Method) and (not only or name in only) else method
            for name, method in service.methods.items()
        }
        return Service(service.name, methods)

    def _guarded(self, method: Method) -> Method:
        function: Callable[[Any, grpc.ServicerContext], Message] = method.function

        def guarded(request: Any, context: grpc.ServicerContext) -> Message:
            if not self._open:
                raise NotReadyError("the models are being loaded: try again later")
            return function(request, context)

        return dataclasses.replace(method, function=guarded)
