"""A little of an API server over HTTP: objects by their path, merge patches with a precondition, reviews of access."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import yaml

Answer = tuple[int, Any]


def kubeconfig(directory: Path, url: str) -> Path:
    """A kubeconfig that leads to an address."""
    path = directory / "kubeconfig"
    named = {"clusters": [{"name": "c", "cluster": {"server": url}}], "users": [{"name": "u", "user": {}}]}
    contexts = [{"name": "x", "context": {"cluster": "c", "user": "u"}}]
    content = {"apiVersion": "v1", "kind": "Config", "contexts": contexts, "current-context": "x", **named}
    path.write_text(yaml.safe_dump(content))
    return path


class ApiServer:
    """:ivar objects: path → object, or list of objects. :ivar answers: (method, path) → what answers in their place.

    :ivar written: (method, path) of all requests that were no reading ones.
    :ivar dropped: how many connections are closed without an answer.
    """

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {"/version": {"major": "1", "minor": "36", "gitVersion": "v1.36.3"}}
        self.answers: dict[tuple[str, str], Callable[[dict[str, list[str]], Any], Answer]] = {}
        self.written: list[tuple[str, str]] = []
        self.dropped = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1  # head and body in one packet, or each answer waits 40 ms for an acknowledgement

            def log_message(self, *_: object) -> None:
                pass

            def _handle(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                if server.dropped > 0:
                    server.dropped -= 1
                    self.close_connection = True
                    return
                status, answer, warning = server.respond(self.command, self.path, body)
                data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                if warning:
                    quoted = warning.replace("\\", "\\\\").replace('"', '\\"')
                    self.send_header("Warning", f'299 - "{quoted}"')
                self.end_headers()
                self.wfile.write(data)
                self.wfile.flush()

            do_GET = do_PATCH = do_POST = do_DELETE = _handle  # noqa: N815

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def kubeconfig(self, directory: Path) -> Path:
        """A kubeconfig that leads there."""
        return kubeconfig(directory, f"http://127.0.0.1:{self._http.server_port}")

    def respond(self, method: str, target: str, body: Any) -> tuple[int, Any, str | None]:
        """Status, body and warning for a request."""
        url = urlsplit(target)
        if method != "GET":
            self.written.append((method, url.path))
        if (special := self.answers.get((method, url.path))) is not None:
            return *special(parse_qs(url.query), body), None
        return *self._of_path(method, url.path, body), None

    def _of_path(self, method: str, path: str, body: Any) -> Answer:
        found = self.objects.get(path)
        match method:
            case "GET" if isinstance(found, list):
                return 200, {"metadata": {}, "items": found}
            case "GET" if found is not None:
                return 200, found
            case "PATCH" if found is not None:
                version = body["metadata"].get("resourceVersion")
                if version not in (None, found["metadata"]["resourceVersion"]):
                    return 409, {"message": "the object has been modified"}
                data = {**found.get("data", {}), **body["data"]}
                found["data"] = {key: value for key, value in data.items() if value is not None}
                found["metadata"]["resourceVersion"] = str(int(found["metadata"]["resourceVersion"]) + 1)
                return 200, found
        name = path.rpartition("/")[2]
        return 404, {"message": f"{name} not found", "details": {"name": name}}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
