"""The local proxy: plain gRPC in, checked connections out, and nobody else's door."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import h2.config
import h2.connection
import pytest
from client_parties import MARKER, SECRET_INPUT, ManInTheMiddle, Scripted, free_port
from test_client_channel import PREDICT, request, stub

from sealserve.addresses import Address
from sealserve.client.aio import AsyncClient
from sealserve.client.local_user import user_of
from sealserve.client.with_grpcio.proxy import Proxy
from sealserve.errors import InputError, MachineError

LOOPBACK = Address("127.0.0.1", 0)


@pytest.fixture
def proxy(policy, tmp_path):
    """Starts a proxy in a loop of its own; gives its address."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    stack = contextlib.AsyncExitStack()

    def start(target: str, *, path=None, clients=None, **options):
        async def begin():
            client = await stack.enter_async_context(AsyncClient(target, policy, **(clients or {})))
            made = Proxy(client, **options)
            stack.callback(made.close)
            address = made.listen(LOOPBACK)
            if path:
                made.listen_on_socket(path)
            await made.start()
            stack.push_async_callback(made.stop, 0.1)
            return str(address)

        return asyncio.run_coroutine_threadsafe(begin(), loop).result(10)

    yield start
    asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(20)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def test_an_unmodified_program_reaches_an_attested_replica(proxy, replica, tmp_path):
    address = proxy(replica.target, path=tmp_path / "socket")
    for target in (address, f"unix:{tmp_path / 'socket'}"):
        with grpc.insecure_channel(target) as channel:
            assert stub(channel)(request(), timeout=10).model_spec.version.value == 3
            assert stub(channel)(request()).model_spec.version.value == 3  # without a deadline
    assert replica.log == ["GetEvidence"] + ["Predict"] * 4


def test_metadata_status_and_deadline_pass_through(proxy, start_good):
    def predict(message, context):
        seen.append(({m.key: m.value for m in context.invocation_metadata()}, context.time_remaining()))
        context.send_initial_metadata((("x-first", "1"),))
        context.set_trailing_metadata((("x-last-bin", b"\0\xff"),))
        if len(seen) == 2:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full: \N{SNOWMAN}")
        return replica.honest_predict(message, context)

    seen = []
    replica = start_good(predict=predict)
    with grpc.insecure_channel(proxy(replica.target)) as channel:
        _, call = stub(channel).with_call(request(), metadata=(("x-in-bin", b"\1"), ("x-t", "t")), timeout=15)
        assert ("x-first", "1") in [tuple(m) for m in call.initial_metadata()]
        assert ("x-last-bin", b"\0\xff") in [tuple(m) for m in call.trailing_metadata()]
        with pytest.raises(grpc.RpcError) as caught:
            stub(channel)(request(), timeout=15)
    metadata, left = seen[0]
    assert (metadata["x-in-bin"], metadata["x-t"]) == (b"\1", "t")
    assert metadata["user-agent"].startswith("sealserve/")
    assert 0 < left < 20  # and not the proxy's own, which is longer
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.details() == "full: \N{SNOWMAN}"
    assert ("x-last-bin", b"\0\xff") in [tuple(m) for m in caught.value.trailing_metadata()]


def test_any_unary_method_passes_and_streams_are_told(proxy, replica):
    with grpc.insecure_channel(proxy(replica.target)) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/some.Other/Method")(b"bytes", timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.RpcError) as caught:
            next(channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=10))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "streams" in caught.value.details()


def test_many_programs_at_once(proxy, replica):
    address = proxy(replica.target, clients={"max_connections": 4})

    def program(_: int) -> int:
        with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            return sum(stub(channel)(request(), timeout=20).model_spec.version.value for _ in range(3))

    with ThreadPoolExecutor(12) as threads:
        assert list(threads.map(program, range(12))) == [9] * 12
    assert replica.predicted == 36
    assert replica.asked <= 4


def test_more_than_the_limit_is_refused_and_too_large_is_too(proxy, start_good):
    release, entered = threading.Event(), threading.Event()

    def predict(message, context):
        entered.set()
        release.wait(20)
        return replica.honest_predict(message, context)

    replica = start_good(predict=predict)
    address = proxy(replica.target, max_concurrent=1, max_message_bytes=4096)
    own = [("grpc.use_local_subchannel_pool", 1)]  # two programs, two connections
    with grpc.insecure_channel(address, own) as first, grpc.insecure_channel(address, own) as second:
        try:
            waiting = stub(first).future(request(), timeout=20)
            assert entered.wait(10)
            with pytest.raises(grpc.RpcError) as caught:
                stub(second)(request(), timeout=10)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        finally:
            release.set()
        assert waiting.result().model_spec.version.value == 3
        with pytest.raises(grpc.RpcError) as caught:
            second.unary_unary(PREDICT)(bytes(5000), timeout=10)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert replica.predicted == 1


