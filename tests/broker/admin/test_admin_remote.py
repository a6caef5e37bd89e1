"""The same commands, on a store here and over HTTPS."""

from __future__ import annotations

import base64
import http.server
import inspect
import json
import ssl
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from admin_parties import add_admin, add_client, make_token
from broker_parties import GRANT, WRAP_KEY, Place, ask, new_identity
from browser_parties import Thread, broker_thread
from test_broker_process import command

from sealserve.broker.admin.connection import Connection, Server
from sealserve.broker.admin.remote import RemoteAdministration
from sealserve.broker.administration import BrokerAdministration
from sealserve.errors import ConfigurationError, KeyFileError, SealserveError
from sealserve.files import write_atomically


class Shell:
    """Runs `sealserve broker …` with options that say which broker."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *options: object) -> None:
        self.capsys, self.options = capsys, options

    def __call__(self, *arguments: object, code: int = 0) -> Any:
        found, out, errors = command(self.capsys, *arguments, *self.options, "--json")
        assert found == code, errors
        # The broker runs in this process: what it logs stands before the command's own line.
        return json.loads(out if code == 0 else errors.splitlines()[-1])

    def text(self, *arguments: object) -> str:
        found, out, errors = command(self.capsys, *arguments, *self.options)
        assert found == 0, errors
        return out


@pytest.fixture
def broker(place: Place) -> Iterator[Thread]:
    add_admin(place, clients={"authority": "admins.pem", "operators": ["olga"]})
    add_client(place, "olga")
    (place.directory / "ca.pem").write_bytes(place.authority.pem)
    write_atomically(place.directory / "operator.token", make_token(place) + "\n", mode=0o600)
    write_atomically(place.directory / "viewer.token", make_token(place, "viewer"), mode=0o600)
    with broker_thread(place) as thread:
        yield thread


def remote(place: Place, broker: Thread, who: str = "operator") -> tuple[object, ...]:
    return (
        "--server",
        broker.url,
        "--ca",
        place.directory / "ca.pem",
        "--token-file",
        place.directory / f"{who}.token",
    )


@pytest.fixture(params=["here", "there"])
def shell(request: pytest.FixtureRequest, place: Place, broker: Thread, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys, *(("-f", place.write()) if request.param == "here" else remote(place, broker)))


def test_commands_do_the_same_here_and_over_https(shell: Shell, place: Place, broker: Thread, tmp_path: Path) -> None:
    broker.run(ask(place, broker.broker, new_identity(place)))
    made = shell("key", "create", "new")
    assert (made["name"], made["version"], made["state"]) == ("new", 1, "active")
    assert shell("key", "create", "new", code=3)["reason"] == "name-taken"
    assert shell("key", "rotate", "new")["version"] == 2
    write_atomically(tmp_path / "a.key", WRAP_KEY, mode=0o600)
    assert shell("key", "import", "new", tmp_path / "a.key", "--version", 5)["version"] == 5
    write_atomically(tmp_path / "tls.key", place.authority.issue().key_pem, mode=0o600)
    assert shell("key", "import-tls", "private", tmp_path / "tls.key")["version"] == 1
    assert shell("key", "import-tls", "private", tmp_path / "a.key", code=3)["reason"] == "key-file"
    assert shell("key", "retire", "new", 2, "--grace-hours", 1.5)["state"] == "retiring"
    assert shell("key", "retire", "wrap", 3, code=3)["reason"] == "in-use"
    assert shell("key", "destroy", "new", 2, code=3)["reason"] == "not-confirmed"
    assert shell("key", "destroy", "new", 2, "--yes", "new")["state"] == "destroyed"
    assert shell("key", "rotate", "absent", code=3)["reason"] == "unknown-name"
    assert [(key["name"], key["version"]) for key in shell("key", "list")] == [
        ("new", 1), ("new", 2), ("new", 5), ("private", 1), ("second", 1), ("wrap", 3),
    ]  # fmt: skip
    assert "new version 2: destroyed" in shell.text("key", "list")

    assert shell("policy", "put", "other", place.directory / "policy.yaml")["name"] == "other"
    assert [policy["name"] for policy in shell("policy", "list")] == ["other", "policy"]
    assert "BEGIN CERTIFICATE" in shell.text("policy", "show", "other")
    assert shell("policy", "delete", "policy", code=3)["reason"] == "in-use"

    (tmp_path / "grant.yaml").write_text(json.dumps(GRANT | {"deployment": "letters", "policy": "other"}))
    put = shell("grant", "put", tmp_path / "grant.yaml")
    assert put == shell("grant", "show", "letters")
    switched = shell("grant", "switch", "letters", "--digest", "cd" * 32, "--model-version", 8)
    assert switched["previous"]["model"]["digest"] == "ab" * 32
    assert len(shell("grant", "list")) == 2
    assert shell("grant", "delete", "letters") == {"deleted": "letters"}
    assert shell("policy", "delete", "other") == {"deleted": "other"}

    verified = shell("audit", "verify")
    assert verified["records"] == len(place.chain)
    assert shell("audit", "verify", "--head", verified["head"])["head"] == verified["head"]
    assert shell("audit", "verify", "--head", "0" * 63 + "1", code=4)["reason"] == "audit-tampered"
    exported, key = tmp_path / "audit.jsonl", tmp_path / "audit.pem"
    assert shell("audit", "export", exported)["records"] == len(place.chain)
    key.write_text(shell.text("audit", "public-key"))
    found, out, _ = command(shell.capsys, "audit", "verify", exported, "--public-key", key, "--json")
    assert (found, json.loads(out)["signatures_verified"]) == (0, True)
    listed = shell.text("audit", "list", "--event", "change", "-n", 3).splitlines()
    assert [line.split()[2] for line in listed] == ["change"] * 3
    assert "policy-delete" in listed[-1]
    assert "granted" in shell.text("audit", "list", "--outcome", "granted", "--since", "2020-01-01")
    assert shell("audit", "checkpoint")["records"] == len(place.chain)


def test_changes_over_https_bear_the_name_of_whoever_made_them(
    place: Place, broker: Thread, capsys: pytest.CaptureFixture[str]
) -> None:
    Shell(capsys, *remote(place, broker))("key", "create", "by-token")
    certificate = ("--client-certificate", place.directory / "olga.pem", "--client-key", place.directory / "olga.key")
    Shell(capsys, "--server", broker.url, "--ca", place.directory / "ca.pem", *certificate)("key", "create", "by-cert")
    Shell(capsys, "-f", place.write())("key", "create", "by-hand")
    actors = {r["key"]: r["actor"] for r in place.chain if r.get("action") == "key-create"}
    assert actors["by-token"].startswith("token:alice#")
    assert actors["by-cert"] == "certificate:olga"
    assert actors["by-hand"].startswith("cli:")


def test_refusals_say_what_is_wrong(place: Place, broker: Thread, capsys: pytest.CaptureFixture[str]) -> None:
    viewer = Shell(capsys, *remote(place, broker, "viewer"))
    assert viewer("key", "list")
    refused = viewer("key", "create", "x", code=4)
    assert refused["reason"] == "administration-refused"
    assert "is a viewer" in refused["error"]
    write_atomically(place.directory / "wrong.token", "sealserve_000000000000_" + "A" * 43, mode=0o600)
    unknown = Shell(capsys, *remote(place, broker, "wrong"))("key", "list", code=4)
    assert unknown["error"] == "the token is not known"
    assert "token create" in unknown["hint"]
    (place.directory / "open.token").write_text("x")
    assert "can be read by others" in Shell(capsys, *remote(place, broker, "open"))("key", "list", code=3)["error"]
    write_atomically(place.directory / "empty.token", "\n", mode=0o600)
    assert "no token" in Shell(capsys, *remote(place, broker, "empty"))("key", "list", code=3)["error"]
    nobody = Shell(capsys, "--server", broker.url, "--ca", place.directory / "ca.pem")
    assert "--token-file" in nobody("key", "list", code=3)["hint"]
    untrusted = Shell(capsys, "--server", broker.url, "--token-file", place.directory / "operator.token")
    assert "--ca" in untrusted("key", "list", code=5)["hint"]
    enclaves = remote(place, broker)[2:]
    port = broker.broker.address.port
    assert Shell(capsys, "--server", f"https://localhost:{port}", *enclaves)("key", "list", code=5)
    assert Shell(capsys, "--server", "https://localhost:1", *enclaves)("key", "list", code=5)
    both = command(capsys, "key", "list", "-f", place.write(), *remote(place, broker))
    assert both[0] == 2
    assert "not both" in both[2]


def test_the_server_can_come_from_the_environment_and_a_file_overrides_it(
    place: Place, broker: Thread, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEALSERVE_BROKER_SERVER", broker.url)
    monkeypatch.setenv("SEALSERVE_BROKER_CA", str(place.directory / "ca.pem"))
    monkeypatch.setenv("SEALSERVE_BROKER_TOKEN_FILE", str(place.directory / "operator.token"))
    Shell(capsys)("key", "create", "a")
    Shell(capsys, "-f", place.write())("key", "create", "b")
    actors = {r["key"]: r["actor"].partition(":")[0] for r in place.chain if r.get("action") == "key-create"}
    assert actors == {"a": "token", "b": "cli"}


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:1",
        "localhost:1",
        "https://",
        "https://a:b@c:1",
        "https://c:1/v1",
        "https://c:1?x=y",
        "https://c:99999",
    ],
)
def test_servers_that_are_none_are_refused(url: str, tmp_path: Path) -> None:
    write_atomically(tmp_path / "token", "x", mode=0o600)
    with pytest.raises(ConfigurationError):
        Connection(Server(url, token_file=tmp_path / "token"))


def test_both_administrations_have_the_same_methods() -> None:
    local_only = {"state", "ensure_key", "key_value"}
    methods = {n for n, _ in inspect.getmembers(BrokerAdministration, inspect.isfunction) if not n.startswith("_")}
    for name in methods - local_only:
        here, there = (inspect.signature(getattr(k, name)) for k in (BrokerAdministration, RemoteAdministration))
        assert here == there, name


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b"<html>"), (200, b"[]"), (200, b"[" * 100_000), (302, b"{}"), (500, b"oops"), (503, b"{}"), (404, b"{}")],
)
def test_answers_of_something_else_are_told_as_such(place: Place, tmp_path: Path, status: int, body: bytes) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Location", "https://localhost:1/")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place.directory / "broker.pem", place.directory / "broker.key")
    write_atomically(tmp_path / "token", "x", mode=0o600)
    (tmp_path / "ca.pem").write_bytes(place.authority.pem)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        there = Server(f"https://localhost:{server.server_port}", tmp_path / "ca.pem", tmp_path / "token")
        with Connection(there) as connection, pytest.raises(SealserveError):
            connection.call("GET", "/v1/keys")
        server.shutdown()


# --- tokens ---


def test_tokens_are_made_shown_once_listed_and_revoked(
    place: Place, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shell = Shell(capsys, "-f", place.write())
    assert shell("admin", "token", "list") == []
    made = shell("admin", "token", "create", "alice", "--role", "operator", "--days", 30)
    assert made["token"].startswith(f"sealserve_{made['id']}_")
    file = tmp_path / "token"
    told = shell("admin", "token", "create", "bob", "-o", file)
    assert "token" not in told
    assert told["role"] == "viewer"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().strip() not in json.dumps(told)
    printed = shell.text("admin", "token", "create", "carol")
    assert printed.startswith("sealserve_")
    assert len(printed.splitlines()) == 1, "so that a script can take it as it is"
    listed = shell("admin", "token", "list")
    assert [(token["name"], token["state"]) for token in listed] == [(n, "active") for n in ("alice", "bob", "carol")]
    assert shell("admin", "token", "revoke", made["id"])["state"] == "revoked"
    assert shell("admin", "token", "revoke", made["id"])["state"] == "revoked"
    assert shell("admin", "token", "revoke", "none", code=3)["reason"] == "unknown-name"
    assert "revoked" in shell.text("admin", "token", "list")
    # The store, its audit chain and the lists hold nothing that could be used.
    _, _, secret = made["token"].split("_", 2)
    assert secret not in json.dumps([listed, place.chain])
    held = b"".join(path.read_bytes() for path in place.directory.glob("broker.db*"))
    for form in (secret.encode(), base64.urlsafe_b64decode(secret + "=")):
        assert form not in held
    assert [r["action"] for r in place.chain if "token" in r.get("action", "")] == ["token-create"] * 3 + [
        "token-revoke"
    ]
    place.settings().open_store().check()


def test_a_token_that_could_not_be_written_is_revoked(
    place: Place, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shell = Shell(capsys, "-f", place.write())
    assert shell("admin", "token", "create", "dave", "-o", tmp_path / "none" / "token", code=3)
    assert [token["state"] for token in shell("admin", "token", "list")] == ["revoked"]


def test_token_files_that_others_can_read_are_no_credentials(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("x")
    with pytest.raises(KeyFileError, match="can be read by others"):
        Connection(Server("https://localhost:1", token_file=tmp_path / "token"))
