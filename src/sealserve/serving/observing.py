"""Telling the data plane's observer of requests."""

from __future__ import annotations

import time
from types import TracebackType

from sealserve.serving.core import ModelServer
from sealserve.serving.errors import RequestError


def observed(core: ModelServer, model: str, method: str, api: str = "GRPC") -> Observed:
    """Tell the observer, if there is one, how the request in the ``with`` block ended and how long it took.

    :param model: the name that the request has. One that no model has is told as "": callers choose it, and whoever
        counts by name must not be made to count without end.
    :param method: ``Predict``, ``Classify``, ``Regress``, ``MultiInference`` or ``ModelInfer``.
    :param api: ``GRPC`` or ``REST``.
    """
    return Observed(core, model, method, api)


class Observed:
    """See :func:`observed`. A class and no generator: every request passes here."""

    __slots__ = ("_api", "_began", "_core", "_method", "_model")

    def __init__(self, core: ModelServer, model: str, method: str, api: str) -> None:
        self._core = core
        self._model = model
        self._method = method
        self._api = api

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        observer = self._core.observer
        if observer is None:
            return
        status = "OK" if error is None else error.code if isinstance(error, RequestError) else "INTERNAL"
        known = self._model if self._model in self._core.names() else ""
        observer.request(known, self._method, self._api, status, time.monotonic() - self._began)