def refused(address: str) -> grpc.RpcError:
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as caught:
        stub(channel)(request(), timeout=10)
    return caught.value


def test_a_refused_replica_gets_nothing_and_the_program_learns_why(proxy, bad_replica, replica, bad_identity):
    error = refused(proxy(bad_replica.target))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "sealserve-reason" in dict(error.trailing_metadata())
    with ManInTheMiddle(bad_identity, replica.target) as attacker:
        assert refused(proxy(attacker.target)).code() is grpc.StatusCode.UNAUTHENTICATED
        assert MARKER not in attacker.plaintext
    assert replica.predicted == bad_replica.predicted == 0


def test_a_replica_that_is_swapped_behind_it_gets_nothing(proxy, replica, bad_replica, balance):
    balancer = balance(replica.target)
    address = proxy(balancer.target)
    with grpc.insecure_channel(address) as channel:
        stub(channel)(request(), timeout=10)
        balancer.targets = [bad_replica.target]
        balancer.cut()
        with pytest.raises(grpc.RpcError) as caught:
            stub(channel)(request(), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert bad_replica.predicted == 0


def test_a_cluster_that_is_down_or_silent_has_its_codes(proxy, identities):
    assert refused(proxy(f"127.0.0.1:{free_port()}")).code() is grpc.StatusCode.UNAVAILABLE
    with Scripted(identities[0]) as silent:
        with grpc.insecure_channel(proxy(silent.target)) as channel, pytest.raises(grpc.RpcError) as caught:
            stub(channel)(request(), timeout=0.5)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert MARKER not in silent.plaintext


def test_a_program_that_hangs_up_cancels_its_call(proxy, start_good):
    entered, ended = threading.Event(), threading.Event()

    def predict(message, context):
        context.add_callback(ended.set)
        entered.set()
        ended.wait(20)
        return replica.honest_predict(message, context)

    replica = start_good(predict=predict)
    with grpc.insecure_channel(proxy(replica.target)) as channel:
        call = stub(channel).future(request(), timeout=20)
        assert entered.wait(10)
        call.cancel()
        assert ended.wait(10)


def raw_call(address: str, headers: list[tuple[str, str]], body: bytes) -> list[tuple[bytes, bytes]]:
    """What a program that writes its own HTTP/2 gets back: the last headers, empty if it is hung up on."""
    host, _, port = address.rpartition(":")
    config = h2.config.H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False)
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    connection.send_headers(1, headers)
    connection.send_data(1, body, end_stream=True)
    last: list[tuple[bytes, bytes]] = []
    with socket.create_connection((host, int(port)), timeout=5) as plain:
        plain.sendall(connection.data_to_send())
        while data := plain.recv(65536):
            try:
                events = connection.receive_data(data)
            except h2.exceptions.ProtocolError:
                return last
            for event in events:
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    last = event.headers
                if isinstance(event, h2.events.StreamEnded | h2.events.StreamReset | h2.events.ConnectionTerminated):
                    return last
            plain.sendall(connection.data_to_send())
    return last


@pytest.mark.parametrize(
    "extra",
    [
        [("x", "a\r\ngrpc-timeout: 1H")],
        [("x\r\ny", "1")],
        [("x y", "1")],
        [("transfer-encoding", "chunked")],
        [("connection", "close")],
        [("grpc-encoding", "gzip\r\nx: y")],
    ],
)
def test_headers_are_not_injected_through_it(extra, proxy, start_good):
    seen = []

    def predict(message, context):
        seen.append({m.key: m.value for m in context.invocation_metadata()})
        return replica.honest_predict(message, context)

    replica = start_good(predict=predict)
    message = request().SerializeToString()
    headers = [(":method", "POST"), (":scheme", "http"), (":path", PREDICT), (":authority", "x"), ("te", "trailers")]
    headers += [("content-type", "application/grpc"), *extra]
    raw_call(proxy(replica.target), headers, b"\0" + len(message).to_bytes(4, "big") + message)
    for metadata in seen:  # the call may have been refused, or the header left out
        assert set(metadata) <= {"user-agent", "x"}
        assert not any("\r" in value or "\n" in value for value in metadata.values())


