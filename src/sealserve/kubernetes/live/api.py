"""The API server, as the kubeconfig leads to it.

Objects are dictionaries, as they were rendered. Requests that find the server away, restarting or overloaded are
repeated for a while: all that are made here may be made twice. The API: https://kubernetes.io/docs/reference/using-api/.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self, cast
from urllib.parse import urlencode

import urllib3
from kubernetes.client import ApiClient, Configuration
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException

from sealserve.errors import UnavailableError
from sealserve.kubernetes.live.answers import cause_of, is_passing, lines_of, refusal_of, warnings_of
from sealserve.kubernetes.live.errors import ClusterRefusedError, KubeconfigError, MissingKindError
from sealserve.kubernetes.live.kinds import POD, Kind, describe, kind_of
from sealserve.kubernetes.live.kubeconfig import load
from sealserve.kubernetes.yaml_text import Object, without_comments

FIELD_MANAGER: Final = "sealserve"
"""Under this name the fields of our objects are owned. See
https://kubernetes.io/docs/reference/using-api/server-side-apply/."""

_TIMEOUT = (5.0, 30.0)  # to connect, and for each read
_QUICK = 5.0
_PATIENCE = 60.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 3.0
_LARGEST = 256 << 20  # bytes of an answer: 500 objects are fewer
_PASSING = (429, 500, 502, 503, 504)


def _ignore(_: str) -> None:
    pass


