"""Looking at a running cluster and stopping it, from another process."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from sealserve.errors import MachineError
from sealserve.local.layout import Layout
from sealserve.local.leftovers import end_leftovers
from sealserve.local.proc import is_alive, resident_of_group
from sealserve.local.state import ClusterState, ProcessState, is_running, lock_holder, read_state

_INTERVAL = 0.05
_SAY_AFTER = 3.0


@dataclass(frozen=True)
class ProcessReport:
    """A process as ``sealserve status`` shows it; ``resident`` in bytes, ``uptime`` in seconds."""

    name: str
    phase: str
    pid: int | None
    restarts: int
    uptime: float | None
    resident: int | None
    attested: bool | None
    """For a replica: whether the broker gave it the key. None for others, which need no evidence."""
    status: str
    last_error: str | None

    def as_dict(self) -> dict[str, object]:
        return dict(vars(self))


def report_processes(state: ClusterState) -> list[ProcessReport]:
    """How the processes of a running cluster are now."""
    return [_report(process) for process in state.processes]


def _report(process: ProcessState) -> ProcessReport:
    ready = process.phase == "ready"
    return ProcessReport(
        name=process.name,
        phase=process.phase,
        pid=process.pid,
        restarts=max(process.attempt - 1, 0),
        uptime=round(time.time() - process.since, 1) if ready else None,
        resident=resident_of_group(process.pid) if process.pid is not None else None,
        attested=ready if process.role == "replica" else None,
        status=process.status,
        last_error=process.last_error,
    )


def running_state(layout: Layout) -> ClusterState | None:
    """The state of the cluster in this working directory, None if none runs."""
    return read_state(layout) if is_running(layout) else None


def stop_cluster(layout: Layout, *, patience: float = 60.0, on_wait: Callable[[str], None] = lambda _: None) -> bool:
    """Stop the cluster of a working directory and wait until it is gone; end what a crash may have left.

    :param patience: seconds; then the supervisor is killed, and the kernel ends its processes.
    :param on_wait: told, once, what takes longer than a few seconds.
    :returns: whether one was running.
    :raises MachineError: somebody else holds the working directory.
    """
    was_running = said = False
    started = time.monotonic()
    deadline = started + patience
    holder = None
    while is_running(layout):
        holder = lock_holder(layout) or holder
        if holder is not None and is_alive(*holder):
            if not was_running:
                _signal(holder[0], signal.SIGTERM)
                _signal(holder[0], signal.SIGCONT)  # one that Ctrl-Z stopped would hear nothing
            elif time.monotonic() > deadline:
                _signal(holder[0], signal.SIGKILL)
            was_running = True
        if not said and time.monotonic() > started + _SAY_AFTER:
            on_wait(_awaited(layout, holder, patience))
            said = True
        if time.monotonic() > deadline + 5:
            raise MachineError(
                f"{layout.root} is still in use", hint=f"`fuser -v {layout.lock}` shows by which process."
            )
        time.sleep(_INTERVAL)
    # The lock is free a moment before the supervisor's process is gone.
    while holder is not None and is_alive(*holder) and time.monotonic() < deadline:
        time.sleep(_INTERVAL / 5)
    end_leftovers(layout)
    return was_running


def _awaited(layout: Layout, holder: tuple[int, int] | None, patience: float) -> str:
    if holder is None:
        return f"waiting for {layout.root}, which another process holds"
    state = read_state(layout)
    names = [process.name for process in state.processes if process.pid is not None] if state else []
    what = f"; still running: {', '.join(names)}" if names else ""
    return f"waiting for the supervisor (process {holder[0]}) to end, {patience:.0f} s at most{what}"


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
