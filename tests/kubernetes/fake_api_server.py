"""An API server over HTTP that keeps objects in memory: as much of one as it takes to watch what is asked of it.

It checks no fields and runs no controllers but one, which answers a Deployment with a ReplicaSet and pods at once. What
a real server makes of the objects is tested on a real one.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from api_server import ApiServer

from sealserve.kubernetes.live import kinds
from sealserve.kubernetes.live.api import Cluster
from sealserve.kubernetes.live.kinds import Kind

Json = dict[str, Any]
_KINDS = [kind for kind in vars(kinds).values() if isinstance(kind, Kind)]
_PATH = re.compile(
    r"/(?:api|apis/[^/]+)/[^/]+(?:/namespaces/(?P<ns>[^/]+)(?=/.))?/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?"
)


def status(code: int, message: str, *, causes: tuple[Json, ...] = (), name: str = "x") -> tuple[int, Json]:
    """A refusal as the API has them."""
    return code, {"kind": "Status", "code": code, "message": message, "details": {"name": name, "causes": list(causes)}}


@dataclass(frozen=True)
class Request:
    """A request that is about objects of a kind."""

    method: str
    path: str
    kind: Kind
    namespace: str | None
    name: str | None
    query: dict[str, str]
    body: Json


class FakeApiServer(ApiServer):
    """The server. Its attributes may be changed while it runs.

    :ivar refusals: ``Kind/name`` → the answer to every apply; with ``dry run`` before it, to dry runs alone.
    :ivar warnings: ``Kind/name`` → what apply warns of. :ivar denied: plural names of kinds that are forbidden.
    :ivar missing: kinds that are not served.
    :ivar pods: makes the replicas' ``status`` from their number. :ivar edge_pod: the edge's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.objects = {}
        self.log: list[str] = []
        self.refusals: dict[str, tuple[int, Json]] = {}
        self.warnings: dict[str, str] = {}
        self.denied: set[str] = set()
        self.missing: set[Kind] = set()
        self.pods: Callable[[int], Json] = lambda _: serving()
        self.edge_pod = serving()
        self._version = 0
        self._lock = threading.RLock()

    def put(self, thing: Json) -> Json:
        """Have an object there that somebody else made."""
        kind, metadata = kinds.kind_of(thing), thing["metadata"]
        stored = {**thing, "metadata": {"uid": f"uid-{metadata['name']}", **metadata}}
        self.objects[kind.path(metadata.get("namespace"), metadata["name"])] = self._stamped(stored)
        return stored

    def find(self, kind: Kind) -> list[Json]:
        """All objects of a kind, by name."""
        found = [thing for thing in self.objects.values() if thing["kind"] == kind.name]
        return sorted(found, key=lambda thing: thing["metadata"]["name"])

    def get(self, kind: Kind, name: str) -> Json:
        """The object of that name."""
        return next(thing for thing in self.find(kind) if thing["metadata"]["name"] == name)

    # --- requests ---

    def respond(self, method: str, target: str, body: Any) -> tuple[int, Any, str | None]:
        with self._lock:
            return self._handle(method, target, body)

    def _handle(self, method: str, target: str, body: Json | None) -> tuple[int, Json, str | None]:
        url = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path.endswith("/selfsubjectaccessreviews"):
            asked = (body or {})["spec"]["resourceAttributes"]
            return 201, {"status": {"allowed": asked["resource"] not in self.denied}}, None
        if url.path == "/version":
            return 200, {"major": "1", "minor": "36"}, None
        if re.fullmatch("/apis", url.path):
            versions = dict.fromkeys(kind.api_version for kind in _KINDS if "/" in kind.api_version)
            return 200, {"groups": [{"preferredVersion": {"groupVersion": version}} for version in versions]}, None
        if (match := re.fullmatch(r"/(?:api|apis/[^/]+)/[^/]+", url.path)) is not None:
            return 200, {"resources": self._resources(match.group(0))}, None
        match = _PATH.match(url.path)
        kind = next(
            (
                kind
                for kind in _KINDS
                if match
                and url.path.startswith(kind.path(match["ns"] if kind.namespaced else None))
                and kind.plural == match["plural"]
            ),
            None,
        )
        if match is None or kind is None or kind in self.missing:
            return 404, {"message": "404 page not found"}, None
        if kind.plural in self.denied:
            said = f'{kind.plural} is forbidden: User "poor" cannot {method.lower()} resource "{kind.plural}"'
            return *status(403, said), None
        self.log.append(f"{'dry run ' if 'dryRun' in query else ''}{method} {kind.name}/{match['name'] or ''}")
        return self._of_kind(Request(method, url.path, kind, match["ns"], match["name"], query, body or {}))

    def _resources(self, path: str) -> list[Json]:
        return [
            {"name": kind.plural, "kind": kind.name, "namespaced": kind.namespaced, "verbs": ["list"]}
            for kind in _KINDS
            if kind.path(None).rpartition("/")[0] == path and kind not in self.missing
        ]

    def _of_kind(self, request: Request) -> tuple[int, Json, str | None]:
        method, kind, name = request.method, request.kind, request.name
        if method == "GET" and name is None:
            wanted = _values(request.query.get("labelSelector", ""))
            found = [
                thing
                for thing in self.find(kind)
                if all(thing["metadata"].get("labels", {}).get(name) in values for name, values in wanted.items())
                and request.namespace in (None, thing["metadata"].get("namespace"))
            ]
            return 200, {"items": found, "metadata": {}}, None
        before = self.objects.get(request.path)
        if method == "PATCH" and "fieldValidation" in request.query:
            return self._apply(request, before)
        if before is None:
            return *status(404, f"{kind.plural} not found", name=str(name)), None
        if method == "PATCH":
            self.objects[request.path] = self._stamped(_merged(before, request.body))
        elif method == "DELETE":
            self._delete(request.path, kind, str(name))
        return 200, self.objects.get(request.path, before), None

    def _apply(self, request: Request, before: Json | None) -> tuple[int, Json, str | None]:
        kind, body, dry = request.kind, request.body, "dryRun" in request.query
        key = f"{kind.name}/{request.name}"
        refusal = self.refusals.get(key) or (self.refusals.get(f"dry run {key}") if dry else None)
        if refusal is not None and not (refusal[0] == 409 and request.query["force"] == "true"):
            return *refusal, None
        if request.namespace is not None and kinds.NAMESPACE.path(None, request.namespace) not in self.objects:
            return *status(404, f'namespaces "{request.namespace}" not found', name=request.namespace), None
        old = before or {"metadata": {"uid": f"uid-{request.name}"}}
        owned: Json = {"f:spec": {"f:replicas": {}}} if "replicas" in body.get("spec", {}) else {}
        entry = {"manager": "sealserve", "operation": "Apply", "fieldsV1": owned, "time": "2026-01-01T00:00:00Z"}
        if kind == kinds.DEPLOYMENT and before is not None and "replicas" not in body["spec"]:
            body = {**body, "spec": {**body["spec"], "replicas": before["spec"].get("replicas", 1)}}
        by_server = {
            name: old["metadata"][name] for name in ("uid", "resourceVersion", "generation") if name in old["metadata"]
        }
        after = {**body, "metadata": {**by_server, **body["metadata"], "managedFields": [entry]}}
        if "status" in old:
            after["status"] = old["status"]
        if not dry and _plain(after) != _plain(old):
            after = self._stamped(after)
            self.objects[request.path] = after
            if kind == kinds.DEPLOYMENT:
                self._control(request.path, after)
        return 200, after, self.warnings.get(key)

    def _delete(self, path: str, kind: Kind, name: str) -> None:
        del self.objects[path]
        if kind == kinds.NAMESPACE:
            for other in [other for other in self.objects if f"/namespaces/{name}/" in other]:
                del self.objects[other]
        if kind == kinds.DEPLOYMENT:
            for thing in [*self.find(kinds.POD), *self.find(kinds.REPLICA_SET)]:
                if thing["metadata"]["name"].startswith(name):
                    self.objects.pop(
                        kinds.kind_of(thing).path(thing["metadata"]["namespace"], thing["metadata"]["name"])
                    )

    def _control(self, path: str, deployment: Json) -> None:
        """Roll a Deployment out at once. Pods of another template go, unless the new ones never serve."""
        metadata, spec = deployment["metadata"], deployment["spec"]
        template = format(abs(hash(json.dumps(spec["template"], sort_keys=True))) % (1 << 32), "08x")
        metadata["generation"] = metadata.get("generation", 0) + 1
        labels = {**spec["template"]["metadata"]["labels"], "pod-template-hash": template}
        owner = [{"uid": metadata["uid"], "kind": "Deployment"}]
        revision = metadata.setdefault("annotations", {})
        revision["deployment.kubernetes.io/revision"] = template
        name, namespace, wanted = metadata["name"], metadata["namespace"], spec.get("replicas", 1)
        sets = {
            "annotations": dict(revision),
            "ownerReferences": owner,
            "labels": labels,
            "namespace": namespace,
            "name": f"{name}-{template}",
        }
        self.put(
            {
                "apiVersion": "apps/v1",
                "kind": "ReplicaSet",
                "metadata": sets,
                "status": {"replicas": wanted, "readyReplicas": wanted},
            }
        )
        ready = 0
        for number in range(wanted):
            state = self.edge_pod if name.endswith("-edge") else self.pods(number)
            ready += any(each["type"] == "Ready" and each["status"] == "True" for each in state.get("conditions", ()))
            pod = {
                "name": f"{name}-{template}-{number}",
                "namespace": namespace,
                "labels": labels,
                "ownerReferences": owner,
            }
            spec_of_pod = {"nodeName": "node", "containers": [{"name": "replica", "image": "image"}]}
            self.put({"apiVersion": "v1", "kind": "Pod", "metadata": pod, "spec": spec_of_pod, "status": state})
        if ready == wanted:
            for thing in [*self.find(kinds.POD), *self.find(kinds.REPLICA_SET)]:
                of = thing["metadata"]
                if of["name"].startswith(f"{name}-") and not of["name"].startswith(f"{name}-{template}"):
                    self.objects.pop(kinds.kind_of(thing).path(of["namespace"], of["name"]))
        deployment["status"] = {
            "observedGeneration": metadata["generation"],
            "replicas": wanted,
            "updatedReplicas": wanted,
            "readyReplicas": ready,
        }
        self.objects[path] = deployment

    def _stamped(self, thing: Json) -> Json:
        self._version += 1
        return {**thing, "metadata": {**thing["metadata"], "resourceVersion": str(self._version)}}


