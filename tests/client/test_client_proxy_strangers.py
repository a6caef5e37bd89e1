"""The proxy's doors: strangers' bytes never reach gRPC, bad programs do not end it, and ports stay taken."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection

from sealserve.addresses import Address
from sealserve.client.doors import SocketFile, is_own
from sealserve.client.local_user import user_of
from sealserve.client.with_grpcio import proxy as module
from sealserve.client.with_grpcio.proxy import Proxy
from sealserve.client.with_grpcio.relay import Relay
from sealserve.errors import InputError, MachineError

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
STRANGER = 65534


class Echo:
    """Stands for the client: answers each call with its message."""

    async def call(self, method, message, *, metadata=(), timeout=0):  # noqa: ASYNC109
        return SimpleNamespace(initial_metadata=(), trailing_metadata=(), status=0, text="", message=message)


class Running:
    """A proxy in a loop of its own."""

    def __init__(self, **options):
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.proxy = Proxy(Echo(), **options)
        self.address = self.proxy.listen(Address("127.0.0.1", 0))
        self.run(self.proxy.start())

    def run(self, work, seconds=20):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(seconds)

    def answers(self) -> bool:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(str(self.address), options) as channel:
            return channel.unary_unary("/a.B/C")(b"hello", timeout=10) == b"hello"

    def close(self):
        self.run(self.proxy.stop(0.1))
        self.proxy.close()
        self.run(self.loop.shutdown_default_executor())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


@pytest.fixture
def running():
    with contextlib.ExitStack() as stack:

        def start(**options) -> Running:
            made = Running(**options)
            stack.callback(made.close)
            return made

        yield start


def stream(path: bytes, *, streams: int = 1, end: bool = True) -> bytes:
    """What a program sends that calls ``path``: with a message, or with headers alone."""
    connection = H2Connection(H2Configuration(validate_outbound_headers=False, header_encoding=None))
    connection.initiate_connection()
    headers = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"x")]
    for number in range(1, 2 * streams, 2):
        connection.send_headers(number, [*headers, (b"te", b"trailers"), (b"content-type", b"application/grpc")])
        if end:
            connection.send_data(number, bytes(5), end_stream=True)
    return connection.data_to_send()


def as_stranger(program: str, *arguments: str) -> str:
    """What a program of another user prints."""
    # The codec is for a host's name, and may lie where the other user cannot read.
    become = f"""import encodings.idna, os, socket, sys, time
os.setgroups([]); os.setgid({STRANGER}); os.setuid({STRANGER})
"""
    command = [sys.executable, "-c", become + program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()


HUNG_UP = """
sent = bytes.fromhex(sys.argv[2])
open_ = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(int(sys.argv[3]))]
heard = b""
for s in open_:
    s.settimeout(10)
    try:
        s.sendall(sent)
        heard += s.recv(100)
    except (ConnectionResetError, BrokenPipeError):
        pass
