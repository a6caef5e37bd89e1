"""``sealserve serve`` beside callers, files and models that are broken: honest callers are answered all the same."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time

import grpc
import numpy as np
import pytest
from hostile import Stranger
from process_parties import (
    PREDICT,
    descriptors,
    grpc_channel,
    request_of,
    resident_bytes,
    rest_call,
    rest_connection,
    threads,
    tls_context,
)

from sealserve.errors import ModelError
from sealserve.serving.engines import create_engine
from sealserve.serving.model_files import directory_files
from sealserve.wire.tensorflow_pb2 import DataType
from sealserve.wire.tensorflow_serving_pb2 import PredictRequest, PredictResponse
from sealserve.wire.tensors import to_numpy

X = np.array([2, 4], np.float32)


@pytest.fixture
def half_base(tmp_path, add_version):
    base = tmp_path / "half"
    add_version(base, 1, 2)
    return base


@pytest.fixture
def served(start, half_base, write_ssl_config):
    return start(
        f"--model_base_path={half_base}",
        "--model_name=half",
        f"--ssl_config_file={write_ssl_config()}",
        "--host=127.0.0.1",
        "--max_num_load_retries=0",
    )


def call(channel, data: bytes, timeout=60):
    answer = PredictResponse.FromString(channel.unary_unary(PREDICT)(data, timeout=timeout))
    return answer.model_spec.version.value, to_numpy(answer.outputs["y"]).tolist()


def code_of(channel, data: bytes) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, data)
    return caught.value.code().name


def answered(served, authority) -> None:
    """Honest callers are, at both doors."""
    with grpc_channel(served, authority) as channel:
        assert call(channel, request_of("half", X)) == (1, [3.0, 4.0])
    with rest_connection(served, authority) as connection:
        body = {"instances": [2.0, 4.0]}
        assert rest_call(connection, "/v1/models/half:predict", body) == (200, {"predictions": [3.0, 4.0]})
    assert served.process.poll() is None
    assert "Traceback" not in served.log.read_text()


def shaped(*sizes: int, content=b"", values=()) -> bytes:
    request = PredictRequest()
    request.model_spec.name = "half"
    tensor = request.inputs["x"]
    tensor.dtype, tensor.tensor_content = DataType.DT_FLOAT, content
    tensor.float_val.extend(values)
    for size in sizes:
        tensor.tensor_shape.dim.add(size=size)
    return request.SerializeToString()


def test_malformed_requests_are_refused_at_both_doors_and_take_nothing(served, authority):
    answered(served, authority)
    before = resident_bytes(served.process.pid)
    good = request_of("half", X)
    with grpc_channel(served, authority) as channel:
        for data in (
            b"\xff" * 100,
            good[:-1],
            good[:7],
            shaped(-1, content=b"1234"),
            shaped(-(1 << 63), values=[1]),
            shaped(1 << 62, content=b"1234"),
            shaped(1 << 40, values=[1]),
            shaped(1 << 32, 1 << 32, values=[1]),
            shaped(*[1] * 300, values=[1]),
            shaped(*[1] * 65, values=[1]),
            shaped(3, content=b"12345"),
            shaped(2, values=[1, 2, 3]),
        ):
            assert code_of(channel, data) == "INVALID_ARGUMENT", data[:80]
    bodies = (
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"instances": [1e999]}',
        b'{"instances": [1, "2"]}',
        b'{"instances": [[1], [1, 2]]}',
        b'{"instances": ' + b"[" * 100 + b"1" + b"]" * 100 + b"}",
        b'{"inputs": ' + b"[" * 100 + b"1" + b"]" * 100 + b"}",
        b'{"instances": ' + b"[" * 100_000,
        b'{"instances": [' + b"9" * 10_000 + b"]}",
    )
    with rest_connection(served, authority) as connection:
        for body in bodies:
            status, answer = rest_call(connection, "/v1/models/half:predict", body)
            assert (status, list(answer)) == (400, ["error"]), (body[:60], answer)
        for shape in ([-1], [1 << 62], [1 << 40], [1] * 300, [1.5], "2", [[1]]):
            infer = {"inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "data": [1.0]}]}
            status, answer = rest_call(connection, "/v2/models/half/infer", infer)
            assert (status, list(answer)) == (400, ["error"]), (shape, answer)
    assert resident_bytes(served.process.pid) - before < 100 << 20
    answered(served, authority)


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 10\r\nContent-Length: 29\r\n",
        b"Content-Length: 29\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 1e3\r\n",
        b"Content-Length: 10\r\n",
        b"Content-Length: 99999999999999999999\r\n",
    ],
)
def test_a_content_length_that_does_not_fit_is_no_way_to_an_answer(served, authority, head):
    with tls_context(authority).wrap_socket(
        socket.create_connection(("127.0.0.1", served.rest_port), timeout=60), server_hostname="localhost"
    ) as connection:
        connection.sendall(
            b"POST /v1/models/half:predict HTTP/1.1\r\nHost: x\r\n" + head + b'\r\n{"instances": [2.0, 4.0, 6.0]}'
        )
        said = b""
        with contextlib.suppress(OSError):
            while part := connection.recv(65536):
                said += part
    assert said.startswith(b"HTTP/1.")
    assert b" 4" in said.split(b"\r\n")[0]
    assert b"predictions" not in said
    answered(served, authority)


def test_a_damaged_version_and_one_that_vanishes_leave_the_one_that_answers(served, half_base, authority, add_version):
    good = (half_base / "1" / "saved_model.pb").read_bytes()
    for number, data in enumerate((b"", good[: len(good) // 2], b"\xff" * 1000, good[:-3] + b"\xff\xff\xff"), 2):
        beside = half_base / f".{number}"
        beside.mkdir()
        (beside / "saved_model.pb").write_bytes(data)
        beside.rename(half_base / str(number))
        served.wait_for("model-version-failed", times=number - 1)
        answered(served, authority)
        shutil.rmtree(half_base / str(number))
    stop = threading.Event()

    def come_and_go():
        while not stop.is_set():
            add_version(half_base, 9, 7)
            time.sleep(0.003)
            shutil.rmtree(half_base / "9")

    # While the server lists and reads it.
    vanishing = threading.Thread(target=come_and_go)
    vanishing.start()
    try:
        with grpc_channel(served, authority) as channel:
            until = time.monotonic() + 4
            while time.monotonic() < until:
                assert call(channel, request_of("half", X)) in ((1, [3.0, 4.0]), (9, [8.0, 9.0]))
    finally:
        stop.set()
        vanishing.join()
    with grpc_channel(served, authority) as channel:
        # Version 9 may have been whole at a look, and the newest: the next look finds version 1 alone.
        until = time.monotonic() + 10
        while (answer := call(channel, request_of("half", X)))[0] != 1 and time.monotonic() < until:
            time.sleep(0.05)
        assert answer == (1, [3.0, 4.0])
        assert call(channel, request_of("half", X, version=1)) == answer
    assert served.process.poll() is None
    assert "Traceback" not in served.log.read_text()


def test_a_base_directory_that_vanishes_and_comes_back_loses_no_answer(served, half_base, authority):
    away = half_base.with_name("away")
    half_base.rename(away)
    served.wait_for("model-versions-not-found")
    answered(served, authority)
    away.rename(half_base)
    answered(served, authority)


_DIES = """
import sys
sys.path[:0] = sys.argv[1].split(":")
import numpy as np
from process_parties import PREDICT, request_of
import grpc
channel = grpc.secure_channel(f"127.0.0.1:{sys.argv[2]}", grpc.ssl_channel_credentials(open(sys.argv[3], "rb").read()))
data = request_of("half", np.zeros(1 << 19, np.float32))
print("asks", flush=True)
while True:
    waiting = [channel.unary_unary(PREDICT).future(data) for _ in range(8)]
    [one.result() for one in waiting]
