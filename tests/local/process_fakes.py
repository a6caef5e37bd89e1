"""Programs that stand in for a broker, a replica or a gateway: small Python scripts that speak sd_notify."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from sealserve.local.child import ProcessSpec

# The body runs with `say(**fields)` (sd_notify), `wait()` (forever) and the modules below.
PRELUDE = """
import os, signal, socket, subprocess, sys, time
def say(**fields):
    address = os.environ["NOTIFY_SOCKET"].replace("@", chr(0), 1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto("\\n".join(f"{k}={v}" for k, v in fields.items()).encode(), address)
def wait():
    while True:
        time.sleep(60)
def log(text):
    print(text, flush=True)
"""


def fake(directory: Path, name: str, body: str = "say(READY=1); wait()", **changes: Any) -> ProcessSpec:
    settings: dict[str, Any] = {
        "name": name,
        "role": "replica",
        "command": (sys.executable, "-I", "-S", "-c", PRELUDE + body),
        "log": directory / f"{name}.log",
        "working_directory": directory,
        "start_timeout": 30.0,
        "stop_timeout": 10.0,
    }
    return ProcessSpec(**(settings | changes))
