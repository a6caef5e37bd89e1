"""Callers of ``sealserve serve`` as a process, and what the process takes."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import struct
from pathlib import Path

import grpc
import numpy as np

from sealserve.wire.tensorflow_pb2 import DataType, TensorProto
from sealserve.wire.tensorflow_serving_pb2 import PredictRequest

PREDICT = "/tensorflow.serving.PredictionService/Predict"


def request_of(name: str, x: np.ndarray, *, version=None, label=None) -> bytes:
    tensor = TensorProto(dtype=DataType.DT_FLOAT, tensor_content=x.tobytes())
    tensor.tensor_shape.dim.add(size=x.size)
    request = PredictRequest()
    request.model_spec.name = name
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    request.inputs["x"].CopyFrom(tensor)
    return request.SerializeToString()


def grpc_channel(served, authority) -> grpc.Channel:
    # Without a subchannel pool of its own, callers of one process would share one connection.
    options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    return grpc.secure_channel(f"127.0.0.1:{served.port}", grpc.ssl_channel_credentials(authority.pem), options)


def tls_context(authority) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority.pem.decode())


@contextlib.contextmanager
def rest_connection(served, authority, timeout=60):
    connection = http.client.HTTPSConnection(
        "127.0.0.1", served.rest_port, context=tls_context(authority), timeout=timeout
    )
    try:
        yield connection
    finally:
        connection.close()


def rest_call(connection, path, body=None) -> tuple[int, dict]:
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    connection.request("GET" if body is None else "POST", path, body)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def resident_bytes(pid: int) -> int:
    line = next(row for row in Path(f"/proc/{pid}/status").read_text().splitlines() if row.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def reset_at_close(sock) -> None:
    """As a caller's kernel does after kill -9 with something unread."""
    import socket

    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