"""


def test_callers_that_are_killed_in_the_middle_leave_nothing_behind(served, authority, tmp_path):
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    answered(served, authority)
    before = descriptors(served.process.pid)
    for _ in range(4):
        caller = subprocess.Popen(
            [sys.executable, "-c", _DIES, ":".join(sys.path), str(served.port), str(tmp_path / "ca.pem")],
            stdout=subprocess.PIPE,
        )
        assert caller.stdout.readline() == b"asks\n"
        time.sleep(0.3)
        assert caller.poll() is None
        caller.kill()
        caller.wait()
        caller.stdout.close()
        answered(served, authority)
    deadline = time.monotonic() + 60
    while descriptors(served.process.pid) > before + 4:
        assert time.monotonic() < deadline, "connections of dead callers are kept"
        time.sleep(0.1)


def test_slow_senders_and_readers_keep_nobody_out(served, authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            sock = stack.enter_context(
                context.wrap_socket(socket.create_connection(("127.0.0.1", served.rest_port), timeout=60))
            )
            sock.sendall(b"POST /v1/models/half:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{")
            stranger = stack.enter_context(Stranger(served.port, settings={4: 0}))  # takes no byte of an answer
            headers = stranger.headers()
            stranger.send(headers, *stranger.message(headers.stream_id, request_of("half", np.zeros(3000, np.float32))))
            slow = stack.enter_context(Stranger(served.port))
            headers = slow.headers()
            slow.send(headers, *slow.message(headers.stream_id, b"\0", declared=1 << 20))
        answered(served, authority)
    answered(served, authority)


@pytest.mark.slow
def test_thousands_of_idle_connections_keep_no_honest_caller_out(served, authority):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 6000:
        pytest.skip("this process may not open so many files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    threads_before = threads(served.process.pid)
    with grpc_channel(served, authority) as channel, contextlib.ExitStack() as stack:
        assert call(channel, request_of("half", X)) == (1, [3.0, 4.0])
        for _ in range(2000):
            for port in (served.rest_port, served.port):
                with contextlib.suppress(OSError):
                    stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        assert call(channel, request_of("half", X)) == (1, [3.0, 4.0])
        with rest_connection(served, authority) as connection:
            assert rest_call(connection, "/v1/models/half:predict", {"instances": [2.0]})[0] == 200
        assert threads(served.process.pid) - threads_before < 40
    # New callers come in again when the strangers are gone.
    deadline = time.monotonic() + 60
    while True:
        try:
            answered(served, authority)
            break
        except grpc.RpcError:
            assert time.monotonic() < deadline
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_sigterm_under_load_gives_whole_answers_or_unavailable_and_the_port_can_be_had_again(
    start, served, half_base, authority, tmp_path
):
    odd, whole = [], []
    x = np.arange(100_000, dtype=np.float32)
    right = (x / 2 + 2).tolist()

    def over_grpc():
        with grpc_channel(served, authority) as channel:
            while True:
                try:
                    if call(channel, request_of("half", x)) != (1, right):
                        odd.append("a wrong answer")
                    whole.append("grpc")
                except grpc.RpcError as error:
                    # CANCELLED, rarely: grpcio had accepted the request, and no thread had the time to take it.
                    if error.code() not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}:
                        odd.append(error)
                    return

    def over_rest():
        connecting = True
        try:
            while True:
                connecting = True
                with rest_connection(served, authority) as connection:
                    connection.connect()
                    connecting = False
                    status, answer = rest_call(connection, "/v1/models/half:predict", {"instances": x[:5000].tolist()})
                if status == 503:
                    return
                if status != 200 or answer != {"predictions": right[:5000]}:
                    odd.append((status, str(answer)[:100]))
                whole.append("rest")
        except ValueError as error:  # half an answer
            odd.append(error)
        except OSError as error:
            if not connecting and not isinstance(error, ConnectionError):
                odd.append(error)

    callers = [threading.Thread(target=target) for target in (over_grpc, over_rest) for _ in range(4)]
    for caller in callers:
        caller.start()
    deadline = time.monotonic() + 60
    while {"grpc", "rest"} != set(whole) and time.monotonic() < deadline:
        time.sleep(0.01)
    served.signal(signal.SIGTERM)
    for caller in callers:
        caller.join(60)
    assert served.wait() == 0
    assert odd == []
    assert {"grpc", "rest"} == set(whole)
    assert "Traceback" not in served.log.read_text()
    again = start(
        f"--model_base_path={half_base}",
        "--model_name=half",
        f"--ssl_config_file={tmp_path / 'ssl.cfg'}",
        "--host=127.0.0.1",
        port=served.port,
    )
    answered(again, authority)


_BROKEN_ENGINE = """
import time
from sealserve.serving import openvino_model
run = openvino_model.InferRequest.run
def broken(self, arrays):
    first = next(iter(arrays.values())).ravel()[0]
    if first == -1:
        raise ZeroDivisionError("secret of the engine")
    if first == -2:
        time.sleep(8)
    if first == -3:
        import ctypes
        ctypes.string_at(0)  # as a defect in native code would
    return run(self, arrays)