@pytest.mark.parametrize("path", ["/a b/c", "/a\r\nx: y/c", "nothing", "/a/b/c", "/\xff/c"])
def test_a_path_that_is_no_method_goes_nowhere(path, proxy, replica):
    headers = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x"), ("te", "trailers")]
    last = raw_call(proxy(replica.target), [*headers, ("content-type", "application/grpc")], bytes(5))
    assert (dict(last).get(b"grpc-status") or b"13") != b"0"
    assert replica.predicted == 0


def test_another_local_user_is_turned_away(proxy, replica, monkeypatch):
    address = proxy(replica.target)
    monkeypatch.setattr("sealserve.client.doors.os.geteuid", lambda: 54321)
    assert refused(address).code() is grpc.StatusCode.UNAVAILABLE
    assert replica.log == []
    insecure = proxy(replica.target, insecure_any_local_user=True)
    with grpc.insecure_channel(insecure) as channel:
        stub(channel)(request(), timeout=10)


@pytest.mark.parametrize(
    ("family", "host", "kind"), [(socket.AF_INET, "127.0.0.1", "ipv4"), (socket.AF_INET6, "::1", "ipv6")]
)
def test_who_is_at_the_other_end_is_known(family, host, kind):
    shown = f"[{host}]" if kind == "ipv6" else host
    with socket.create_server((host, 0), family=family) as server:
        port = server.getsockname()[1]
        with socket.create_connection((host, port)) as ours:
            here = ours.getsockname()[1]
            assert user_of(f"{kind}:{shown}:{here}", (host, port)) == os.geteuid()
            assert user_of(f"{kind}:{shown}:{here}", (host, port + 1)) is None
            assert user_of(f"{kind}:{shown}:{here + 1}", (host, port)) is None
        # Closed: the kernel would say that it is root's.
        assert user_of(f"{kind}:{shown}:{here}", (host, port)) is None


@pytest.mark.parametrize(
    "peer", ["", "unix:", "ipv4:127.0.0.1", "ipv4:x:1", "ipv6:%5B::1%5D:99999", "ipv4:1.2.3.4:\u0661", "x:1:1"]
)
def test_an_odd_peer_is_nobody(peer):
    assert user_of(peer, ("127.0.0.1", 1)) is None


def test_the_socket_file_is_its_owners_alone(proxy, replica, tmp_path):
    path = tmp_path / "socket"
    proxy(replica.target, path=path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (tmp_path / "file").write_text("kept")
    with pytest.raises(InputError, match="no socket"):
        proxy(replica.target, path=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.org"])  # noqa: S104 - refused
def test_it_listens_on_loopback_alone(host, policy):
    async def attempt() -> None:
        async with AsyncClient("127.0.0.1:1", policy) as client:
            with contextlib.closing(Proxy(client)) as proxy:
                proxy.listen(Address(host, 0))

    with pytest.raises(InputError, match="other machines"):
        asyncio.run(attempt())


def test_a_port_that_is_taken_is_told(policy):
    async def attempt(port: int) -> None:
        async with AsyncClient("127.0.0.1:1", policy) as client:
            with contextlib.closing(Proxy(client)) as proxy:
                proxy.listen(Address("127.0.0.1", port))

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(MachineError):
        asyncio.run(attempt(taken.getsockname()[1]))


def test_the_command_serves_until_it_is_told_to_stop(replica, policy_file, tmp_path):
    command = [sys.executable, "-m", "sealserve", "proxy", replica.target, "--policy", policy_file, "--json"]
    command += ["--listen", "127.0.0.1:0", "--socket", str(tmp_path / "socket")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        told = json.loads(process.stdout.readline())
        with grpc.insecure_channel(told["listening"][0]) as channel:
            stub(channel)(request(), timeout=10)
        process.terminate()
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "SIMULATED - NO PROTECTION" in errors
    assert SECRET_INPUT.tobytes() in replica.inputs[0]
    assert not (tmp_path / "socket").exists()


def test_the_command_does_not_start_on_a_refused_replica(bad_replica, policy_file, tmp_path):
    command = [sys.executable, "-m", "sealserve", "proxy", bad_replica.target, "--policy", policy_file]
    done = subprocess.run(
        [*command, "--listen", "127.0.0.1:0"], capture_output=True, text=True, timeout=20, cwd=tmp_path, check=False
    )
    assert done.returncode == 4
    assert "Ctrl-C" not in done.stdout
