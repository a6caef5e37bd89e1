"""Callers who keep no rules, over raw sockets."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time

import pytest
from rest_models import EchoModel
from rest_parties import read_all, wait_until

from sealserve.serving.core import ModelServer
from sealserve.serving.rest.limits import RestLimits

PREDICT = b"POST /v1/models/echo:predict HTTP/1.1\r\nHost: a\r\n"
BODY = b'{"instances": [1]}'
GET = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"


def serve_echo(rest, **limits):
    core = ModelServer()
    echo = EchoModel()
    core.add_model("echo", 1, echo)
    return rest(core, limits=RestLimits(**{"threads": 2, "waiting": 4} | limits)), echo


def with_length(body=BODY, head=PREDICT):
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def read_answer(connection):
    """One answer with a Content-Length."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(1 << 16)
        if not part:
            return data
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(1 << 16)
    return head + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    "data",
    [
        PREDICT + b"Content-Length: 18\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + GET,
        PREDICT + b"Content-Length: 18\r\nContent-Length: 5\r\n\r\n" + BODY + GET,
        PREDICT + b"Content-Length: 18, 5\r\n\r\n" + BODY + GET,
        PREDICT + b"Content-Length: -1\r\n\r\n" + GET,
        PREDICT + b"Content-Length: +18\r\n\r\n" + BODY + GET,
        PREDICT + b"Content-Length: 0x12\r\n\r\n" + BODY + GET,
        PREDICT + b"Content-Length : 18\r\n\r\n" + BODY + GET,
        PREDICT + b"Transfer-Encoding: gzip, chunked, identity\r\n\r\n0\r\n\r\n" + GET,
        PREDICT + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + GET,
        PREDICT + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\n" + GET,
        PREDICT + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n" + GET,
        PREDICT + b"X: a\r\n b\r\n\r\n" + GET,
        PREDICT + b"Content-Length: 18\r\n \r\n\r\n" + BODY + GET,
        PREDICT + b"Content-Length:\r\n 18\r\n\r\n" + BODY + GET,
        PREDICT + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + GET,
        PREDICT + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n" + GET,
        PREDICT + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + GET,
        PREDICT + b"Transfer-Encoding: chunked\r\n\r\n12\n" + BODY + b"\r\n0\r\n\r\n" + GET,
        PREDICT + b"Transfer-Encoding: chunked\r\n\r\n12;a\nb\r\n" + BODY + b"\r\n0\r\n\r\n" + GET,
        PREDICT + b"Transfer-Encoding: chunked\r\n\r\n0x12\r\n" + BODY + b"\r\n0\r\n\r\n" + GET,
        PREDICT + b"Transfer-Encoding: chunked\r\n\r\n+12\r\n" + BODY + b"\r\n0\r\n\r\n" + GET,
        PREDICT + b"Transfer-Encoding: chunked\r\n\r\n12\r\n" + BODY + b"XX0\r\n\r\n" + GET,
        PREDICT.replace(b"\r\n", b"\n") + b"Content-Length: 18\n\n" + BODY + GET,
        PREDICT + b"Content-Length: 18\n\r\n" + BODY + GET,
        PREDICT + b"X: a\rContent-Length: 18\r\n\r\n" + BODY + GET,
        PREDICT + b"Content-Length: 18\r\nContent_Length: 5\r\nContent-Length: 18\r\n\r\n" + BODY + GET,
        PREDICT + b"Host: b\r\nContent-Length: 18\r\n\r\n" + BODY + GET,
        PREDICT + b"\x00: a\r\n\r\n" + GET,
        b"GET /healthz HTTP/9.9\r\n\r\n" + GET,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 100,
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        PREDICT + b"X: " + b"a" * 100_000 + b"\r\n\r\n",
        PREDICT + b"X: a\r\n" * 1000 + b"\r\n",
    ],
)
def test_a_request_of_two_meanings_is_refused_and_nothing_follows_it(rest, data):
    caller, echo = serve_echo(rest)
    answer = caller.all_of(data)
    assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4", b"HTTP/1.1 5"))
    assert b" 200 " not in answer
    assert not echo.requests
    assert caller.get("/healthz").status == 200


def test_a_body_in_chunks_is_read(rest):
    caller, _ = serve_echo(rest)
    data = PREDICT + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    data += b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"
    assert caller.all_of(data).endswith(b'{"predictions":[1.0]}')


