"""Requests to the API server, as the kubeconfig leads to it, and their answers.

Requests that find the server away, restarting or overloaded are repeated for a while: all that are made here may be
made twice. The API: https://kubernetes.io/docs/reference/using-api/.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import urllib3
from kubernetes.client import ApiClient, Configuration
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException

from sealserve.errors import UnavailableError
from sealserve.kubernetes.live.answers import cause_of, is_passing, refusal_of
from sealserve.kubernetes.live.errors import (
    ClusterRefusedError,
    KubeconfigError,
    MissingKindError,
    UncheckedServerError,
)
from sealserve.kubernetes.live.kinds import Kind
from sealserve.kubernetes.live.kubeconfig import load, unchecked

_TIMEOUT = (5.0, 30.0)  # to connect, and for each read
_QUICK = 5.0
_PATIENCE = 60.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 3.0
_LARGEST = 256 << 20  # bytes of an answer: 500 objects are fewer
_PASSING = (429, 500, 502, 503, 504)


def ignore(_: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Request:
    """What is asked.

    :ivar of: what it is about, for people. :ivar kind: of which it is an object, or which it lists.
    :ivar body: what becomes its JSON. :ivar endless: the answer is a stream, and silence is none of its faults.
    :ivar quick: ask once, for five seconds.
    """

    method: str
    path: str
    of: str
    kind: Kind | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    content: str = "application/json"
    endless: bool = False
    quick: bool = False

    @property
    def timeout(self) -> urllib3.Timeout:
        reading = None if self.endless else _QUICK if self.quick else _TIMEOUT[1]
        return urllib3.Timeout(connect=_TIMEOUT[0], read=reading)


class Connection:
    """A connection to a cluster's API server. Threads may share it.

    :param client: of the official library, with credentials.
    :param patience: seconds for which a server that is away is waited for; and :param first_patience: if it was never
        there, and its name is not known or its port closed, which is more often a mistake.
    :param on_wait: called once for each wait, with the reason.
    """

    def __init__(
        self,
        client: ApiClient,
        *,
        patience: float = _PATIENCE,
        first_patience: float = _PATIENCE,
        on_wait: Callable[[str], None] = ignore,
    ) -> None:
        self._client = client
        self._patience, self._first_patience = patience, first_patience
        self._answered = False
        self._on_wait = on_wait
        self.requests = 0
        """How many requests were sent."""

    @classmethod
    def connect(
        cls, kubeconfig: Path | None = None, context: str | None = None, *, insecure: bool = False, **options: Any
    ) -> Self:
        """Read the kubeconfig (``KUBECONFIG``, ``~/.kube/config``, or a pod's account), and send nothing yet.

        :param insecure: even if nobody checks who answers; :attr:`unchecked` says why. :param options: as above.
        :raises KubeconfigError: there is none, it has no such context, or its credentials cannot be had.
        :raises UncheckedServerError: nobody checks who answers.
        """
        configuration = Configuration()
        load(configuration, kubeconfig, context)
        if not insecure and (why := unchecked(configuration)) is not None:
            raise UncheckedServerError(
                why,
                hint="Whoever answers would get your login, and the Secrets that are applied. Name the cluster's "
                "authority in the kubeconfig; or, if that is no harm there, give --insecure-skip-tls-verify.",
            )
        return cls(ApiClient(configuration), **options)

    @property
    def server(self) -> str:
        """URL of the API server."""
        return str(self._client.configuration.host)

    @property
    def unchecked(self) -> str | None:
        """Why anybody could answer in the server's place; None if that is checked."""
        return unchecked(self._client.configuration)

    def close(self) -> None:
        self._client.rest_client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, request: Request) -> Any:
        """The JSON that is the answer. :raises ClusterRefusedError: as :meth:`send` does."""
        return parsed(self.send(request), request.of)

    def ask_if_there(self, request: Request) -> Any:
        """The same; None if there is no such object."""
        try:
            return self.ask(request)
        except ClusterRefusedError as error:
            if error.status == 404 and not isinstance(error, MissingKindError):
                return None
            raise

    def send(self, request: Request) -> urllib3.BaseHTTPResponse:
        """The answer to a request, whole unless it is ``endless``.

        :raises ClusterRefusedError: the server refuses it. :raises UnavailableError: it is away for too long.
        """
        started = time.monotonic()
        until = started + (0 if request.quick else self._patience)
        pause, waiting = _FIRST_PAUSE, False
        while True:
            try:
                response = self._once(request)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                if not self._answered and isinstance(error, urllib3.exceptions.NewConnectionError):
                    until = min(until, started + self._first_patience)
                trouble = f"the cluster at {self.server} cannot be reached ({cause_of(error)})"
                fatal = isinstance(error, urllib3.exceptions.MaxRetryError) and isinstance(
                    error.reason, urllib3.exceptions.SSLError
                )
            else:
                self._answered = True
                if response.status < 300:  # to where it redirects, if it does, nobody goes with these credentials
                    return response
                refusal = refusal_of(response, request.of, request.kind)
                if response.status not in _PASSING or (response.status == 500 and not is_passing(refusal.message)):
                    raise refusal
                trouble, fatal = f"the cluster at {self.server} is not ready ({refusal.message})", False
            if fatal or time.monotonic() + pause > until:
                raise UnavailableError(trouble, hint="Is it up, and can this machine reach it? Try `kubectl version`.")
            if not waiting:
                waiting = True
                self._on_wait(trouble)
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _once(self, request: Request) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": "application/json", "User-Agent": "sealserve"}
        if request.body is not None:
            headers["Content-Type"] = request.content
        try:
            # Runs the kubeconfig's program for credentials again, if they expired.
            self._client.update_params_for_auth(
                headers, [], ["BearerToken"], request.path, request.method, request.body
            )
        except (ApiException, ConfigException) as error:
            raise KubeconfigError(f"no credentials for the cluster: {error}") from error
        self.requests += 1
        response = self._client.rest_client.pool_manager.request(
            request.method,
            self.server.rstrip("/") + request.path + (f"?{urlencode(request.query)}" if request.query else ""),
            body=None if request.body is None else json.dumps(request.body).encode(),
            headers=headers,
            timeout=request.timeout,
            retries=False,
            preload_content=False,
        )
        if not request.endless or response.status >= 300:
            return _whole(response)  # here, so that a connection that breaks now is a request that failed
        return response


def parsed(response: urllib3.BaseHTTPResponse, what: str) -> Any:
    """The JSON of an answer. :raises UnavailableError: it is none."""
    try:
        return json.loads(response.data)
    except (ValueError, RecursionError):
        raise UnavailableError(
            f"what answers for {what} is no JSON", hint="Is it the cluster's API server, and no proxy before it?"
        ) from None


def _whole(response: urllib3.BaseHTTPResponse) -> urllib3.BaseHTTPResponse:
    """An answer with all that it says. :raises UnavailableError: that is more than anything would say."""
    data = response.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        response.close()
        raise UnavailableError(f"the cluster answers with more than {_LARGEST >> 20} MiB")
    response.release_conn()
    headers = response.headers.copy()
    for about_the_way in ("Content-Encoding", "Content-Length", "Transfer-Encoding"):
        headers.discard(about_the_way)
    return urllib3.HTTPResponse(io.BytesIO(data), headers=headers, status=response.status)
