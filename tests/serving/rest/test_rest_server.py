"""The server itself: TLS, its start and its stop."""

from __future__ import annotations

import gc
import json
import os
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest
import urllib3
from rest_models import EchoModel
from rest_parties import Caller, client_context, read_all, wait_until

from sealserve.errors import InputError, MachineError
from sealserve.secret import Secret
from sealserve.serving.core import ModelServer
from sealserve.serving.rest.limits import RestLimits
from sealserve.serving.rest.server import create_rest_server
from sealserve.serving.tls import ServerTls
from sealserve.wire.not_begun import NOT_BEGUN, STOPPING

BODY = '{"instances": [1.5]}'
PREDICT = "/v1/models/echo:predict"


@pytest.fixture
def core(echo):
    core = ModelServer()
    core.add_model("echo", 1, echo)
    return core


def material(certificate, **more):
    return ServerTls(certificate.key, certificate.pem, **more)


def pool(certificate, **pair):
    return {"ssl_context": client_context(certificate, **pair), "assert_hostname": False}


@pytest.fixture
def pair(certificate, tmp_path):
    """The test's certificate as a client's, in files."""
    (tmp_path / "key.pem").write_bytes(certificate.key.reveal())
    (tmp_path / "certificate.pem").write_bytes(certificate.pem)
    return {"certfile": tmp_path / "certificate.pem", "keyfile": tmp_path / "key.pem"}