def test_pipelined_requests_are_answered_in_their_order(rest):
    caller, _ = serve_echo(rest)
    bodies = [b'{"instances": [%d]}' % number for number in range(50)]
    data = b"".join(with_length(body) for body in bodies) + GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    answers = caller.all_of(data)
    assert [int(part.split(b".")[0]) for part in answers.split(b'{"predictions":[')[1:]] == list(range(50))
    assert answers.endswith(b"ok\n")


def test_a_flood_of_pipelined_requests_takes_no_memory(rest):
    caller, _ = serve_echo(rest)
    with caller.raw() as connection:
        connection.settimeout(1)
        with pytest.raises((TimeoutError, ConnectionError)):
            connection.sendall(GET * 1_000_000)
    assert caller.get("/healthz").status == 200


def test_pipelined_requests_with_large_headers_wait_in_the_socket(rest):
    caller, echo = serve_echo(rest)
    echo.go.clear()
    large = GET.replace(b"\r\n\r\n", b"\r\n" + b"".join(b"X%d: %s\r\n" % (i, b"a" * 8000) for i in range(60)) + b"\r\n")
    sent = 0
    with caller.raw(with_length()) as connection:
        wait_until(lambda: echo.requests)
        (inside,) = caller.server._door._inside.values()
        # Else the system's buffers, which grow, would hide what the server keeps.
        inside.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        connection.settimeout(1)
        data = memoryview(large * 64)
        with contextlib.suppress(TimeoutError):
            while sent < len(data):
                sent += connection.send(data[sent : sent + (1 << 16)])
        # One that is parsed, a part of the next, and the system's buffers.
        assert sent < 6 * len(large)
        echo.go.set()
        assert b'{"predictions":[1.0]}' in read_answer(connection)