openvino_model.InferRequest.run = broken
"""


@pytest.fixture
def broken_engine(tmp_path, monkeypatch):
    """Servers that are started have it."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(_BROKEN_ENGINE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]))


@pytest.mark.usefixtures("broken_engine")
def test_a_crash_in_native_code_ends_the_process_and_leaves_nothing_that_looks_alive(
    start, half_base, write_ssl_config, authority
):
    flags = (
        f"--model_base_path={half_base}",
        "--model_name=half",
        "--host=127.0.0.1",
        "--tensorflow_inter_op_parallelism=2",
    )
    served = start(*flags, f"--ssl_config_file={write_ssl_config()}")
    with grpc_channel(served, authority) as channel, rest_connection(served, authority) as connection:
        assert call(channel, request_of("half", X)) == (1, [3.0, 4.0])
        waiting = channel.unary_unary(PREDICT).future(request_of("half", np.array([-2], np.float32)), timeout=60)
        assert call(channel, request_of("half", X)) == (1, [3.0, 4.0])
        assert code_of(channel, request_of("half", np.array([-3], np.float32))) == "UNAVAILABLE"
        # Those whose requests were in flight are told at once, and do not wait for their deadlines.
        assert waiting.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(OSError):  # noqa: PT011 - refused or reset
            rest_call(connection, "/readyz")
    assert served.wait() == -signal.SIGSEGV
    for port in (served.port, served.rest_port):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=10)
    # Whoever looks after the process starts it again, on the same port.
    again = start(*flags, f"--ssl_config_file={write_ssl_config()}", port=served.port)
    with grpc_channel(again, authority) as channel:
        assert call(channel, request_of("half", X)) == (1, [3.0, 4.0])


