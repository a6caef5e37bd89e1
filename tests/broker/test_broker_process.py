"""`sealserve broker` as a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from broker_parties import WRAP_KEY, Place
from OpenSSL import SSL

from sealserve.broker.client import BrokersUnavailableError, Grant, fetch_grant
from sealserve.cli.main import main
from sealserve.notify import parse
from sealserve.ratls import TlsIdentity

COMMAND = [sys.executable, "-m", "sealserve", "broker"]


class Process:
    """A broker process that is ready."""

    def __init__(self, place: Place, popen: subprocess.Popen[str], port: int) -> None:
        self.place = place
        self.popen = popen
        self.port = port

    def fetch(self, identity: TlsIdentity, timeout: float = 10) -> Grant:
        return fetch_grant(
            [f"localhost:{self.port}"],
            ca_pem=self.place.authority.pem,
            identity=identity,
            attester=self.place.attester(),
            deployment="digits",
            timeout=timeout,
        )

    def end(self, number: int = signal.SIGTERM) -> tuple[int, list[dict[str, Any]]]:
        """The exit code and the log."""
        self.popen.send_signal(number)
        _, log = self.popen.communicate(timeout=20)
        return self.popen.returncode, [json.loads(line) for line in log.splitlines()]


@contextlib.contextmanager
def broker_process(place: Place, tmp_path: Path, **environment: str) -> Iterator[Process]:
    ready = tmp_path / "ready"
    inherited = {name: value for name, value in os.environ.items() if name != "OPENSSL_CONF"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(ready))
        supervisor.settimeout(30)
        popen = subprocess.Popen(
            [*COMMAND, "run", "-f", place.write(), "--json-logs"],
            stderr=subprocess.PIPE,
            text=True,
            env={**inherited, "NOTIFY_SOCKET": str(ready), **environment},
        )
        try:
            fields = parse(supervisor.recv(4096))
            assert fields["READY"] == "1"
            port = re.search(r":(\d+)$", fields["STATUS"])
            assert port
            yield Process(place, popen, int(port[1]))
        finally:
            if popen.poll() is None:
                popen.kill()
                popen.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_broker_serves_until_it_is_told_to_stop(
    place: Place, identity: TlsIdentity, tmp_path: Path, number: int
) -> None:
    with broker_process(place, tmp_path) as process:
        grant = process.fetch(identity)
        assert bytes(grant.keys["wrap"].value.reveal()) == WRAP_KEY
        code, log = process.end(number)
    assert code == 0
    events = {entry["event"]: entry for entry in log}
    assert {"store-opened", "broker-listening", "grant-released", "broker-stopped"} <= set(events)
    assert events["grant-released"]["decision"] == grant.decision
    assert WRAP_KEY.hex() not in json.dumps(log)


def tickets_from(port: int) -> bool:
    """Whether a TLS 1.3 server has anything to say after the handshake and before it is asked."""
    settings = SSL.Context(SSL.TLS_CLIENT_METHOD)
    settings.set_min_proto_version(SSL.TLS1_3_VERSION)
    messages: list[str] = []
    settings.set_info_callback(
        lambda connection, _where, _code: messages.append(connection.get_state_string().decode())
    )
    with socket.create_connection(("127.0.0.1", port)) as plain:
        connection = SSL.Connection(settings, plain)
        connection.set_connect_state()
        connection.do_handshake()
        connection.send(b"x" * 35)  # no request of version 1: the broker answers by closing
        with contextlib.suppress(SSL.Error):
            connection.recv(1)
    return any("session ticket" in message for message in messages)


def test_a_broker_process_sends_no_session_tickets(place: Place, tmp_path: Path) -> None:
    """Enclaves of Gramine 1.8 fail with a TLS 1.3 server that sends them."""
    place.put(version_1={"key": "wrap"})
    with broker_process(place, tmp_path) as process:
        assert not tickets_from(process.port)
        _, log = process.end()
    assert "session-tickets-sent" not in {entry["event"] for entry in log}
    (tmp_path / "own.cnf").touch()
    (tmp_path / "second").mkdir()
    with broker_process(place, tmp_path / "second", OPENSSL_CONF=str(tmp_path / "own.cnf")) as process:
        assert tickets_from(process.port)  # the check can fail
        _, log = process.end()
    assert "session-tickets-sent" in {entry["event"] for entry in log}


def test_a_full_disk_stops_releases_and_loses_nothing(place: Place, identity: TlsIdentity, tmp_path: Path) -> None:
    with broker_process(place, tmp_path) as process:
        first = process.fetch(identity)
        limits = resource.prlimit(process.popen.pid, resource.RLIMIT_FSIZE)
        full = (place.directory / "broker.db-wal").stat().st_size + 50
        resource.prlimit(process.popen.pid, resource.RLIMIT_FSIZE, (full, limits[1]))
        with pytest.raises(BrokersUnavailableError, match="cannot decide now"):
            process.fetch(identity, timeout=1)
        resource.prlimit(process.popen.pid, resource.RLIMIT_FSIZE, limits)
        second = process.fetch(identity)
        process.end()
    assert [record["decision"] for record in place.records] == [first.decision, second.decision]


def test_a_broker_that_was_killed_starts_again_with_its_audit_log(
    place: Place, identity: TlsIdentity, tmp_path: Path
) -> None:
    decisions = []
    for number in range(2):
        directory = tmp_path / str(number)
        directory.mkdir()
        with broker_process(place, directory) as process:
            decisions.append(process.fetch(identity).decision)
            process.popen.kill()
            process.popen.communicate()
    assert [record["decision"] for record in place.records] == decisions


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_port_in_use_is_a_clear_error(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place.document["listen"] = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run("run", "-f", place.write())
    assert done.returncode == 6
    assert "another process does" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_says_what_is_granted_and_what_is_wrong(place: Place) -> None:
    done = run("check", "-f", place.write(), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["grants"] == [
        {
            "deployment": "digits",
            "keys": {"wrap": 3, "second": 1},
            "model": {"name": "digits", "version": 7, "digest": "ab" * 32},
            "protocols": [2],
        }
    ]
    assert place.records == []
    (place.directory / "master.key").write_bytes(bytes(32))
    done = run("check", "-f", place.write())
    assert done.returncode == 4
    assert "master key" in done.stderr


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["broker", *(str(argument) for argument in arguments)])
    shown = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, shown.out, shown.err


def test_the_audit_log_is_verified_in_the_store_and_as_a_file(
    place: Place, identity: TlsIdentity, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with broker_process(place, tmp_path) as process:
        for _ in range(3):
            process.fetch(identity)
        _, log = process.end()
    settings = ("-f", place.write())
    heads = [entry["audit_head"] for entry in log if entry["event"] == "grant-released"]
    code, out, _ = command(capsys, "audit", "verify", *settings, "--json", "--head", heads[2])
    found = json.loads(out)
    assert (code, found["records"], found["signatures_verified"]) == (0, len(place.chain), True)
    assert found["signed"] == found["records"] - 1, "a broker signs the end when it stops"

    exported, key = tmp_path / "export.jsonl", tmp_path / "audit.pem"
    assert command(capsys, "audit", "export", exported, *settings)[0] == 0
    assert exported.stat().st_mode & 0o777 == 0o600
    key.write_text(command(capsys, "audit", "public-key", *settings)[1])
    code, out, _ = command(capsys, "audit", "verify", exported, "--public-key", key, "--json", "--head", heads[1])
    assert (code, json.loads(out)["signatures_verified"]) == (0, True)
    code, out, _ = command(capsys, "audit", "verify", exported)
    assert "not verified" in out

    lines = exported.read_text().splitlines(keepends=True)
    exported.write_text("".join(lines[:-4]))
    assert command(capsys, "audit", "verify", exported, "--public-key", key)[0] == 0
    assert command(capsys, "audit", "verify", exported, "--head", heads[2])[0] == 4
    exported.write_text("".join(lines[1:]))
    code, _, errors = command(capsys, "audit", "verify", exported)
    assert code == 4
    assert "record 1" in errors
    exported.write_text("".join(lines)[:-1])
    assert command(capsys, "audit", "verify", exported)[0] == 4
