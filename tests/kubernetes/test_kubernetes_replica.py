"""The commands of a rendered pod, run here: what a kubelet would start, with the paths of this machine."""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from kubernetes_cases import REPLICA, objects_in, of_kind
from small_model import write_doubling_model

from sealserve.kubernetes import render_kubernetes
from sealserve.local.owner import prepare_owner

pytestmark = pytest.mark.slow


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def _running(*arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "sealserve", *arguments], stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _status(port: int, path: str) -> int | None:
    """As kubelet asks: TLS, by address and thus without a server name, whoever the certificate is of."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=2, context=context)
    with contextlib.suppress(OSError), contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status
    return None


def _open(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
        return True
    return False


def _frames(data: bytes) -> Iterator[int]:
    """The types of the whole frames of HTTP/2."""
    while len(data) >= 9 and len(data) >= 9 + int.from_bytes(data[:3]):
        yield data[3]
        data = data[9 + int.from_bytes(data[:3]) :]


def _seconds_until_goaway(port: int) -> float:
    """How long a server lets an HTTP/2 connection be used on which nothing is asked (RFC 9113)."""
    preface, empty_settings, goaway = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0\0\0\x04\0\0\0\0\0", 7
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as raw,
        context.wrap_socket(raw, server_hostname="replica.sealserve.internal") as stream,
    ):
        started = time.monotonic()
        stream.sendall(preface + empty_settings)
        received = b""
        while goaway not in _frames(received):
            received += (more := stream.recv(1000))
            assert more
        return time.monotonic() - started


def test_a_rendered_pod_becomes_ready_and_ends_in_good_order(tmp_path: Path) -> None:
    write_doubling_model(tmp_path / "model")
    broker, grpc, rest = _free_port(), _free_port(), _free_port()
    content = {
        "name": "photos",
        "model": {"name": "doubling", "path": "model"},
        "broker": {"listen": f"127.0.0.1:{broker}"},
        "gateway": {"rest_listen": "127.0.0.1:8501"},
        "image": {"brokers": [f"photos-broker.photos.svc:{broker}"]},
        "kubernetes": {
            "image": REPLICA,
            "sealed_model": {"claim": "sealed-model"},
            "broker": f"192.0.2.1:{broker}",
            "edge": {"kind": "node-port"},
        },
    }
    file = tmp_path / "deployment.yaml"
    file.write_text(yaml.safe_dump(content))
    platform = prepare_owner(file).layout.platform
    render_kubernetes(file, tmp_path / "k8s")
    objects = objects_in(tmp_path / "k8s")
    pod = of_kind(objects, "Deployment")[0]["spec"]["template"]["spec"]
    authority = tmp_path / "broker-ca.pem"
    authority.write_text(of_kind(objects, "ConfigMap")[0]["data"]["broker-ca.pem"])
    here = {
        "/sealed": str(platform / "sealed"),
        "/platform": str(tmp_path / "machine-of-pod"),
        "/platform/machine": str(tmp_path / "machine-of-pod" / "machine"),
        "/etc/sealserve/broker-ca.pem": str(authority),
        "0.0.0.0:8500": f"127.0.0.1:{grpc}",
        "0.0.0.0:8501": f"127.0.0.1:{rest}",
        f"photos-broker.photos.svc:{broker}": f"127.0.0.1:{broker}",
    }
    secret = {f"/platform-secret/{path.name}": str(path) for path in (platform / "simulated" / "machine").iterdir()}
    for word in secret.values():
        Path(word).chmod(0o440)  # as Kubernetes gives them to the pod's group
    subprocess.run(
        [(here | secret).get(word, word) for word in pod["initContainers"][0]["command"]], check=True, timeout=20
    )
    arguments = [here.get(word, word) for word in pod["containers"][0]["args"]]
    assert "--max-connection-age" in arguments
    broker_file = str(tmp_path / ".sealserve" / "owner" / "broker.yaml")
    with (
        _running("broker", "run", "-f", broker_file, log=tmp_path / "broker.log"),
        _running(*arguments, log=tmp_path / "replica.log") as replica,
    ):
        assert not _open(grpc)
        deadline = time.monotonic() + 60
        while _status(rest, "/readyz") != 200:
            assert replica.poll() is None, (tmp_path / "replica.log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "replica.log").read_text()
            time.sleep(0.2)
        assert _open(grpc)
        assert _status(rest, "/livez") == 200
        assert 1 < _seconds_until_goaway(grpc) < 15
        replica.send_signal(signal.SIGTERM)
        assert replica.wait(timeout=30) == 0
        assert not _open(grpc)