def test_requests_are_answered_over_tls(rest, core, certificate):
    caller = rest(core, tls=material(certificate), scheme="https", pool=pool(certificate))
    assert json.loads(caller.post(PREDICT, BODY).data) == {"predictions": [1.5]}


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_curl_is_answered_over_tls(rest, core, certificate, pair, version):
    caller = rest(core, tls=material(certificate))
    done = subprocess.run(
        ["/usr/bin/curl", "-sS", "--cacert", str(pair["certfile"]), f"--tlsv{version}", "--tls-max", version,
         "--http1.1", "--connect-to", f"replica.sealserve.internal:443:127.0.0.1:{caller.port}", "-d", BODY,
         f"https://replica.sealserve.internal{PREDICT}"],
        capture_output=True, timeout=20, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (b'{"predictions":[1.5]}', b"")


def test_tls_before_1_2_is_refused(rest, core, certificate):
    caller = rest(core, tls=material(certificate))
    context = client_context(certificate)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with caller.raw() as connection, pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(connection)


def test_http_1_1_is_what_alpn_says(rest, core, certificate):
    caller = rest(core, tls=material(certificate))
    context = client_context(certificate)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with caller.raw() as connection, context.wrap_socket(connection) as secure:
        assert secure.selected_alpn_protocol() == "http/1.1"


def test_a_caller_without_a_certificate_is_refused_where_one_is_asked_for(rest, core, echo, certificate, pair):
    tls = material(certificate, client_ca_pem=certificate.pem)
    caller = rest(core, tls=tls, scheme="https", pool=pool(certificate, **pair))
    assert caller.post(PREDICT, BODY).status == 200
    stranger = pool(certificate)
    with pytest.raises(urllib3.exceptions.HTTPError):
        urllib3.PoolManager(retries=False, **stranger).request("POST", caller.url + PREDICT, body=BODY)
    assert len(echo.requests) == 1


def test_a_stranger_who_does_not_shake_hands_is_sent_away(rest, core, certificate):
    limits = RestLimits(threads=1, handshake_seconds=0.3)
    caller = rest(core, tls=material(certificate), limits=limits)
    with caller.raw(b"\x16\x03\x01") as trickling, caller.raw() as silent:
        assert read_all(trickling) == read_all(silent) == b""


@pytest.mark.parametrize("key", [b"none", b""])
def test_a_key_that_is_none_is_refused(core, certificate, key):
    with pytest.raises(InputError, match="private key"):
        create_rest_server(core, address="127.0.0.1:0", tls=ServerTls(Secret(key or b"\n"), certificate.pem))


def test_an_authority_that_is_none_is_refused(core, certificate):
    with pytest.raises(InputError, match="certificates for clients"):
        create_rest_server(core, address="127.0.0.1:0", tls=material(certificate, client_ca_pem=b"none"))


def test_the_key_is_in_no_file_and_in_no_open_one(core, certificate, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    server, _ = create_rest_server(core, address="127.0.0.1:0", tls=material(certificate))
    assert not list(tmp_path.iterdir())
    names = [os.readlink(fd) for fd in Path("/proc/self/fd").iterdir() if fd.exists()]  # noqa: PTH115
    assert not [name for name in names if "memory-tls" in name]
    server.stop()


def test_a_port_that_is_taken_is_told(core):
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(MachineError, match="cannot listen"):
        create_rest_server(core, address=f"127.0.0.1:{other.getsockname()[1]}", tls=None)


def test_limits_that_are_none_are_refused():
    with pytest.raises(InputError, match="threads"):
        RestLimits(threads=0)
    with pytest.raises(InputError, match="buffered_bytes"):
        RestLimits(buffered_bytes=1)


def in_thread(call):
    results = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    return thread, results


def test_stopping_lets_requests_finish(rest, core, echo):
    caller = rest(core)
    echo.go.clear()
    thread, results = in_thread(lambda: caller.post(PREDICT, BODY))
    wait_until(lambda: echo.requests)
    idle = caller.raw()
    stopping, _ = in_thread(lambda: caller.server.stop(20))
    wait_until(lambda: caller.server._application.stopping)
    assert read_all(idle) == b""
    assert not results
    echo.go.set()
    thread.join(20)
    stopping.join(20)
    assert results[0].status == 200
    assert results[0].headers["Connection"] == "close"
    with pytest.raises(ConnectionRefusedError):
        caller.raw()


def test_stopping_says_what_it_does_not_begin_with(rest, core, echo):
    caller = rest(core)
    caller.server._application.stopping = True
    answer = caller.post(PREDICT, BODY)
    assert (answer.status, answer.headers[NOT_BEGUN], answer.headers["Connection"]) == (503, STOPPING, "close")
    assert not echo.requests


def test_stopping_ends_what_does_not_finish(rest, core, echo):
    caller = rest(core)
    echo.go.clear()
    with caller.raw(
        b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n" % PREDICT.encode() + BODY.encode()
    ) as c:
        wait_until(lambda: echo.requests)
        caller.server.stop(0.1)
        assert read_all(c) == b""
    echo.go.set()
    wait_until(lambda: hasattr(echo, "was_wanted"))
    assert echo.was_wanted is False


def test_a_server_that_was_never_started_stops(core):
    server, port = create_rest_server(core, address="127.0.0.1:0", tls=None)
    server.stop()
    server.stop()
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_servers_come_and_go_without_a_trace(certificate):
    def once():
        core = ModelServer()
        core.add_model("echo", 1, EchoModel())
        server, port = create_rest_server(core, address="127.0.0.1:0", tls=material(certificate))
        server.start()
        caller = Caller(server, port, "https", **pool(certificate))
        assert caller.post(PREDICT, BODY).status == 200
        caller.http.clear()
        server.stop(1)

    def held():
        gc.collect()
        return len(os.listdir("/proc/self/fd")), threading.active_count()  # noqa: PTH208

    once()
    before = held()
    for _ in range(20):
        once()
    wait_until(lambda: all(now <= then for now, then in zip(held(), before, strict=True)))


def test_a_server_that_fails_does_not_look_alive(rest, echo):
    core = ModelServer()
    core.add_model("echo", 1, echo)
    caller = rest(core)
    assert caller.get("/livez").status == 200

    def fail():
        raise SystemExit("a defect")

    caller.server._loop.call_soon_threadsafe(fail)
    caller.server._thread.join(10)
    with pytest.raises(ConnectionRefusedError):
        caller.raw()


def test_connections_end_with_their_age_and_no_request_is_lost(rest, core):
    caller = rest(core, limits=RestLimits(connection_seconds=0.2))
    told = []
    with urllib3.HTTPConnectionPool("127.0.0.1", caller.port, maxsize=1, retries=False) as connections:
        while told.count("close") < 3:
            answer = connections.request("POST", PREDICT, body=BODY)
            assert answer.status == 200
            told.append(answer.headers.get("Connection"))
    assert len(told) > 6
