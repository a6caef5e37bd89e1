"""Telling the data plane's observer of requests."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from sealserve.serving.core import ModelServer
from sealserve.serving.errors import RequestError


@contextlib.contextmanager
def observed(core: ModelServer, model: str, method: str, api: str = "GRPC") -> Iterator[None]:
    """Tell the observer, if there is one, how the request in the block ended and how long it took.

    :param model: the name that the request has. One that no model has is told as "": callers choose it, and whoever
        counts by name must not be made to count without end.
    :param method: ``Predict``, ``Classify``, ``Regress``, ``MultiInference`` or ``ModelInfer``.
    :param api: ``GRPC`` or ``REST``.
    """
    if core.observer is None:
        yield
        return
    began, status = time.monotonic(), "INTERNAL"
    try:
        yield
        status = "OK"
    except RequestError as error:
        status = error.code
        raise
    finally:
        known = model if model in core.names() else ""
        core.observer.request(known, method, api, status, time.monotonic() - began)
