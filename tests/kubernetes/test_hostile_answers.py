"""What an API server, a node or a pod says may be anything: it costs no memory, ends no command in a defect, and does
nothing to a terminal."""

from __future__ import annotations

import http.server
import io
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import urllib3
from api_server import kubeconfig
from fake_api_server import FakeApiServer, connected

from sealserve.cli.rollout_display import rollout_lines
from sealserve.errors import SealserveError, UnavailableError
from sealserve.kubernetes.live import answers, connection, kinds
from sealserve.kubernetes.live.answers import lines_of, refusal_of
from sealserve.kubernetes.live.api import Cluster
from sealserve.kubernetes.live.corefile import read_corefile
from sealserve.kubernetes.live.dns import _in_snippets
from sealserve.kubernetes.live.edge_state import EdgeState
from sealserve.kubernetes.live.replica_state import State, replica_state
from sealserve.kubernetes.live.rollout import Snapshot
from sealserve.kubernetes.live.said import last_said, served_model

_DEEP = "[" * 100_000


@pytest.mark.parametrize("line", [f'{{"error": {_DEEP}', '{"error": ' + "1" * 5000 + "}", "[]", '{"event": []}'])
def test_a_log_that_is_no_record_says_nothing(line: str) -> None:
    assert last_said(line) is None
    assert served_model(line) is None


@pytest.mark.parametrize(
    "said",
    [
        _DEEP,
        "[]",
        '{"message": "no", "details": 5}',
        '{"message": "no", "details": {"causes": [5]}}',
        '{"message": "no", "details": {"causes": 5}}',
        '{"message": "no", "details": {"causes": [{"field": 1, "message": {}}]}}',
    ],
)
def test_a_refusal_in_no_form_is_a_refusal(said: str) -> None:
    error = refusal_of(urllib3.HTTPResponse(io.BytesIO(said.encode()), status=400), "this", kinds.POD)
    assert error.message.startswith("the cluster refuses this: ")
    assert len(error.message) < 300


def test_an_answer_without_end_is_not_read_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_LARGEST", 1000)
    fake = FakeApiServer()
    with connected(fake, tmp_path, patience=0.0) as cluster:
        assert cluster.version() == (1, 36)
        labels = {"much": "x" * 2000}
        fake.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "serving", "labels": labels}})
        with pytest.raises(UnavailableError, match="more than"):
            cluster.get(kinds.NAMESPACE, "serving")


@pytest.mark.parametrize(
    ("code", "body", "words"), [(200, b"<html>", "no JSON"), (200, b"[" * 100_000, "no JSON"), (302, b"", "HTTP 302")]
)
def test_what_is_no_answer_of_an_api_server_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, body: bytes, words: str
) -> None:
    fake = FakeApiServer()
    with connected(fake, tmp_path, patience=0.0) as cluster:
        answer = urllib3.HTTPResponse(io.BytesIO(body), status=code)
        monkeypatch.setattr(cluster, "_once", lambda *_, **__: answer)
        with pytest.raises(SealserveError, match=words):
            cluster.get(kinds.NAMESPACE, "serving")


def test_credentials_follow_no_redirect(tmp_path: Path) -> None:
    asked: list[str] = []

    class Redirecting(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(307)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Redirecting)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    path = kubeconfig(tmp_path, f"http://127.0.0.1:{server.server_port}")
    with Cluster.connect(path, patience=0.0) as cluster, pytest.raises(SealserveError, match="HTTP 307"):
        cluster.get(kinds.NAMESPACE, "serving")
    server.shutdown()
    server.server_close()
    assert len(asked) == 1


def test_snippets_that_import_each_other_are_looked_at_once() -> None:
    names = [f"s{number}" for number in range(12)]
    imports = "".join(f"    import {name}\n" for name in names)
    corefile = read_corefile("".join(f"({name}) {{\n{imports}}}\n" for name in names) + f".:53 {{\n{imports}}}\n")
    started = time.monotonic()
    assert list(_in_snippets(corefile, corefile.blocks[0], "hosts")) == []
    assert time.monotonic() - started < 1


def test_a_line_without_end_comes_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_LONGEST_LINE", 100)
    pieces = list(lines_of(_Stream(b"x" * 64 + b"\n", *[b"y" * 64] * 4)))  # type: ignore[arg-type]
    assert pieces == ["x" * 64, "y" * 128, "y" * 128]


class _Stream:
    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    def stream(self, _: int) -> Any:
        return iter(self._pieces)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "pod",
    [
        {"metadata": {}},
        {"metadata": {"name": "p", "creationTimestamp": "tomorrow"}},
        {"metadata": {"name": "p", "deletionTimestamp": "0001-01-01T00:00:00+23:00", "deletionGracePeriodSeconds": 30}},
        {"metadata": {"name": "p"}, "spec": {"containers": [{}]}, "status": {"conditions": [{}, {"status": "True"}]}},
        {"metadata": {"name": "p"}, "status": {"conditions": None, "containerStatuses": [{}]}},
    ],
)
def test_a_pod_with_less_than_pods_have_is_a_replica_all_the_same(pod: dict[str, Any]) -> None:
    found = replica_state(pod)
    assert (found.state in {State.PENDING, State.LEAVING}, found.since) == (True, None)


def test_a_pods_name_commands_no_terminal() -> None:
    pod = {"metadata": {"name": "\x1b]0;x\x07"}, "status": {"phase": "Failed", "message": "\x1b[2J"}}
    state = replica_state(pod)
    assert state.state is State.FAILED
    snapshot = Snapshot((state,), frozenset(), 1, None, EdgeState(ready=True))
    ((_, line),) = rollout_lines(snapshot)
    assert line.isprintable()