@pytest.mark.parametrize("name", ["openvino", "tensorflow"])
def test_a_version_that_vanishes_or_shrinks_while_it_is_read_is_loaded_whole_or_refused(half_plus_two, tmp_path, name):
    if name == "tensorflow":
        pytest.importorskip("tensorflow")
    engine = create_engine(name)
    shutil.copytree(half_plus_two, tmp_path / "gone")
    with directory_files(tmp_path / "gone") as files:
        shutil.rmtree(tmp_path / "gone")
        loaded = engine.load(files)
    assert loaded.predict("serving_default", {"x": X})["y"].tolist() == [3.0, 4.0]
    loaded.close()
    shutil.copytree(half_plus_two, tmp_path / "short")
    whole = (tmp_path / "short" / "saved_model.pb").stat().st_size
    for size in (whole - 1, whole // 2, 1, 0):
        with directory_files(tmp_path / "short") as files:
            os.truncate(tmp_path / "short" / "saved_model.pb", size)
            with pytest.raises(ModelError):
                engine.load(files)


@pytest.mark.usefixtures("broken_engine")
def test_an_engine_that_raises_or_hangs_for_one_caller_answers_the_others(
    start, half_base, write_ssl_config, authority
):
    served = start(
        f"--model_base_path={half_base}",
        "--model_name=half",
        f"--ssl_config_file={write_ssl_config()}",
        "--host=127.0.0.1",
        "--tensorflow_inter_op_parallelism=2",
        "--rest_api_timeout_in_ms=1000",
    )
    with grpc_channel(served, authority) as channel, rest_connection(served, authority) as connection:
        with pytest.raises(grpc.RpcError) as caught:
            call(channel, request_of("half", np.array([-1], np.float32)))
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert "secret" not in caught.value.details()
        status, answer = rest_call(connection, "/v1/models/half:predict", {"instances": [-1.0]})
        assert status == 500
        assert "secret" not in str(answer)
        hanging = request_of("half", np.array([-2], np.float32))
        with pytest.raises(grpc.RpcError) as caught:
            call(channel, hanging, timeout=0.5)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert call(channel, request_of("half", X)) == (1, [3.0, 4.0])
    assert served.process.poll() is None
