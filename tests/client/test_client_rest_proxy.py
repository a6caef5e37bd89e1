"""The local REST proxy: programs as they are in front, attested connections behind, browsers' pages outside."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from client_parties import MARKER, SECRET_INPUT, ManInTheMiddle, free_port

from sealserve.addresses import Address
from sealserve.client.aio import AsyncClient, InsecureAsyncClient
from sealserve.client.tls import OwnerCertificates
from sealserve.client.with_aiohttp import RestProxy
from sealserve.client.with_aiohttp import proxy as module
from sealserve.client.with_aiohttp.guard import RefusedError, check, is_loopback_name
from sealserve.errors import InputError

PREDICT = "/v1/models/classifier:predict"
STRANGER = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def protocol() -> str:
    return "rest"


class Running:
    """A proxy in a loop of its own."""

    def __init__(self, make_client, directory: Path, **options):
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.path = directory / "rest.socket"

        async def start():
            self.client = make_client()
            self.proxy = RestProxy(self.client, **{"timeout": 10} | options)
            self.address = self.proxy.listen(Address("127.0.0.1", 0))
            self.proxy.listen_on_socket(self.path)
            await self.proxy.start()

        self.run(start())
        self.port = self.address.port

    def run(self, work, seconds=30):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(seconds)

    def ask(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()

    def raw(self, data: bytes) -> bytes:
        """Everything that is answered to bytes, until the proxy ends the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(data)
            heard = b""
            with contextlib.suppress(ConnectionResetError):
                while part := connection.recv(65536):
                    heard += part
        return heard

    def close(self):
        async def end():
            await self.proxy.stop(0.2)
            await self.client.close()

        self.run(end())
        self.proxy.close()
        self.run(self.loop.shutdown_default_executor())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


@pytest.fixture
def running(tmp_path):
    with contextlib.ExitStack() as stack:

        def start(target, policy, **options) -> Running:
            made = Running(lambda: AsyncClient(target, policy, max_reply_bytes=1 << 20), tmp_path, **options)
            stack.callback(made.close)
            return made

        yield start