class Cluster:
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
        on_wait: Callable[[str], None] = _ignore,
    ) -> None:
        self._client = client
        self._patience, self._first_patience = patience, first_patience
        self._answered = False
        self._on_wait = on_wait
        self.requests = 0
        """How many requests were sent."""

    @classmethod
    def connect(
        cls,
        kubeconfig: Path | None = None,
        context: str | None = None,
        *,
        patience: float = _PATIENCE,
        first_patience: float = _PATIENCE,
        on_wait: Callable[[str], None] = _ignore,
    ) -> Self:
        """Read the kubeconfig (``KUBECONFIG``, ``~/.kube/config``, or a pod's account), and send nothing yet.

        :raises KubeconfigError: there is none, it has no such context, or its credentials cannot be had.
        """
        configuration = Configuration()
        load(configuration, kubeconfig, context)
        return cls(ApiClient(configuration), patience=patience, first_patience=first_patience, on_wait=on_wait)

    @property
    def server(self) -> str:
        """URL of the API server."""
        return str(self._client.configuration.host)

    @property
    def verified(self) -> bool:
        """Whether the server's certificate is checked, or there is none."""
        return bool(self._client.configuration.verify_ssl) or self.server.startswith("http://")

    def close(self) -> None:
        self._client.rest_client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- objects ----------------------------------------------------------------------------------------------------

    def get(self, kind: Kind, name: str, *, namespace: str | None = None) -> Object | None:
        """An object; None if there is none. :raises MissingKindError: the cluster has no such kind."""
        return cast("Object | None", self._json("GET", kind.path(namespace, name), kind=kind, absent=True))

    def list(
        self,
        kind: Kind,
        *,
        namespace: str | None = None,
        labels: Mapping[str, str | tuple[str, ...]] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[Object]:
        """All objects, of a namespace or of all, with these labels and fields. Large lists come in pieces of 500.

        :param labels: name → value, or the values of which it is to be one.
        :raises MissingKindError: the cluster has no such kind.
        """
        query = {"limit": "500"}
        if labels:
            query["labelSelector"] = _selector(labels)
        if fields:
            query["fieldSelector"] = _selector(fields)
        found: list[Object] = []
        while True:
            page = cast("Object", self._json("GET", kind.path(namespace), query=query, kind=kind))
            found += [{"apiVersion": kind.api_version, "kind": kind.name, **item} for item in page["items"]]
            if not (following := page["metadata"].get("continue")):
                return found
            query["continue"] = following

    def apply(
        self, thing: Object, *, dry_run: bool = False, force: bool = False, on_warning: Callable[[str], None] = _ignore
    ) -> Object:
        """Server-side apply, with strict validation of fields. :returns: the object as it is then.

        :param force: take fields from other managers. :param on_warning: called with each warning of the server.
        :raises ConflictError: without ``force``, another manager owns a field.
        :raises ClusterRefusedError: the server refuses the object; ``causes`` says why.
        """
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict", "force": str(force).lower()}
        if dry_run:
            query["dryRun"] = "All"
        kind, metadata = kind_of(thing), thing["metadata"]
        path = kind.path(metadata.get("namespace"), metadata["name"])
        content = "application/apply-patch+yaml"
        response = self._send(
            "PATCH", path, query=query, body=without_comments(thing), content=content, kind=kind, of=describe(thing)
        )
        for warning in warnings_of(response):
            on_warning(warning)
        return cast("Object", _parsed(response, describe(thing)))

    def patch(
        self, kind: Kind, name: str, change: Any, *, namespace: str | None = None, subresource: str | None = None
    ) -> Object:
        """A JSON merge patch. :raises ClusterRefusedError: the server refuses it, or there is no such object."""
        path, query, of = kind.path(namespace, name, subresource), {"fieldManager": FIELD_MANAGER}, f"{kind} {name}"
        content = "application/merge-patch+json"
        return cast("Object", self._json("PATCH", path, query=query, body=change, content=content, kind=kind, of=of))

    def delete(
        self,
        kind: Kind,
        name: str,
        *,
        namespace: str | None = None,
        propagation: Literal["Orphan", "Background"] = "Background",
        uid: str | None = None,
        grace: int | None = None,
    ) -> bool:
        """Delete an object. :param uid: only if it is this very one. :returns: whether there was one.

        :param grace: seconds that a pod has to end, in the place of those that it asks for.
        """
        options: Object = {"propagationPolicy": propagation}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        of = f"{kind} {name}"
        return self._json("DELETE", kind.path(namespace, name), body=options, kind=kind, of=of, absent=True) is not None

    # --- pods -------------------------------------------------------------------------------------------------------

    def logs(
        self,
        pod: str,
        *,
        namespace: str,
        container: str | None = None,
        tail: int | None = None,
        previous: bool = False,
        since: int | None = None,
        timestamps: bool = False,
        quick: bool = False,
    ) -> str:
        """What a container said, at most 1 MiB of it. :raises ClusterRefusedError: it cannot be had (yet).

        :param quick: ask once, for five seconds: the API server has logs from nodes, which may be gone.
        """
        query = self._log_query(container, tail=tail, since=since, timestamps=timestamps)
        query |= {"previous": str(previous).lower(), "limitBytes": str(1 << 20)}
        path = POD.path(namespace, pod, "log")
        response = self._send("GET", path, query=query, of=f"the log of {pod}", quick=quick)
        return response.data.decode(errors="replace")

    def follow_logs(
        self,
        pod: str,
        *,
        namespace: str,
        container: str | None = None,
        tail: int | None = None,
        since: int | None = None,
        timestamps: bool = False,
    ) -> Iterator[str]:
        """Lines as they are said, until the container ends."""
        query = self._log_query(container, tail=tail, since=since, timestamps=timestamps) | {"follow": "true"}
        response = self._send("GET", POD.path(namespace, pod, "log"), query=query, of=f"the log of {pod}", endless=True)
        yield from lines_of(response)

    def _log_query(
        self, container: str | None, *, tail: int | None, since: int | None, timestamps: bool
    ) -> dict[str, str]:
        given = {"container": container, "tailLines": tail, "sinceSeconds": since}
        query = {name: str(value) for name, value in given.items() if value is not None}
        return query | ({"timestamps": "true"} if timestamps else {})

    def watch(
        self, kind: Kind, *, namespace: str, labels: Mapping[str, str | tuple[str, ...]] | None = None, seconds: float
    ) -> Iterator[tuple[str, Object]]:
        """Changes as they happen, for so many seconds at most: ``ADDED`` (first those that are there), ``MODIFIED`` or
        ``DELETED``, and the object. It may end sooner: list again, and watch on.
        """
        query = {"watch": "true", "timeoutSeconds": str(max(1, round(seconds)))}
        if labels:
            query["labelSelector"] = _selector(labels)
        response = self._send("GET", kind.path(namespace), query=query, kind=kind, of=f"{kind.plural}", endless=True)
        for line in lines_of(response):
            change = json.loads(line)
            if change["type"] not in {"ADDED", "MODIFIED", "DELETED"}:
                return  # BOOKMARK was not asked for; ERROR: what was seen last is too old
            yield change["type"], change["object"]

    # --- the server -------------------------------------------------------------------------------------------------

    def raw(self, path: str, *, of: str, query: Mapping[str, str] | None = None) -> Any:
        """The JSON at a path such as ``/version``; None if there is nothing there."""
        return self._json("GET", path, query=query, of=of, absent=True)

    def post(self, path: str, body: Object, *, of: str) -> Object:
        """Create, for reviews of access and the like, which are stored nowhere."""
        return cast("Object", self._json("POST", path, body=body, of=of))

    def version(self) -> tuple[int, int]:
        """Major and minor version of the API server."""
        told = self.raw("/version", of="the version") or {}
        digits = ["".join(c for c in str(told.get(part, "0")) if c.isdigit()) or "0" for part in ("major", "minor")]
        return int(digits[0]), int(digits[1])

    # --- requests ---------------------------------------------------------------------------------------------------

    def _json(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content: str = "application/json",
        kind: Kind | None = None,
        of: str | None = None,
        absent: bool = False,
    ) -> Any:
        """:param absent: whether None is the answer where there is no such object."""
        try:
            response = self._send(method, path, query=query, body=body, content=content, kind=kind, of=of)
        except ClusterRefusedError as error:
            if absent and error.status == 404 and not isinstance(error, MissingKindError):
                return None
            raise
        return _parsed(response, of or path)

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content: str = "application/json",
        kind: Kind | None = None,
        of: str | None = None,
        endless: bool = False,
        quick: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        """:param endless: the answer is a stream, and silence is none of its faults."""
        what = of or path
        started = time.monotonic()
        until = started + (0 if quick else self._patience)
        timeout = (_TIMEOUT[0], None if endless else _QUICK if quick else _TIMEOUT[1])
        pause, waiting = _FIRST_PAUSE, False
        while True:
            try:
                response = self._once(method, path, query=query, body=body, content=content, timeout=timeout)
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
                refusal = refusal_of(response, what, kind)
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

    def _once(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None,
        body: Any,
        content: str,
        timeout: tuple[float, float | None],
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": "application/json", "User-Agent": "sealserve"}
        if body is not None:
            headers["Content-Type"] = content
        try:
            # Runs the kubeconfig's program for credentials again, if they expired.
            self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        except (ApiException, ConfigException) as error:
            raise KubeconfigError(f"no credentials for the cluster: {error}") from error
        self.requests += 1
        url = self.server.rstrip("/") + path + (f"?{urlencode(query)}" if query else "")
        response = self._client.rest_client.pool_manager.request(
            method,
            url,
            body=None if body is None else json.dumps(body).encode(),
            headers=headers,
            timeout=urllib3.Timeout(connect=timeout[0], read=timeout[1]),
            retries=False,
            preload_content=False,
        )
        if timeout[1] is not None or response.status >= 300:
            return _whole(response)  # here, so that a connection that breaks now is a request that failed
        return response


def _parsed(response: urllib3.BaseHTTPResponse, what: str) -> Any:
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


def _selector(wanted: Mapping[str, str] | Mapping[str, str | tuple[str, ...]]) -> str:
    """As https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors has it."""
    return ",".join(
        f"{name}={value}" if isinstance(value, str) else f"{name} in ({','.join(value)})"
        for name, value in wanted.items()
    )
