"""What is asked of an API server, and done there. Objects are dictionaries, as they were rendered."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal, cast

from sealserve.kubernetes.live.answers import lines_of, warnings_of
from sealserve.kubernetes.live.connection import Connection, Request, ignore, parsed
from sealserve.kubernetes.live.kinds import POD, Kind, describe, kind_of
from sealserve.kubernetes.yaml_text import Object, without_comments

FIELD_MANAGER: Final = "sealserve"
"""Under this name the fields of our objects are owned. See
https://kubernetes.io/docs/reference/using-api/server-side-apply/."""

Labels = Mapping[str, str | tuple[str, ...]]
"""Name → value, or the values of which it is to be one."""


class Cluster(Connection):
    """A cluster's objects and logs, through its API server."""

    def get(self, kind: Kind, name: str, *, namespace: str | None = None) -> Object | None:
        """An object; None if there is none. :raises MissingKindError: the cluster has no such kind."""
        path = kind.path(namespace, name)
        return cast("Object | None", self.ask_if_there(Request("GET", path, path, kind)))

    def list(
        self,
        kind: Kind,
        *,
        namespace: str | None = None,
        labels: Labels | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[Object]:
        """All objects, of a namespace or of all, with these labels and fields. Large lists come in pieces of 500.

        :raises MissingKindError: the cluster has no such kind.
        """
        path, query = kind.path(namespace), {"limit": "500", **_selectors(labels, fields)}
        found: list[Object] = []
        while True:
            page = cast("Object", self.ask(Request("GET", path, path, kind, query=query)))
            found += [{"apiVersion": kind.api_version, "kind": kind.name, **item} for item in page["items"]]
            if not (following := page["metadata"].get("continue")):
                return found
            query["continue"] = following

    def watch(
        self, kind: Kind, *, namespace: str, labels: Labels | None = None, seconds: float
    ) -> Iterator[tuple[str, Object]]:
        """Changes as they happen, for so many seconds at most: ``ADDED`` (first those that are there), ``MODIFIED`` or
        ``DELETED``, and the object. It may end sooner: list again, and watch on.
        """
        query = {"watch": "true", "timeoutSeconds": str(max(1, round(seconds))), **_selectors(labels)}
        request = Request("GET", kind.path(namespace), kind.plural, kind, query=query, endless=True)
        for line in lines_of(self.send(request)):
            change = json.loads(line)
            if change["type"] not in {"ADDED", "MODIFIED", "DELETED"}:
                return  # BOOKMARK was not asked for; ERROR: what was seen last is too old
            yield change["type"], change["object"]

    def apply(
        self, thing: Object, *, dry_run: bool = False, force: bool = False, on_warning: Callable[[str], None] = ignore
    ) -> Object:
        """Server-side apply, with strict validation of fields. :returns: the object as it is then.

        :param force: take fields from other managers. :param on_warning: called with each warning of the server.
        :raises ConflictError: without ``force``, another manager owns a field.
        :raises ClusterRefusedError: the server refuses the object; ``causes`` says why.
        """
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict", "force": str(force).lower()}
        if dry_run:
            query["dryRun"] = "All"
        kind, metadata, body = kind_of(thing), thing["metadata"], without_comments(thing)
        path = kind.path(metadata.get("namespace"), metadata["name"])
        content = "application/apply-patch+yaml"
        request = Request("PATCH", path, describe(thing), kind, query=query, body=body, content=content)
        response = self.send(request)
        for warning in warnings_of(response):
            on_warning(warning)
        return cast("Object", parsed(response, request.of))

    def patch(
        self, kind: Kind, name: str, change: Any, *, namespace: str | None = None, subresource: str | None = None
    ) -> Object:
        """A JSON merge patch. :raises ClusterRefusedError: the server refuses it, or there is no such object."""
        path, query = kind.path(namespace, name, subresource), {"fieldManager": FIELD_MANAGER}
        content = "application/merge-patch+json"
        request = Request("PATCH", path, f"{kind} {name}", kind, query=query, body=change, content=content)
        return cast("Object", self.ask(request))

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
        path = kind.path(namespace, name)
        return self.ask_if_there(Request("DELETE", path, f"{kind} {name}", kind, body=options)) is not None

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
        query = _log_query(
            container=container,
            tailLines=tail,
            sinceSeconds=since,
            timestamps=timestamps,
            previous=previous,
            limitBytes=1 << 20,
        )
        path = POD.path(namespace, pod, "log")
        response = self.send(Request("GET", path, f"the log of {pod}", query=query, quick=quick))
        return response.data.decode(errors="replace")

    def follow_logs(
        self,
        pod: str,
        *,
        namespace: str,
        tail: int | None = None,
        since: int | None = None,
        timestamps: bool = False,
    ) -> Iterator[str]:
        """Lines as they are said, until the container ends."""
        query = _log_query(tailLines=tail, sinceSeconds=since, timestamps=timestamps, follow=True)
        path = POD.path(namespace, pod, "log")
        yield from lines_of(self.send(Request("GET", path, f"the log of {pod}", query=query, endless=True)))

    def raw(self, path: str, *, of: str) -> Any:
        """The JSON at a path such as ``/version``; None if there is nothing there."""
        return self.ask_if_there(Request("GET", path, of))

    def post(self, path: str, body: Object, *, of: str) -> Object:
        """Create, for reviews of access and the like, which are stored nowhere."""
        return cast("Object", self.ask(Request("POST", path, of, body=body)))

    def version(self) -> tuple[int, int]:
        """Major and minor version of the API server."""
        told = self.raw("/version", of="the version") or {}
        digits = ["".join(c for c in str(told.get(part, "0")) if c.isdigit()) or "0" for part in ("major", "minor")]
        return int(digits[0]), int(digits[1])


def _log_query(**given: str | int | bool | None) -> dict[str, str]:
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in given.items()
        if value is not None and value is not False
    }


def _selectors(labels: Labels | None, fields: Mapping[str, str] | None = None) -> dict[str, str]:
    """As https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors has them."""
    wanted = {
        "labelSelector": [
            f"{name}={value}" if isinstance(value, str) else f"{name} in ({','.join(value)})"
            for name, value in (labels or {}).items()
        ],
        "fieldSelector": [f"{name}={value}" for name, value in (fields or {}).items()],
    }
    return {name: ",".join(parts) for name, parts in wanted.items() if parts}
