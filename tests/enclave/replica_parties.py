"""A real broker process, real replica processes and a real client, on a simulated platform of their own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sealserve.broker.administration import BrokerAdministration
from sealserve.broker.settings import BrokerSettings
from sealserve.broker.store import GrantDocument, StoredPolicy
from sealserve.client import Client
from sealserve.enclave.measured import measured_settings
from sealserve.evidence import AppraisalPolicy, create_simulated_platform, measure_simulated_enclave
from sealserve.local.certificates import ensure_authority, ensure_server_certificate
from sealserve.models.graph import GraphBuilder, TensorInGraph, type_attribute
from sealserve.models.writing import write_saved_model
from sealserve.sealing import seal_model
from sealserve.wire.tensorflow_pb2 import DataType

SEALSERVE = (sys.executable, "-P", "-m", "sealserve")
MOUNT = "/models/m"
PATIENCE = 30


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def write_model(base: Path, factor: float, version: int) -> None:
    """``y = factor * x``."""
    graph, number = GraphBuilder(), type_attribute(DataType.DT_FLOAT)
    x = graph.placeholder("x", DataType.DT_FLOAT, [-1])
    graph.node("Mul", "y", [x, graph.constant("factor", np.array(factor, np.float32))], T=number)
    ends = {name: TensorInGraph(f"{name}:0", DataType.DT_FLOAT, (-1,)) for name in "xy"}
    write_saved_model(base, version, graph.saved_model({"x": ends["x"]}, {"y": ends["y"]}, signature="serving_default"))


class Process:
    """A process that logs lines of JSON."""

    def __init__(self, command: list[str], cwd: Path, environment: dict[str, str]) -> None:
        inherited = {name: value for name, value in os.environ.items() if name not in {"OPENSSL_CONF", "NOTIFY_SOCKET"}}
        self.popen = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=cwd, text=True, env=inherited | environment
        )
        self.lines: list[str] = []
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout
        for line in self.popen.stdout:
            with self._more:
                self.lines.append(line.rstrip("\n"))
                self._more.notify_all()
        with self._more:
            self._more.notify_all()

    @property
    def log(self) -> list[dict[str, Any]]:
        """Every line of JSON."""
        found = []
        for line in self.lines:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def events(self, name: str) -> list[dict[str, Any]]:
        return [entry for entry in self.log if entry.get("event") == name]

    def until(self, name: str, count: int = 1, *, saying: str = "") -> dict[str, Any]:
        """The event of that name, with those words in it, that is number ``count``: when it was logged."""
        ended = time.monotonic() + PATIENCE
        with self._more:
            while len(found := [entry for entry in self.events(name) if saying in json.dumps(entry)]) < count:
                if not self._reader.is_alive() or not self._more.wait(ended - time.monotonic()):
                    raise AssertionError(f"no {name} (number {count}) in\n" + "\n".join(self.lines))
        return found[count - 1]

    def wait(self) -> int:
        """The exit code, when it has ended by itself."""
        code = self.popen.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.popen.send_signal(number)
        return self.wait()


class Place:
    """A directory with everything: platform, broker with its store, sealed model."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.platform_options: tuple[str, ...] = ("--platform", str(directory / "platform"))
        self.sealed = directory / "sealed"
        (directory / "work").mkdir(parents=True)
        create_simulated_platform(directory / "platform")
        ensure_authority(directory / "ca.key", directory / "ca.pem", name="test")
        ensure_server_certificate(
            directory / "broker.key",
            directory / "broker.pem",
            authority_key=directory / "ca.key",
            authority=directory / "ca.pem",
            hosts=["localhost"],
        )
        settings = measured_settings(deployment="d", broker_ca=(directory / "ca.pem").read_bytes())
        self.mrenclave = measure_simulated_enclave(settings).mrenclave
        self.port = free_port()
        document = {
            "listen": f"127.0.0.1:{self.port}",
            "certificate": "broker.pem",
            "private_key": "broker.key",
            "store": "broker.db",
            "master_key": "master.key",
        }
        (directory / "broker.yaml").write_text(json.dumps(document))
        self._settings = BrokerSettings.load(directory / "broker.yaml")
        self._settings.create_store(actor="test").close()
        self.put_policy(self.mrenclave)
        with self.administration() as administration:
            administration.create_key("wrap")
        self.first = self.seal(self.sealed, factor=2, version=1)
        model = {"name": "m", "version": 1, "digest": self.first.hex(), "mount": MOUNT, "key": "wrap"}
        with self.administration() as administration:
            administration.put_grant(
                GrantDocument.model_validate(
                    {"deployment": "d", "policy": "p", "keys": {"wrap": 1}, "model": model, "refresh_seconds": 1}
                )
            )

    @contextlib.contextmanager
    def administration(self) -> Iterator[BrokerAdministration]:
        with self._settings.open_store() as store:
            yield BrokerAdministration(store, actor="test")

    def policy(self, mrenclave: bytes) -> Path:
        document = {
            "tee": "simulated",
            "trust_root": "platform/root.pem",
            "collateral": "platform/collateral.json",
            "enclaves": [{"mrenclave": mrenclave.hex()}],
            "insecure_accept_simulated_platform": True,
        }
        path = self.directory / "policy.yaml"
        path.write_text(json.dumps(document))
        return path

    def put_policy(self, mrenclave: bytes) -> None:
        with self.administration() as administration:
            administration.put_policy(StoredPolicy.from_file("p", self.policy(mrenclave)))

    def client_policy(self) -> AppraisalPolicy:
        return AppraisalPolicy.load(self.policy(self.mrenclave))

    def seal(self, target: Path, *, factor: float, version: int, key_version: int = 1) -> bytes:
        """Seal a model, as the owner does. :returns: its digest."""
        plain = self.directory / "plain"
        shutil.rmtree(plain, ignore_errors=True)
        write_model(plain, factor, version)
        with self.administration() as administration:
            _, key = administration.key_value("wrap", key_version, purpose="seal")
        with key:
            return seal_model(plain, target, key, mount=MOUNT).digest

    def bring(self, sealed: Path) -> None:
        """Put other sealed files into the replica's storage, as a platform does: not at one moment."""
        shutil.rmtree(self.sealed)
        sealed.rename(self.sealed)

    @contextlib.contextmanager
    def broker(self) -> Iterator[Process]:
        command = [*SEALSERVE, "broker", "run", "-f", str(self.directory / "broker.yaml"), "--json-logs"]
        with self._running(command, {}) as process:
            process.until("broker-listening")
            yield process

    @contextlib.contextmanager
    def replica(
        self, *options: str, program: tuple[str, ...] = SEALSERVE, sealed: Path | None = None, **environment: str
    ) -> Iterator[Process]:
        """A replica that was started; it may not be ready, and need not become so."""
        command = [
            *program,
            "replica",
            *("--name", "replica-1"),
            *("--listen", "127.0.0.1:0"),
            *("--broker", f"localhost:{self.port}"),
            *("--broker-ca", str(self.directory / "ca.pem")),
            *("--deployment", "d"),
            *("--sealed", str(sealed or self.sealed)),
            *self.platform_options,
            *("--server-name", "replica.sealserve.internal"),
            *("--broker-timeout", "3"),
            *("--stop-grace", "1"),
            *options,
            "--json-logs",
        ]
        with self._running(command, environment) as process:
            yield process

    @contextlib.contextmanager
    def _running(self, command: list[str], environment: dict[str, str]) -> Iterator[Process]:
        process = Process(command, self.directory / "work", environment)
        try:
            yield process
        finally:
            if process.popen.poll() is None:
                process.popen.kill()
            process.wait()

    def client(self, replica: Process, **options: Any) -> Client:
        port = replica.until("replica-ready")["port"]
        return Client(f"127.0.0.1:{port}", self.client_policy(), **options)


def answer(client: Client) -> float:
    """What the model multiplies by."""
    return float(client.predict({"x": np.ones(1, np.float32)}, model="m", timeout=10).outputs["y"][0])


class Callers:
    """Threads that ask without a pause, and keep what they were answered."""

    def __init__(self, client: Client, threads: int = 3) -> None:
        self.answers: list[list[float]] = [[] for _ in range(threads)]
        self.failures: list[Exception] = []
        self._client = client
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(mine,)) for mine in self.answers]

    def _call(self, mine: list[float]) -> None:
        while not self._stop.is_set():
            try:
                mine.append(answer(self._client))
            except Exception as error:  # noqa: BLE001 - every failure is one
                self.failures.append(error)
                time.sleep(0.1)

    def more(self, count: int = 20) -> None:
        """Return when each thread was answered so many times more."""
        wanted = [len(mine) + count for mine in self.answers]
        ended = time.monotonic() + PATIENCE
        while any(len(mine) < want for mine, want in zip(self.answers, wanted, strict=True)):
            assert time.monotonic() < ended, self.failures
            time.sleep(0.01)

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