def test_a_pipelined_request_is_answered_whatever_came_in_pieces_before(rest):
    caller, _ = serve_echo(rest)
    whole = with_length()
    with caller.raw() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(40):
            connection.sendall(whole[: -len(BODY)])
            time.sleep(0.005)  # so that the server has the headers alone
            connection.sendall(BODY)
            assert read_answer(connection).endswith(b"[1.0]}")
        connection.sendall(GET + whole + GET + GET + whole + GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        answers = read_all(connection)
    assert answers.count(b"[1.0]}") == 2
    assert answers.endswith(b"ok\n")


def test_more_lines_of_headers_than_64_are_refused(rest):
    caller, _ = serve_echo(rest)
    lines = [b"X%d: a\r\n" % number for number in range(100)]
    for count, status in ((60, b"200"), (100, b"400")):
        head = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + b"".join(lines[:count]) + b"\r\n"
        assert caller.all_of(head).split(b" ")[1] == status


def test_a_body_that_does_not_come_is_not_waited_for(rest):
    caller, echo = serve_echo(rest, receive_seconds=0.3)
    answer = caller.all_of(PREDICT + b"Content-Length: 18\r\n\r\n" + BODY[:5])
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert not echo.requests


def test_bodies_that_do_not_come_hold_no_threads(rest):
    caller, _ = serve_echo(rest)
    slow = [caller.raw(PREDICT + b"Content-Length: 18\r\n\r\n" + BODY[:5]) for _ in range(50)]
    assert caller.post("/v1/models/echo:predict", BODY).status == 200
    for connection in slow:
        connection.sendall(BODY[5:])
        assert read_answer(connection).endswith(b"[1.0]}")
        connection.close()


def test_headers_that_do_not_come_are_not_waited_for(rest):
    caller, _ = serve_echo(rest, idle_seconds=0.3)
    with caller.raw(b"GET /healthz HT") as trickling, caller.raw() as silent:
        assert read_all(trickling) == read_all(silent) == b""


def test_a_connection_is_closed_when_it_is_idle(rest):
    caller, _ = serve_echo(rest, idle_seconds=0.3)
    with caller.raw(GET) as connection:
        assert read_answer(connection).startswith(b"HTTP/1.1 200")
        assert read_all(connection) == b""


def test_idle_connections_keep_nobody_out(rest):
    caller, _ = serve_echo(rest, connections=20)
    idle = [caller.raw() for _ in range(100)]
    try:
        assert caller.post("/v1/models/echo:predict", BODY).status == 200
    finally:
        for connection in idle:
            connection.close()


def test_a_connection_with_a_request_is_not_the_one_that_makes_room(rest):
    caller, echo = serve_echo(rest, connections=4)
    echo.go.clear()
    with caller.raw(with_length()) as working:
        wait_until(lambda: echo.requests)
        idle = [caller.raw(GET) for _ in range(20)]
        echo.go.set()
        assert read_answer(working).endswith(b"[1.0]}")
        for connection in idle:
            connection.close()


def test_more_requests_than_there_is_room_for_are_told_to_come_later(rest):
    caller, echo = serve_echo(rest, threads=1, waiting=1)
    echo.go.clear()
    taken = []
    taken.append(caller.raw(with_length()))
    wait_until(lambda: echo.requests)
    taken.append(caller.raw(with_length()))
    application = caller.server._application
    wait_until(lambda: application._places.load.working == 2)
    response = caller.post("/v1/models/echo:predict", BODY)
    assert response.status == 429
    assert response.headers["Retry-After"] == "1"
    assert "as many requests as it takes" in json.loads(response.data)["error"]
    # What tells how the server is, it tells all the same.
    assert caller.get("/healthz").status == caller.get("/readyz").status == 200
    assert caller.get("/v1/models/echo").status == caller.get("/v1/models/echo/metadata").status == 200
    echo.go.set()
    for connection in taken:
        assert read_answer(connection).endswith(b"[1.0]}")
        connection.close()


def test_a_request_that_takes_too_long_is_answered_504(rest):
    caller, echo = serve_echo(rest, threads=1, timeout_seconds=0.3)
    echo.go.clear()
    response = caller.post("/v1/models/echo:predict", BODY)
    assert response.status == 504
    echo.go.set()
    wait_until(lambda: caller.server._application._places.load.working == 0)
    assert echo.was_wanted is False


def test_work_is_not_done_for_a_caller_who_is_gone(rest):
    caller, echo = serve_echo(rest, threads=1)
    echo.go.clear()
    with caller.raw(with_length()):
        wait_until(lambda: echo.requests)
        with caller.raw(with_length()):
            wait_until(lambda: caller.server._application._places.load.working == 2)
    # The second waits for the thread still, and is forgotten; the first is told when it asks.
    wait_until(lambda: caller.server._application._places.load.working == 1)
    wait_until(caller.server._application.quiet.is_set)
    echo.go.set()
    wait_until(lambda: caller.server._application._places.load.working == 0)
    assert len(echo.requests) == 1
    assert echo.was_wanted is False


def test_all_requests_together_have_a_bound(rest):
    caller, _ = serve_echo(rest, body_bytes=1 << 20, buffered_bytes=3 << 20)
    head = PREDICT + b"Content-Length: %d\r\n\r\n" % (1 << 20)
    held = [caller.raw(head + b" " * ((1 << 20) - 1)) for _ in range(2)]
    memory = caller.server._application.memory
    wait_until(lambda: memory.held == 2 * ((1 << 20) - 1))
    response = caller.post("/v1/models/echo:predict", BODY.ljust(1 << 20))
    assert response.status == 503
    assert response.headers["Retry-After"] == "1"
    for connection in held:
        connection.close()
    wait_until(lambda: memory.held == 0)
    assert caller.post("/v1/models/echo:predict", BODY).status == 200


def test_an_answer_that_nobody_takes_is_given_up(rest):
    caller, _ = serve_echo(rest, answer_seconds=0.5)
    body = b'{"signature_name": "s", "instances": ["%s"]}' % (b"a" * (8 << 20))
    connection = socket.create_connection(("127.0.0.1", caller.port), timeout=20)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.sendall(with_length(body))
    memory = caller.server._application.memory
    wait_until(lambda: memory.held > 0)
    wait_until(lambda: memory.held == 0)
    assert len(read_all(connection)) < len(body)
    connection.close()


def test_callers_at_once_get_their_own_answers(rest):
    caller, _ = serve_echo(rest, threads=4, waiting=64)
    wrong = []

    def call(number):
        for turn in range(20):
            value = number * 1000 + turn
            response = caller.post("/v1/models/echo:predict", b'{"instances": [%d]}' % value)
            if json.loads(response.data) != {"predictions": [value]}:
                wrong.append(response.data)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_lost_connection_in_the_middle_of_a_body_leaves_nothing_behind(rest):
    caller, echo = serve_echo(rest)
    for _ in range(20):
        caller.raw(PREDICT + b"Content-Length: 1000\r\n\r\n" + b" " * 500).close()
    wait_until(lambda: caller.server._application.memory.held == 0)
    wait_until(caller.server._application.quiet.is_set)
    assert not echo.requests


def test_an_upgrade_is_not_made(rest):
    caller, _ = serve_echo(rest)
    data = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n"
    assert caller.all_of(data).startswith(b"HTTP/1.1 200 ")
