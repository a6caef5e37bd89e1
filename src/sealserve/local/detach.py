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
from sealserve.files import explain_os_error
from sealserve.local.account import Entry
from sealserve.local.commands import SEALSERVE
from sealserve.local.layout import Layout
from sealserve.local.logview import Follower
from sealserve.local.notifications import CREDENTIALS
from sealserve.local.state import cluster_lock

_INTERVAL = 0.05


def run_detached(file: Path, *, show: Callable[[Entry], None], json_errors: bool = False) -> tuple[int, str]:
    """Start ``sealserve up`` in the background and wait until the cluster is ready or has failed.

    :param show: gets every entry of its account. :param json_errors: have an error as JSON.
    :returns: exit code 0 and "", or the failed process's exit code and what it wrote to standard error.
    :raises SealserveError: the deployment is not valid, or its cluster runs already.
    """
    layout = Layout(load_deployment(file).state).make()
    with cluster_lock(layout):
        pass  # the clear error now, rather than from the background
    follower = Follower(layout.log("supervisor"), lines=0)
    error_file = layout.logs / "supervisor.err"
    name = f"sealserve-up-{secrets.token_hex(12)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(f"\0{name}")
        heard.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        heard.settimeout(_INTERVAL)
        try:
            with error_file.open("wb") as errors:
                process = subprocess.Popen(
                    [*SEALSERVE, "up", "-f", str(file.absolute()), "--quiet", *(["--json"] if json_errors else [])],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    start_new_session=True,
                    cwd=layout.root,
                    env={**os.environ, notify.VARIABLE: f"@{name}"},
                )
        except OSError as error:
            raise explain_os_error(error, error_file, "start the cluster with") from error
        try:
            return _await_ready(process, heard, follower, show, error_file)
        except BaseException:
            _end(process)
            raise


def _await_ready(
    process: subprocess.Popen[bytes],
    heard: socket.socket,
    follower: Follower,
    show: Callable[[Entry], None],
    error_file: Path,
) -> tuple[int, str]:
    while True:
        ready = False
        with contextlib.suppress(TimeoutError):
            data, ancillary, _, _ = heard.recvmsg(4096, socket.CMSG_SPACE(CREDENTIALS.size))
            senders = {CREDENTIALS.unpack(raw[: CREDENTIALS.size])[0] for _, _, raw in ancillary}
            ready = senders == {process.pid} and notify.parse(data).get("READY") == "1"
        code = process.poll()
        for line in follower.new_lines():
            with contextlib.suppress(ValueError):
                show(json.loads(line))
        if ready:
            return 0, ""
        if code is not None:
            complaint = error_file.read_text(errors="replace")
            if not complaint.strip():
                complaint = f"error: the cluster ended (exit code {code}) and could not say why in {error_file}\n"
                complaint += "       Is the disk full? `sealserve up` without --detach says it on the terminal.\n"
            return code or MachineError.exit_code, complaint


def _end(process: subprocess.Popen[bytes]) -> None:
    """Whoever waits was interrupted: then the start-up is over as well."""
    process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(_INTERVAL)
    if process.poll() is None:
        process.kill()