def curl(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [shutil.which("curl") or pytest.skip("needs curl"), "-sS", "-i", "--max-time", "20", *arguments]
    return subprocess.run(command, capture_output=True, check=False)


def test_curl_is_answered_on_the_port_and_on_the_socket(replica, running, policy):
    made = running(replica.target, policy)
    body = '{"instances": [1]}'
    for way in ([f"http://127.0.0.1:{made.port}{PREDICT}"], ["--unix-socket", str(made.path), f"http://x{PREDICT}"]):
        done = curl("-d", body, *way)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(b"HTTP/1.1 200 OK\r\n")
        assert done.stdout.endswith(b'{"predictions": [1.0]}')
    assert replica.inputs == [body.encode()] * 2
    assert replica.asked == 1


def test_a_large_body_for_which_curl_waits_for_a_word_is_taken(replica, running, policy, tmp_path):
    made = running(replica.target, policy)
    (tmp_path / "body").write_bytes(b"[" + b"1," * 1_000_000 + b"1]")
    done = curl(
        "--data-binary", f"@{tmp_path}/body", f"http://localhost:{made.port}{PREDICT}", "-H", "Expect: 100-continue"
    )
    assert b"HTTP/1.1 100 Continue" in done.stdout
    assert replica.inputs == [(tmp_path / "body").read_bytes()]


def test_binary_tensors_statuses_and_heads_pass_as_they_are(replica, running, policy):
    from sealserve.client.rest.reply import RestReply
    from sealserve.client.rest.tensors import infer_request, read_infer

    made = running(replica.target, policy)
    request = infer_request(
        {"images": SECRET_INPUT}, model="classifier", signature="s", version=None, outputs=[], max_reply=1
    )
    answer, body = made.ask("POST", request.path, b"".join(request.body), dict(request.headers))
    told = tuple((name.lower(), value) for name, value in answer.getheaders())
    assert read_infer(RestReply(200, told, body))[2]["scores"].shape == (1, 10)
    assert replica.inputs[0] == b"".join(request.body)
    answer, body = made.ask("GET", "/v1/models/a%2Fb?x=%20y#".rstrip("#"))
    assert (answer.status, json.loads(body)) == (404, {"error": "Malformed request"})
    assert replica.requests[-1] == "GET /v1/models/a%2Fb?x=%20y HTTP/1.1"
    answer, body = made.ask("HEAD", "/nothing")
    assert (answer.status, body, int(answer.headers["Content-Length"])) == (404, b"", 30)


def test_a_chunked_and_a_compressed_body_pass(replica, running, policy):
    made = running(replica.target, policy)
    packed = gzip.compress(b'{"instances": [1]}')
    answer, _ = made.ask("POST", PREDICT, iter([packed[:5], packed[5:]]), {"Content-Encoding": "gzip"})
    assert answer.status == 200
    assert replica.inputs == [packed]


def test_headers_pass_only_if_they_mean_something_to_a_replica(replica, running, policy):
    seen = []
    original = replica.answer
    replica.answer = lambda method, path, headers, body: seen.append(headers) or original(method, path, headers, body)
    made = running(replica.target, policy)
    given = {"Content-Type": "text/x", "Accept": "a/b", "Sealserve-Receipt": "r", "Cookie": "c", "X-Other": "o"}
    hop = {"Connection": "keep-alive, X-Other", "Keep-Alive": "timeout=5", "Proxy-Authorization": "p", "TE": "trailers"}
    made.ask("POST", PREDICT, b"{}", given | hop | {"Accept-Encoding": "gzip", "Forwarded": "for=x"})
    sent = {name.lower(): value for name, value in seen[-1].items()}
    assert sent.pop("user-agent").startswith("sealserve/")
    assert sent.pop("host").startswith("replica.sealserve.internal:")
    assert sent == {"content-type": "text/x", "accept": "a/b", "sealserve-receipt": "r", "content-length": "2"}


# --- who is not served ------------------------------------------------------------------------------------------------

PAGES = [
    {"Host": "attacker.example"},
    {"Host": "127.0.0.1.attacker.example"},
    {"Host": "localhost.attacker.example:8501"},
    {"Host": "attacker.example@127.0.0.1"},
    {"Host": ""},
    {"Origin": "https://attacker.example"},
    {"Origin": "http://127.0.0.1.attacker.example"},
    {"Origin": "http://attacker.example@127.0.0.1"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


@pytest.mark.parametrize("headers", PAGES)
def test_a_page_of_a_browser_is_not_served(headers, replica, running, policy):
    made = running(replica.target, policy)
    answer, body = made.ask("POST", PREDICT, SECRET_INPUT.tobytes(), headers)
    assert answer.status == 403
    assert set(json.loads(body)) == {"error"}
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert replica.requests == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost"},
        {"Host": "LOCALHOST:1"},
        {"Host": "[::1]:8501"},
        {"Host": "127.0.0.2"},
        {"Origin": "http://localhost:3000"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://127.0.0.1:1", "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_programs_of_this_machine_are_served(headers, replica, running, policy):
    assert running(replica.target, policy).ask("POST", PREDICT, b"{}", headers)[0].status == 200


@pytest.mark.parametrize(
    "host", ["", "a b", "[127.0.0.1", "::1", "localhost:", "127.0.0.1:80:80", "0.0.0.1", "[::]", "2130706433", "127.1"]
)
def test_what_only_looks_like_loopback_is_not(host):
    assert not is_loopback_name(host)


def request(*lines: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([b"POST " + PREDICT.encode() + b" HTTP/1.1", b"Host: 127.0.0.1", *lines, b"", b""]) + body


SMUGGLED = b"POST /v1/models/other:predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        request(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED),
        request(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n" + SMUGGLED),
        request(b"Content-Length: 0", b"Content-Length: 80", body=SMUGGLED),
        request(b"Content-Length: 0, 80", body=SMUGGLED),
        request(b"Content-Length: +5", body=b"12345"),
        request(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n" + SMUGGLED),
        request(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n" + SMUGGLED),
        request(b"Transfer-Encoding: chunked", body=b"g\r\n\r\n" + SMUGGLED),
        request(b"X: a\r\n b", b"Content-Length: 0"),
        request(b"Host: 127.0.0.1", b"Content-Length: 0"),
        request(b"X: " + b"a" * 20_000, b"Content-Length: 0"),
        b"POST http://attacker.example/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"DELETE / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: h2c\r\nConnection: upgrade, close\r\n\r\n",
        request(b"Transfer-Encoding: gzip, chunked", body=b"2\r\n{}\r\n0\r\n\r\n"),
        b"POST / HTTP/1.0\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + SMUGGLED,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello",
    ],
)
def test_a_request_of_two_meanings_reaches_no_replica(data, replica, running, policy):
    made = running(replica.target, policy)
    heard = made.raw(data)
    assert heard == b"" or int(heard.split(b" ", 2)[1]) >= 400
    assert heard.count(b"HTTP/1.1") <= 1
    assert replica.requests == []


def test_a_program_of_http_1_0_gets_no_answer_before_the_answer(replica, running, policy):
    lines = b" HTTP/1.0\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}"
    heard = running(replica.target, policy).raw(b"POST " + PREDICT.encode() + lines)
    assert heard.startswith(b"HTTP/1.0 200 OK\r\n")
    assert replica.inputs == [b"{}"]


def test_both_ways_of_saying_a_length_are_refused_whatever_the_parser_says():
    with pytest.raises(RefusedError):
        check(
            "POST",
            "/",
            [("Host", "localhost"), ("content-LENGTH", "1"), ("Transfer-Encoding", "chunked")],
            any_host=False,
        )


@as_root
def test_a_stranger_is_closed_unread(replica, running, policy):
    made = running(replica.target, policy)
    program = (
        f"import encodings.idna, os, socket; os.setgroups([]); os.setgid({STRANGER}); os.setuid({STRANGER})\n"
        f"s = socket.create_connection(('127.0.0.1', {made.port})); s.settimeout(10)\n"
        "try:\n s.sendall(b'GET /readyz HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\n\\r\\n'); print(s.recv(100))\n"
        "except ConnectionError: print(b'')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "b''"
    assert replica.requests == []
    assert made.ask("POST", PREDICT, b"{}")[0].status == 200


def test_an_address_beyond_loopback_is_refused(policy):
    async def attempt() -> None:
        async with AsyncClient("https://127.0.0.1:1", policy) as client:
            with contextlib.closing(RestProxy(client)) as proxy:
                proxy.listen(Address("192.0.2.1", 0))

    with pytest.raises(InputError, match="other machines"):
        asyncio.run(attempt())


# --- what becomes of it -----------------------------------------------------------------------------------------------


def test_a_man_in_the_middle_gets_no_input_and_the_program_is_told(replica, bad_identity, running, policy):
    with ManInTheMiddle(bad_identity, replica.target) as attacker:
        made = running(attacker.target, policy)
        answer, body = made.ask("POST", PREDICT, SECRET_INPUT.tobytes())
        assert attacker.plaintext.count(b"HTTP/1.1\r\n") == 1
        assert MARKER not in attacker.plaintext
    assert answer.status == 502
    told = json.loads(body)
    assert told["sealserve"] == answer.headers["Sealserve-Reason"] == "evidence-binding"
    assert "error" in told


def test_a_replica_swapped_under_a_live_proxy_gets_no_input(replica, bad_replica, balance, running, policy):
    balancer = balance(replica.target)
    made = running(balancer.target, policy)
    assert made.ask("POST", PREDICT, SECRET_INPUT.tobytes())[0].status == 200
    balancer.targets = [bad_replica.target]
    balancer.cut()
    answer, body = made.ask("POST", PREDICT, SECRET_INPUT.tobytes())
    assert (answer.status, answer.headers["Content-Type"].split(";")[0]) == (502, "application/json")
    assert json.loads(body)["sealserve"]
    assert bad_replica.predicted == 0
    assert MARKER not in balancer.seen


def test_a_cluster_that_is_down_is_unavailable_and_a_slow_one_late(start_good, running, policy):
    made = running(f"https://127.0.0.1:{free_port()}", policy, timeout=2)
    answer, body = made.ask("POST", PREDICT, b"{}")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert json.loads(body)["sealserve"]


def test_a_slow_replica_is_late(start_good, running, policy):
    replica = start_good()
    original = replica.answer

    def slow(method, path, headers, body):
        if "evidence" not in path:
            time.sleep(2)
        return original(method, path, headers, body)

    replica.answer = slow
    made = running(replica.target, policy, timeout=0.7)
    answer, body = made.ask("POST", PREDICT, b"{}")
    assert answer.status == 504
    assert json.loads(body)["sealserve"] == "deadline-passed"


@pytest.mark.parametrize(
    "lie",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000,
        b"HTTP/1.1 200 OK\r\n\r\nwithout end",
        b"HTTP/1.1 205 Reset Content\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 205 Reset Content\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
        b"HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 600 Odd\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: a\x1b[31m\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_a_lying_replica_is_a_bad_gateway(lie, replica, running, policy):
    made = running(replica.target, policy)
    replica.raw = lie
    answer, body = made.ask("POST", PREDICT, b"{}")
    assert (answer.status, json.loads(body)["sealserve"]) == (502, "malformed-reply")


def test_headers_of_an_answer_pass_only_if_they_mean_something(replica, running, policy):
    replica.raw = (
        b"HTTP/1.1 429 Slow\r\nContent-Type: a/b\r\nRetry-After: 7\r\nSet-Cookie: a=b\r\nSealserve-Model-Version: 9\r\n"
        b"Sealserve-Reason: measurement-refused\r\n"
        b"Access-Control-Allow-Origin: *\r\nContent-Length: 2\r\n\r\nno"
    )
    answer, body = running(replica.target, policy).ask("POST", PREDICT, b"{}")
    names = {name.lower() for name, _ in answer.getheaders()}
    assert (answer.status, body) == (429, b"no")
    assert names == {"content-type", "retry-after", "sealserve-model-version", "content-length", "date", "server"}


def test_a_body_that_is_too_large_or_does_not_come_is_refused(replica, running, policy, monkeypatch):
    monkeypatch.setattr(module, "_BODY_SECONDS", 0.5)
    made = running(replica.target, policy, max_message_bytes=1000)
    assert made.ask("POST", PREDICT, bytes(1001))[0].status == 413
    assert made.ask("POST", PREDICT, iter([bytes(600)] * 2))[0].status == 413
    assert b" 408 " in made.raw(request(b"Content-Length: 10", body=b"123"))
    assert made.ask("POST", PREDICT, b"{}")[0].status == 200
    assert len(replica.inputs) == 1


def test_requests_beyond_the_most_are_told_to_come_later(start_good, running, policy):
    replica = start_good()
    free, original = threading.Event(), replica.answer
    replica.answer = lambda *a: ("evidence" in a[1] or free.wait(20)) and original(*a)
    made = running(replica.target, policy, max_concurrent=1)
    first = threading.Thread(target=made.ask, args=("POST", PREDICT, b"{}"))
    first.start()
    until = time.monotonic() + 10
    while len(replica.requests) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    answer, _ = made.ask("POST", PREDICT, b"{}")
    free.set()
    first.join()
    assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
    assert made.ask("POST", PREDICT, b"{}")[0].status == 200


def test_a_connection_that_says_nothing_is_closed(replica, running, policy, monkeypatch):
    monkeypatch.setattr(module, "_FIRST_SECONDS", 0.3)
    made = running(replica.target, policy)
    assert made.raw(b"POST /") == b""
    with socket.create_connection(("127.0.0.1", made.port), timeout=20) as kept:
        for _ in range(2):
            kept.sendall(request(b"Content-Length: 2", body=b"{}"))
            assert kept.recv(65536).startswith(b"HTTP/1.1 200")
            time.sleep(0.4)


def test_a_program_that_hangs_up_frees_its_place(start_good, running, policy):
    replica = start_good()
    free, original = threading.Event(), replica.answer
    replica.answer = lambda *a: ("evidence" in a[1] or free.wait(20)) and original(*a)
    made = running(replica.target, policy, max_concurrent=1)
    with socket.create_connection(("127.0.0.1", made.port), timeout=20) as program:
        program.sendall(request(b"Content-Length: 2", body=b"{}"))
        until = time.monotonic() + 10
        while len(replica.requests) < 2 and time.monotonic() < until:
            time.sleep(0.01)
    while made.proxy._slots.locked() and time.monotonic() < until:
        time.sleep(0.01)
    assert not made.proxy._slots.locked()
    free.set()


def test_owner_made_certificates_do_without_evidence(start_good, owner, tmp_path):
    replica = start_good(credentials=owner.credentials())
    roots = OwnerCertificates(roots=owner.path("ca.pem"))
    made = Running(lambda: InsecureAsyncClient(replica.target, roots, server_name=owner.name), tmp_path)
    try:
        assert made.ask("POST", PREDICT, b"{}")[0].status == 200
    finally:
        made.close()
    assert replica.requests == [f"POST {PREDICT} HTTP/1.1"]


# --- the command ------------------------------------------------------------------------------------------------------


def start_command(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sealserve", "proxy", *arguments, "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd)


def test_the_command_offers_rest_until_it_is_told_to_stop(replica, policy_file, tmp_path):
    process = start_command(
        replica.target, "--policy", policy_file, "--rest-listen", "127.0.0.1:0", "--rest-socket", "s", cwd=tmp_path
    )
    try:
        told = json.loads(process.stdout.readline())
        assert told["rest_target"] == replica.target
        assert "listening" not in told
        done = curl("-d", "{}", f"http://{told['rest_listening'][0]}{PREDICT}")
        assert b"200 OK" in done.stdout
        process.terminate()
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "SIMULATED - NO PROTECTION" in errors
    assert not (tmp_path / "s").exists()


def test_the_command_offers_both_protocols(replica, identities, good_attester, policy_file, tmp_path):
    import grpc
    from client_parties import Replica

    from sealserve.wire.tensorflow_serving_pb2 import PredictRequest
    from sealserve.wire.tensors import from_numpy

    with Replica(identities[0], good_attester) as other:
        process = start_command(
            other.target, "--rest-target", replica.target, "--policy", policy_file,
            "--listen", "127.0.0.1:0", "--rest-listen", "127.0.0.1:0", cwd=tmp_path,
        )  # fmt: skip
        try:
            told = json.loads(process.stdout.readline())
            assert b"200 OK" in curl("-d", "{}", f"http://{told['rest_listening'][0]}{PREDICT}").stdout
            ask = PredictRequest()
            ask.model_spec.name = "classifier"
            ask.inputs["images"].CopyFrom(from_numpy(np.zeros((1, 4), np.uint8)))
            with grpc.insecure_channel(told["listening"][0]) as channel:
                call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
                assert call(ask.SerializeToString(), timeout=10)
            process.terminate()
            process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0
    assert (replica.predicted, other.predicted) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["127.0.0.1:1", "--rest-listen", "127.0.0.1:0"], 3),
        (["127.0.0.1:1", "--rest-target", "127.0.0.1:2"], 3),
        (["https://127.0.0.1:1", "--listen", "127.0.0.1:0"], 3),
        (["https://127.0.0.1:1", "--rest-listen", "0.0.0.0:0"], 3),
        (["http://127.0.0.1:1", "--rest-listen", "127.0.0.1:0"], 3),
    ],
)
def test_what_does_not_go_together_is_told(arguments, code, policy_file, tmp_path):
    process = start_command(*arguments, "--policy", policy_file, cwd=tmp_path)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == code, errors


def test_the_command_does_not_start_on_a_refused_replica(bad_replica, policy_file, tmp_path):
    process = start_command(bad_replica.target, "--policy", policy_file, "--rest-listen", "127.0.0.1:0", cwd=tmp_path)
    told, _ = process.communicate(timeout=20)
    assert process.returncode == 4
    assert "listening" not in told
