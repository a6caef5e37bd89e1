"""Processes of the serving benchmark: our server, a bare grpcio server, and engines without a server.

Each runs in a process of its own, ``python -m benchmarks._serving_place``, gets its task as JSON on its command line,
and answers on standard output with one line of JSON when it is ready.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np

PREDICT = "/tensorflow.serving.PredictionService/Predict"


class Place:
    """A process that was started, and what it said when it was ready.

    :ivar seconds: from its start until it was ready. :ivar said: its line.
    """

    def __init__(self, command: list[str], **environment: str) -> None:
        start = time.perf_counter()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **environment}
        )
        line = self._read()
        if not line.strip():
            self.close()
            raise RuntimeError(f"{' '.join(command[:4])} did not start")
        self.said: dict[str, Any] = json.loads(line)
        self.seconds = time.perf_counter() - start

    @property
    def pid(self) -> int:
        return self._process.pid

    def _read(self) -> bytes:
        assert self._process.stdout
        return self._process.stdout.readline()

    def ask(self, count: int) -> list[float]:
        """Have an engine without a server answer so often; seconds of each."""
        assert self._process.stdin
        self._process.stdin.write(f"{count}\n".encode())
        self._process.stdin.flush()
        answer: list[float] = json.loads(self._read())
        return answer

    def memory_bytes(self) -> tuple[int, int]:
        """The most memory that the process has had, and what it has now."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        peak, now = (int(status.split(f"{name}:")[1].split()[0]) * 1024 for name in ("VmHWM", "VmRSS"))
        return peak, now

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


@contextlib.contextmanager
def place(what: str, **task: Any) -> Iterator[Place]:
    """One of this module's processes, until the end of the block."""
    started = Place(
        [sys.executable, "-m", "benchmarks._serving_place", what, json.dumps(task)], TF_CPP_MIN_LOG_LEVEL="3"
    )
    try:
        yield started
    finally:
        started.close()


def _say(**line: Any) -> None:
    print(json.dumps(line), flush=True)


def serve(models: dict[str, str], key: str, certificate: str, threads: int | None, batching: str | None) -> None:
    """Our server."""
    from sealserve.secret import Secret
    from sealserve.serving.batching import BatchingModel, BatchingParameters
    from sealserve.serving.core import ModelServer
    from sealserve.serving.grpc_server import create_server
    from sealserve.serving.model_files import directory_files
    from sealserve.serving.openvino_engine import OpenVinoEngine

    engine, core = OpenVinoEngine(threads=threads), ModelServer()
    for name, directory in models.items():
        with directory_files(Path(directory)) as files:
            loaded = engine.load(files)
        if batching is not None:
            loaded = BatchingModel(loaded, BatchingParameters.from_text(batching))
        core.add_model(name, 1, loaded)
    pem = Secret(base64.b64decode(key))
    server, port = create_server(core, address="127.0.0.1:0", private_key_pem=pem, certificate_pem=certificate.encode())
    server.start()
    _say(port=port)
    sys.stdin.read()
    server.stop(0)


def echo(key: str, certificate: str) -> None:
    """The floor: grpcio's own server, which gives back what it gets."""
    server = grpc.server(ThreadPoolExecutor(64), options=[("grpc.max_receive_message_length", -1)])
    service, method = PREDICT[1:].split("/")
    handlers = {method: grpc.unary_unary_rpc_method_handler(lambda message, _: message)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    credentials = grpc.ssl_server_credentials([(base64.b64decode(key), certificate.encode())])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    _say(port=port)
    sys.stdin.read()
    server.stop(0)


def openvino(directory: str, array: str, threads: int | None) -> None:
    """OpenVINO in a process that does nothing else."""
    import openvino as ov

    properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        properties["INFERENCE_NUM_THREADS"] = threads
    core = ov.Core()
    request = core.compile_model(core.read_model(directory), "CPU", properties).create_infer_request()
    _answer_on_request(array, lambda given: np.array(request.infer([given], share_inputs=True, share_outputs=True)[0]))


def tensorflow(directory: str, array: str, threads: int | None) -> None:
    """TensorFlow in a process that does nothing else."""
    import tensorflow as tf

    if threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    function = tf.saved_model.load(directory).signatures["serving_default"]
    alias = next(iter(function.structured_input_signature[1]))
    _answer_on_request(array, lambda given: next(iter(function(**{alias: tf.constant(given)}).values())).numpy())


def _answer_on_request(path: str, answer: Callable[[Any], Any]) -> None:
    array = np.load(path)
    _say(first=np.asarray(answer(array)).ravel()[:8].tolist())
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = time.perf_counter()
            answer(array)
            seconds.append(time.perf_counter() - start)
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    places: dict[str, Callable[..., None]] = {
        "serve": serve,
        "echo": echo,
        "openvino": openvino,
        "tensorflow": tensorflow,
    }
    places[sys.argv[1]](**json.loads(sys.argv[2]))
