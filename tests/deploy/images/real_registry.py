"""The distribution project's registry (Debian: docker-registry), started for a test."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

USER, PASSWORD = "alice", "open sesame"
_HTPASSWD = "$2b$05$0LarmvnUmSwZElRmzkzhNuwU3WORkC4FmQzS1uPV1ksMlawio3FWq"


@dataclass(frozen=True)
class RunningRegistry:
    host: str
    storage: Path


@contextlib.contextmanager
def running_registry(
    directory: Path, *, login: bool = False, tls: tuple[Path, Path] | None = None, storage: Path | None = None
) -> Iterator[RunningRegistry]:
    """A registry that ends with the block.

    :param login: whether it wants :data:`USER` and :data:`PASSWORD`. :param tls: certificate and key.
    """
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("no docker-registry here")
    directory.mkdir(exist_ok=True)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{sock.getsockname()[1]}"
    place = storage or directory / "storage"
    http: dict[str, Any] = {"addr": host}
    if tls is not None:
        http["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
    configuration: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(place)}},
        "http": http,
    }
    if login:
        (directory / "htpasswd").write_text(f"{USER}:{_HTPASSWD}\n")
        configuration["auth"] = {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}}
    file = directory / "config.yml"
    file.write_text(json.dumps(configuration))
    with (
        (directory / "log").open("wb") as log,
        subprocess.Popen([program, "serve", file], stderr=log, stdout=subprocess.DEVNULL) as process,
    ):
        try:
            for _ in range(200):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(host[10:])), 1):
                    break
                assert process.poll() is None, (directory / "log").read_text()
                time.sleep(0.05)
            yield RunningRegistry(host, place)
        finally:
            process.kill()
