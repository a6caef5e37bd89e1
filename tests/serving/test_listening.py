"""Servers of any services: in plaintext, on UNIX sockets, with clients' certificates, and for a while."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest

from sealserve.errors import MachineError
from sealserve.serving import admission as admission_module
from sealserve.serving.grpc_server import listen
from sealserve.serving.limits import Limits
from sealserve.serving.methods import Service, unary_method
from sealserve.serving.process.channel_arguments import apply_channel_arguments
from sealserve.serving.process.gate import Gate
from sealserve.serving.tls import ServerTls
from sealserve.wire.not_begun import NOT_BEGUN, STOPPING


def echo(request, context):
    return HealthCheckRequest(service=context.peer())


SERVICE = Service("test.Echo", {"Say": unary_method(echo, HealthCheckRequest)})


@pytest.fixture
def started():
    servers = []

    def start(*, services=(SERVICE,), serving=True, addresses=("127.0.0.1:0",), tls=None, limits=None, **settings):
        server, ports = listen(services, addresses=addresses, tls=tls, limits=limits or Limits(), **settings)
        server.start(serving=serving)
        servers.append(server)
        return server, ports

    yield start
    for server in servers:
        server.stop(0)


def say(channel):
    call = channel.unary_unary("/test.Echo/Say")
    return HealthCheckRequest.FromString(call(b"", timeout=20)).service


def health(channel, service=""):
    call = channel.unary_unary("/grpc.health.v1.Health/Check")
    request = HealthCheckRequest(service=service).SerializeToString()
    return health_pb2.HealthCheckResponse.FromString(call(request, timeout=20)).status


def code(call, *arguments):
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments)
    return caught.value.code().name


def test_one_server_listens_in_several_places(started, tmp_path):
    _, ports = started(addresses=["127.0.0.1:0", "127.0.0.1:0", f"unix:{tmp_path / 'socket'}"])
    assert ports[0] != ports[1]
    for target in (f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}", f"unix:{tmp_path / 'socket'}"):
        with grpc.insecure_channel(target) as channel:
            assert say(channel)


def test_two_servers_do_not_share_a_port_by_accident(started):
    _, (port,) = started()
    with pytest.raises(MachineError, match=f"127.0.0.1:{port}"):
        started(addresses=[f"127.0.0.1:{port}"])


@pytest.mark.parametrize("path", ["/nowhere/at/all/socket", "/tmp/" + "s" * 200])
def test_a_socket_that_cannot_be_had_is_said_so(started, path):
    with pytest.raises(MachineError) as caught:
        started(addresses=[f"unix:{path}"])
    assert "107" in caught.value.hint


def test_a_socket_that_a_killed_server_left_is_no_obstacle(started, tmp_path):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "socket"))
    started(addresses=[f"unix:{tmp_path / 'socket'}"])
    with grpc.insecure_channel(f"unix:{tmp_path / 'socket'}") as channel:
        assert say(channel)


def test_a_client_without_the_right_certificate_is_not_answered(started, certificate):
    tls = ServerTls(certificate.key, certificate.pem, client_ca_pem=certificate.pem)
    _, (port,) = started(tls=tls)
    options = [("grpc.ssl_target_name_override", "replica.sealserve.internal")]
    own = (bytes(certificate.key.reveal()), certificate.pem)
    for identity, answered in ((own, True), ((None, None), False)):
        credentials = grpc.ssl_channel_credentials(certificate.pem, *identity)
        with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
            assert say(channel) if answered else code(say, channel) == "UNAVAILABLE"


def test_a_clients_certificate_is_looked_at_in_every_session(started, certificate, tmp_path):
    """A session that is resumed shows no certificate, also when the one it began with has ended meanwhile."""
    tls = ServerTls(certificate.key, certificate.pem, client_ca_pem=certificate.pem)
    _, (port,) = started(tls=tls)
    (tmp_path / "own.pem").write_bytes(bytes(certificate.key.reveal()) + certificate.pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(tmp_path / "own.pem")
    session = None
    for _ in range(3):
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
            context.wrap_socket(plain, session=session) as stream,
        ):
            assert stream.recv(1000), "it was accepted"
            assert not stream.session_reused
            session = stream.session


def test_a_server_that_stops_says_what_it_does_not_begin_with(started, monkeypatch):
    monkeypatch.setattr(admission_module, "_QUIET", 0.0)
    server, (port,) = started()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert say(channel)
        server._admission.close()  # as `stop` does first
        with pytest.raises(grpc.RpcError) as caught:
            say(channel)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNAVAILABLE, "the server is stopping")
    assert dict(caught.value.trailing_metadata()) == {NOT_BEGUN: STOPPING}


def test_health_begins_as_it_is_told_and_knows_further_names(started):
    server, (port,) = started(serving=False, aliases=["PredictionService"])
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for name in ("", "test.Echo", "PredictionService"):
            assert health(channel, name) == health_pb2.HealthCheckResponse.NOT_SERVING
        server.set_serving(True)
        assert health(channel, "PredictionService") == health_pb2.HealthCheckResponse.SERVING
        assert code(health, channel, "Other") == "NOT_FOUND"


def test_a_closed_gate_answers_unavailable_and_an_open_one_what_is_behind_it(started):
    gate = Gate()
    _, (port,) = started(services=[gate.guard(SERVICE)])
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert code(say, channel) == "UNAVAILABLE"
        gate.open()
        assert say(channel)


def test_a_gate_can_be_for_some_methods_alone(started):
    _, (port,) = started(services=[Gate().guard(SERVICE, only=["Other"])])
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert say(channel)


def test_connections_end_with_their_age_and_no_request_is_lost(started):
    _, (port,) = started(limits=apply_channel_arguments(Limits(), "grpc.max_connection_age_ms=200"))
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        first = say(channel)
        deadline = time.monotonic() + 30
        while say(channel) == first:
            assert time.monotonic() < deadline, "the connection lives on"


def test_streams_of_one_connection_are_bounded_by_the_flag(started):
    import threading

    going, most, now, lock = threading.Event(), 0, 0, threading.Lock()

    def hold(request, context):
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        going.wait(0.1)
        with lock:
            now -= 1
        return HealthCheckRequest()

    limits = apply_channel_arguments(Limits(), "grpc.max_concurrent_streams=2")
    _, (port,) = started(
        services=[Service("test.Echo", {"Say": unary_method(hold, HealthCheckRequest)})], limits=limits
    )
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/test.Echo/Say")
        futures = [call.future(b"", timeout=20) for _ in range(8)]
        for future in futures:
            with contextlib.suppress(grpc.RpcError):
                future.result()
    assert most == 2
