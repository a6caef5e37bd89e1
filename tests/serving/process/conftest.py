"""The real command as a process, models in directories, and certificates."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from serving_models import affine_model

from sealserve.models.writing import write_saved_model

_PATIENCE = 60.0  # seconds, for a machine that has much to do


@dataclass
class Served:
    """A server's process."""

    process: subprocess.Popen
    log: Path
    notified: socket.socket
    port: int
    rest_port: int
    socket_path: Path

    def wait_until_ready(self):
        self.notified.settimeout(_PATIENCE)
        while b"READY=1" not in self.notified.recv(4096):
            pass

    def wait_for(self, event, times=1):
        """Until the log has that event so often."""
        deadline = time.monotonic() + _PATIENCE
        while len(found := [entry for entry in self.events() if entry.get("event") == event]) < times:
            assert time.monotonic() < deadline, f"{event} did not happen: {self.log.read_text()}"
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)
        return found[-1]

    def events(self):
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self):
        """Its exit code."""
        return self.process.wait(_PATIENCE)

    def stop(self):
        self.signal(signal.SIGTERM)
        return self.wait()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture
def start(tmp_path):
    """Starts servers with some flags; they are ended with the test."""
    started = []

    def start(*flags, ready=True, rest=True, port=None) -> Served:
        directory = tmp_path / f"server-{len(started)}"
        directory.mkdir()
        notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notified.bind(str(directory / "notify"))
        port, rest_port = port or free_port(), free_port()
        arguments = [f"--port={port}", f"--grpc_socket_path={directory / 'grpc'}", "--json_logs", *flags]
        if rest:
            arguments.append(f"--rest_api_port={rest_port}")
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "sealserve", "serve", *map(str, arguments)],
                stdout=log,
                stderr=log,
                env={**os.environ, "NOTIFY_SOCKET": str(directory / "notify")},
            )
        served = Served(process, directory / "log", notified, port, rest_port, directory / "grpc")
        started.append(served)
        if ready:
            try:
                served.wait_until_ready()
            except TimeoutError:
                pytest.fail(f"not ready: {served.log.read_text()}")
        return served

    yield start
    for served in started:
        served.process.kill()
        served.process.wait()
        served.notified.close()


@pytest.fixture
def half(tmp_path) -> Path:
    """The base path of half_plus_two, version 1."""
    base = tmp_path / "half"
    write_version(base, 1, 2)
    return base


def write_version(base: Path, version: int, offset: float) -> None:
    """``y = x / 2 + offset``, which appears as a whole."""
    beside = base.with_name(f".{base.name}-{version}")
    written = write_saved_model(beside, version, affine_model(0.5, offset))
    base.mkdir(exist_ok=True)
    written.rename(base / str(version))


@pytest.fixture
def add_version():
    return write_version


@dataclass(frozen=True)
class Identity:
    key: bytes
    certificate: bytes


class Authority:
    """Signs certificates for ``localhost`` and ``127.0.0.1``."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test authority")])
        self.pem = self._sign(self._key, self._name, authority=True)

    def issue(self) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "party")])
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Identity(private, self._sign(key, name, authority=False))

    def _sign(self, key, name, *, authority: bool) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if not authority:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def write_ssl_config(tmp_path, authority):
    """Writes an SSLConfig as protobuf text."""

    def write(*, client_verify: bool = False) -> Path:
        server = authority.issue()
        fields = {"server_key": server.key, "server_cert": server.certificate}
        if client_verify:
            fields["custom_ca"] = authority.pem
        lines = [f'{name}: "{value.decode()}"'.replace("\n", "\\n") for name, value in fields.items()]
        file = tmp_path / "ssl.cfg"
        file.write_text("\n".join([*lines, f"client_verify: {str(client_verify).lower()}"]))
        file.chmod(0o600)
        return file

    return write


@pytest.fixture
def write_models(tmp_path):
    """Writes a model_config_file."""

    def write(**models) -> Path:
        configs = [
            f'config {{ name: "{name}" base_path: "{base}" model_platform: "tensorflow" {more} }}'
            for name, (base, more) in models.items()
        ]
        file = tmp_path / "models.cfg"
        beside = tmp_path / "models.cfg.new"
        beside.write_text("model_config_list { " + "\n".join(configs) + " }")
        beside.rename(file)
        return file

    return write