def serving() -> Json:
    """``status`` of a pod that serves."""
    running = {"name": "replica", "ready": True, "started": True, "restartCount": 0, "state": {"running": {}}}
    return {"conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [running]}


def ended(reason: str, message: str) -> Json:
    """``status`` of a pod whose container ended with such a line, and waits to be started again."""
    line = json.dumps({"error": message, "reason": reason})
    last = {"terminated": {"exitCode": 4, "reason": "Error", "message": line}}
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    container = {"name": "replica", "ready": False, "restartCount": 1, "state": waiting, "lastState": last}
    return {"conditions": [{"type": "Ready", "status": "False"}], "containerStatuses": [container]}


@contextmanager
def connected(fake: FakeApiServer, directory: Path, **options: Any) -> Iterator[Cluster]:
    """A connection to the server while it runs."""
    with fake, Cluster.connect(fake.kubeconfig(directory), **options) as cluster:
        yield cluster


def _values(selector: str) -> dict[str, list[str]]:
    """Label → the values of which a selector wants one."""
    found = re.findall(r"([^=, ]+)(?:=([^,]*)| in \(([^)]*)\))", selector)
    return {name: several.split(",") if several else [one] for name, one, several in found}


def _plain(thing: Json) -> Json:
    metadata = {
        name: value for name, value in thing["metadata"].items() if name not in {"resourceVersion", "generation"}
    }
    metadata["annotations"] = {
        name: value for name, value in metadata.get("annotations", {}).items() if not name.startswith("deployment.")
    }
    return {**{name: value for name, value in thing.items() if name != "status"}, "metadata": metadata}


def _merged(value: Any, change: Any) -> Any:
    if not isinstance(change, dict) or not isinstance(value, dict):
        return change
    kept = {name: entry for name, entry in value.items() if name not in change}
    return kept | {name: _merged(value.get(name), entry) for name, entry in change.items() if entry is not None}
