"""Which path does what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Protocol

from sealserve.serving.core import ModelServer
from sealserve.serving.rest import kserve_api, tensorflow_api
from sealserve.serving.rest.http_errors import HttpError
from sealserve.serving.rest.work import Call, Reply, Work, malformed, require

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Finder(Protocol):
    """Whoever knows what each path does."""

    def find(self, call: Call) -> Reply | Work:
        """An answer that is there at once, or what is to be done for one.

        :raises RequestError: nobody knows the path, or not for this method.
        """


class MetricsRoute:
    """Metrics, and nothing else. :param text: gives Prometheus's text. :param path: theirs."""

    def __init__(self, text: Callable[[], bytes], path: str) -> None:
        self._text = text
        self._path = path

    def find(self, call: Call) -> Reply | Work:
        """See :class:`Finder`."""
        if call.path != self._path:
            raise HttpError(HTTPStatus.NOT_FOUND, malformed(call))
        require(call, "GET", "HEAD")
        return Work(lambda *_: Reply(self._text(), content_type=METRICS_TYPE), has_body=False, beside=True)


class Routes:
    """All paths of the server.

    :param ready: whether the server takes requests and its models are loaded.
    :param metrics: gives Prometheus's text; None: there is none.
    :param extra: what is to be done for a POST to further paths, which come first.
    """

    def __init__(
        self,
        core: ModelServer,
        *,
        ready: Callable[[], bool],
        metrics: Callable[[], bytes] | None,
        metrics_path: str,
        extra: Mapping[str, Work],
    ) -> None:
        self._extra = extra
        self._tensorflow = tensorflow_api.TensorFlowApi(core)
        self._kserve = kserve_api.KServeApi(core, ready)
        self._ready = ready
        self._metrics = None if metrics is None else MetricsRoute(metrics, metrics_path)
        self._metrics_path = metrics_path

    def find(self, call: Call) -> Reply | Work:
        """An answer that is there at once, or what is to be done for one.

        :raises RequestError: nobody knows the path, or not for this method.
        """
        match call.path:
            case path if path in self._extra:
                require(call, "POST")
                return self._extra[path]
            case "/healthz" | "/livez":
                require(call, "GET", "HEAD")
                return Reply(b"ok\n", content_type="text/plain")
            case "/readyz":
                require(call, "GET", "HEAD")
                if self._ready():
                    return Reply(b"ok\n", content_type="text/plain")
                return Reply(b"not ready\n", HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", {"Retry-After": "1"})
            case path if path == self._metrics_path and self._metrics is not None:
                return self._metrics.find(call)
            case path if path.lower().startswith(tensorflow_api.PREFIX):
                return self._tensorflow.find(call)
            case path if path == kserve_api.ROOT or path.startswith(f"{kserve_api.ROOT}/"):
                return self._kserve.find(call)
            case _:
                raise HttpError(HTTPStatus.NOT_FOUND, malformed(call))
