"""``sealserve up --detach``: the same cluster in a session of its own; the caller returns when it is ready."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from sealserve import notify
from sealserve.deploy import load_deployment
from sealserve.errors import MachineError
from sealserve.local.account import FAILED, Entry
from sealserve.local.commands import SEALSERVE
from sealserve.local.layout import Layout
from sealserve.local.logview import Follower
from sealserve.local.notifications import CREDENTIALS

_INTERVAL = 0.05


def run_detached(file: Path, *, show: Callable[[Entry], None], json_errors: bool = False) -> tuple[int, str]:
    """Start ``sealserve up`` in the background and wait until the cluster is ready or has failed.

    :param show: gets every entry of its account. :param json_errors: have an error as JSON.
    :returns: the exit code, 0 if the cluster is ready, and what it wrote to standard error.
    :raises SealserveError: the deployment is not valid, or the supervisor was killed.
    """
    layout = Layout(load_deployment(file).state)
    follower = Follower(layout.log("supervisor"), lines=0)
    name = f"sealserve-up-{secrets.token_hex(12)}"
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard,
        # In memory: what a full disk does to the cluster can still be said, and no file is left.
        os.fdopen(os.memfd_create(name), "wb") as complaint,
    ):
        heard.bind(f"\0{name}")
        heard.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        heard.settimeout(_INTERVAL)
        process = subprocess.Popen(
            [*SEALSERVE, "up", "-f", str(file.absolute()), "--quiet", *(["--json"] if json_errors else [])],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=complaint,
            start_new_session=True,
            cwd="/",
            env={**os.environ, notify.VARIABLE: f"@{name}"},
        )
        try:
            code = _await_ready(process, heard, follower, show)
        except BaseException:
            _end(process)
            raise
        # The file's position is shared with whoever writes to it.
        said = os.pread(complaint.fileno(), 1 << 16, 0).decode(errors="replace")
    if code < 0:
        raise MachineError(
            f"the cluster's supervisor was killed by signal {-code} while it started",
            hint="If nobody killed it, the machine may be out of memory: see `dmesg`.",
        )
    return code, said


def _await_ready(
    process: subprocess.Popen[bytes],
    heard: socket.socket,
    follower: Follower,
    show: Callable[[Entry], None],
) -> int:
    while True:
        ready = False
        with contextlib.suppress(TimeoutError):
            data, ancillary, _, _ = heard.recvmsg(4096, socket.CMSG_SPACE(CREDENTIALS.size))
            senders = {CREDENTIALS.unpack(raw[: CREDENTIALS.size])[0] for _, _, raw in ancillary}
            ready = senders == {process.pid} and notify.parse(data).get("READY") == "1"
        code = process.poll()
        for line in follower.new_lines():
            with contextlib.suppress(ValueError):
                if (entry := json.loads(line))["event"] != FAILED:  # the caller says that, and better
                    show(entry)
        if ready:
            return 0
        if code is not None:
            return code or MachineError.exit_code


def _end(process: subprocess.Popen[bytes]) -> None:
    """Whoever waits was interrupted: then the start-up is over as well."""
    process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(_INTERVAL)
    if process.poll() is None:
        process.kill()