print("heard", heard)
"""


@as_root
@pytest.mark.parametrize("path", [b"/a/\xff\xfe", b"/a/b"])
def test_a_stranger_hears_nothing_and_the_proxy_goes_on(path, running):
    made = running()
    heard = as_stranger(HUNG_UP, str(made.address.port), stream(path).hex(), "5")
    assert heard == "heard b''"  # not even HTTP/2's settings
    assert made.answers()


@as_root
def test_a_stranger_that_holds_streams_keeps_nobody_out(running):
    made = running(max_concurrent=4)
    held = stream(b"/a/b", streams=80, end=False)
    assert as_stranger(HUNG_UP, str(made.address.port), held.hex(), "200") == "heard b''"
    assert made.answers()
    assert not made.proxy._unread


@as_root
def test_a_stranger_is_no_stranger_where_any_user_may_come(running):
    made = running(insecure_any_local_user=True)
    assert as_stranger(HUNG_UP, str(made.address.port), stream(b"/a/b").hex(), "1") != "heard b''"


@as_root
def test_a_process_of_another_user_is_known_and_the_socket_file_denies_it(tmp_path):
    program = "s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); print(1, flush=True); sys.stdin.read(1)"
    become = f"import encodings.idna, os, socket, sys; os.setgid({STRANGER}); os.setuid({STRANGER})\n"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        other = subprocess.Popen(
            [sys.executable, "-c", become + program, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert other.stdout.readline() == b"1\n"
            connection, (_, theirs) = server.accept()
            with connection:
                assert user_of(f"ipv4:127.0.0.1:{theirs}", ("127.0.0.1", port)) == STRANGER
                assert not is_own(connection)
        finally:
            other.communicate(b"x", timeout=10)
    tmp_path.chmod(0o755)
    file = SocketFile(tmp_path / "socket")
    try:
        denied = "try: socket.socket(socket.AF_UNIX).connect(sys.argv[1])\nexcept PermissionError: print('denied')"
        assert as_stranger(denied, str(tmp_path / "socket")) == "denied"
    finally:
        file.close()


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_our_own_connection_is_ours_until_it_is_closed(family, host):
    with socket.create_server((host, 0), family=family) as server:
        ours = socket.create_connection(server.getsockname()[:2])
        connection, _ = server.accept()
        with connection:
            assert is_own(connection)
            ours.close()
            assert not is_own(connection)  # the kernel would say that it is root's


def test_ipv4_on_a_socket_for_both_is_known():
    with (
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server,
        socket.create_connection(("127.0.0.1", server.getsockname()[1])),
    ):
        connection, _ = server.accept()
        with connection:
            assert is_own(connection)


def test_a_bad_program_of_our_own_does_not_end_it(running):
    made = running()
    for path in [b"/a/\xff\xfe", b"\xff", b"/\xc3/\x28"] * 10:
        with socket.create_connection(("127.0.0.1", made.address.port), timeout=5) as bad:
            bad.sendall(stream(path))
            bad.recv(1000)
    with socket.create_connection(("127.0.0.1", made.address.port), timeout=5) as bad:
        bad.sendall(os.urandom(5000))
        with contextlib.suppress(ConnectionResetError):
            while bad.recv(1000):
                pass
    assert made.answers()
    assert not any(task.done() for task in made.proxy._tasks)


def test_a_message_that_does_not_arrive_frees_its_place(running, monkeypatch):
    monkeypatch.setattr(module, "_MESSAGE_SECONDS", 0.5)
    made = running(max_concurrent=2)
    with socket.create_connection(("127.0.0.1", made.address.port), timeout=5) as slow:
        slow.sendall(stream(b"/a/b", streams=2, end=False))
        until = time.monotonic() + 10
        while not made.proxy._unread and time.monotonic() < until:
            time.sleep(0.01)
        assert made.proxy._unread
        while made.proxy._unread and time.monotonic() < until:
            time.sleep(0.01)
        assert made.answers()


def test_a_server_that_has_ended_ends_the_proxy_and_its_port_stays_taken(running):
    made = running()
    made.proxy._server.stop(0).wait()
    ended = asyncio.run_coroutine_threadsafe(made.proxy.ended(), made.loop)
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", made.address.port), timeout=5) as program:
        program.recv(1)
    with pytest.raises(MachineError):
        ended.result(10)
    made.run(made.proxy.stop(0.1))
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("127.0.0.1", made.address.port))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_server_whose_thread_has_died_ends_the_proxy(running, monkeypatch):
    monkeypatch.setattr(module, "_ALIVE_SECONDS", 1.0)
    made = running()
    ended = asyncio.run_coroutine_threadsafe(made.proxy.ended(), made.loop)
    with pytest.raises(TimeoutError):
        ended.result(2.5)  # it answers
    monkeypatch.setattr(module._Everything, "service", lambda *_: False)  # grpcio's thread does not survive that
    with pytest.raises(MachineError, match="does not answer"):
        ended.result(10)


def test_a_listening_socket_that_fails_ends_the_proxy(running):
    made = running()
    ended = asyncio.run_coroutine_threadsafe(made.proxy.ended(), made.loop)
    made.proxy._listening[0].shutdown(socket.SHUT_RDWR)
    with pytest.raises(MachineError, match="connections"):
        ended.result(10)


def test_a_program_that_does_not_read_is_not_read_from(tmp_path):
    async def relayed() -> int:
        inner = socket.socket(socket.AF_UNIX)
        inner.bind(str(tmp_path / "inner"))
        inner.listen()
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setblocking(False)
        relay = Relay(tmp_path / "inner", lambda _: True)
        accepting = asyncio.create_task(relay.accept(listening))
        program = socket.create_connection(listening.getsockname())
        server = await asyncio.to_thread(lambda: inner.accept()[0])
        server.setblocking(False)
        sent = 0
        for _ in range(20):  # until it is silent for a while
            with contextlib.suppress(BlockingIOError):
                while True:
                    sent += server.send(bytes(1 << 16))
            await asyncio.sleep(0.05)
        accepting.cancel()
        relay.close()
        for one in (inner, listening, program, server):
            one.close()
        return sent

    assert asyncio.run(relayed()) < 32 << 20  # what the kernel buffers, and little more


def test_a_socket_file_that_is_served_is_refused_and_left_alone(tmp_path):
    first = SocketFile(tmp_path / "socket")
    with pytest.raises(InputError, match="serves"):
        SocketFile(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as program:
        program.connect(str(tmp_path / "socket"))
    first.close()
    assert not (tmp_path / "socket").exists()


def test_a_stale_socket_file_is_replaced_and_a_successor_is_left_alone(tmp_path):
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    first = SocketFile(path)
    path.rename(tmp_path / "moved")
    second = SocketFile(path)
    first.close()
    assert path.is_socket()
    second.close()
    assert not path.exists()


def test_a_command_that_cannot_start_leaves_anothers_socket(tmp_path, policy_file):
    file = SocketFile(tmp_path / "socket")
    command = [sys.executable, "-m", "sealserve", "proxy", "127.0.0.1:1", "--policy", policy_file]
    done = subprocess.run(
        [*command, "--socket", str(tmp_path / "socket")], capture_output=True, timeout=20, cwd=tmp_path, check=False
    )
    assert done.returncode == 3
    assert b"another program serves" in done.stderr
    assert (tmp_path / "socket").is_socket()
    file.close()


def test_the_command_ends_with_an_error_when_its_server_is_gone(replica, policy_file, tmp_path):
    command = [sys.executable, "-m", "sealserve", "proxy", replica.target, "--policy", policy_file, "--json"]
    with tempfile.TemporaryDirectory() as private:  # pytest's paths are too long for sockets
        process = subprocess.Popen(
            [*command, "--listen", "127.0.0.1:0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"TMPDIR": private},
        )
        try:
            host, _, port = json.loads(process.stdout.readline())["listening"][0].rpartition(":")
            (inner,) = Path(private).glob("sealserve-proxy-*/socket")
            assert inner.parent.stat().st_mode & 0o777 == 0o700
            inner.unlink()
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=5) as program:
                program.recv(1)
            _, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode not in {0, 1, -9}
    assert "server has ended" in errors
    assert "Traceback" not in errors
