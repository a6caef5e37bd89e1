"""A key broker for a benchmark: its files, its process, and what the process has used."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sealserve.broker.administration import BrokerAdministration
from sealserve.broker.settings import BrokerSettings
from sealserve.broker.store import GrantDocument, StoredPolicy
from sealserve.evidence import SimulatedEnclave, create_simulated_platform
from sealserve.files import write_atomically
from sealserve.notify import parse
from sealserve.secret import Secret

ENCLAVE = SimulatedEnclave(mrenclave=b"\x11" * 32, mrsigner=b"\x22" * 32)


def make_files(directory: Path, *, workers: int = 1) -> Path:
    """Everything that a broker needs, in a directory; the path of its settings."""
    create_simulated_platform(directory / "platform")
    _make_certificates(directory)
    (directory / "policy.yaml").write_text(
        json.dumps(
            {
                "tee": "simulated",
                "trust_root": "platform/root.pem",
                "collateral": "platform/collateral.json",
                "enclaves": [{"mrenclave": ENCLAVE.mrenclave.hex()}],
                "insecure_accept_simulated_platform": True,
            }
        )
    )
    path = directory / "broker.yaml"
    path.write_text(
        f"workers: {workers}\nlisten: 127.0.0.1:0\ncertificate: broker.pem\nprivate_key: broker.key\nstore: broker.db\n"
        "master_key: master.key\n"
    )
    with BrokerSettings.load(path).create_store(actor="benchmark") as store:
        administration = BrokerAdministration(store, actor="benchmark")
        administration.put_policy(StoredPolicy.from_file("policy", directory / "policy.yaml"))
        administration.import_key("wrap", Secret(os.urandom(16)))
        model = {"name": "digits", "version": 1, "digest": "ab" * 32, "mount": "/models/digits", "key": "wrap"}
        administration.put_grant(
            GrantDocument.model_validate(
                {
                    "deployment": "digits",
                    "policy": "policy",
                    "keys": {"wrap": 1},
                    "model": model,
                    "arguments": {"threads": "2"},
                    "version_1": {"key": "wrap"},
                }
            )
        )
    return path


def _make_certificates(directory: Path) -> None:
    now = datetime.now(UTC)
    authority = ec.generate_private_key(ec.SECP256R1())
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name.from_rfc4514_string("CN=benchmark authority")

    def sign(name: str, public: ec.EllipticCurvePublicKey, *, ca: bool) -> bytes:
        builder = (
            x509.CertificateBuilder(issuer, x509.Name.from_rfc4514_string(name), public, x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        )
        return builder.sign(authority, hashes.SHA256()).public_bytes(Encoding.PEM)

    write_atomically(directory / "ca.pem", sign("CN=benchmark authority", authority.public_key(), ca=True))
    write_atomically(directory / "broker.pem", sign("CN=broker", key.public_key(), ca=False))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_atomically(directory / "broker.key", pem, mode=0o600)


@dataclass(frozen=True)
class Process:
    """A process that runs."""

    pid: int
    port: int

    @property
    def cpu(self) -> float:
        """Seconds of processor time of it and its children so far."""
        return sum(_cpu(pid) for pid in self._all())

    def memory(self) -> int:
        """Bytes that are resident now, of it and its children; what several have together counts once."""
        rollups = (Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in self._all())
        return sum(int(text.partition("\nPss:")[2].split()[0]) for text in rollups) * 1024

    def _all(self) -> list[int]:
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [self.pid, *(int(child) for child in children.split())]


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class MostMemory:
    """The most memory that a process had within the block, looked at a hundred times a second."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.bytes = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.bytes = max(self.bytes, self._process.memory())


@contextlib.contextmanager
def broker(settings: Path, *, log: Path) -> Iterator[Process]:
    """A broker process that is ready."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor, log.open("wb") as errors:
        ready = settings.with_name("ready")
        ready.unlink(missing_ok=True)
        supervisor.bind(str(ready))
        supervisor.settimeout(60)
        popen = subprocess.Popen(
            [sys.executable, "-m", "sealserve", "broker", "run", "-f", settings, "--json-logs"],
            stderr=errors,
            env={**os.environ, "NOTIFY_SOCKET": str(ready)},
        )
        try:
            port = re.search(r":(\d+)$", parse(supervisor.recv(4096))["STATUS"])
            if port is None:
                raise RuntimeError("the broker does not say where it listens")
            yield Process(popen.pid, int(port[1]))
        finally:
            popen.send_signal(signal.SIGTERM)
            popen.wait(60)
