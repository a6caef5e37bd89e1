"""What a running cluster writes down about itself, and the lock that says whether it runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from sealserve.errors import InputError
from sealserve.files import PRIVATE, explain_os_error
from sealserve.local.layout import Layout
from sealserve.local.proc import boot_id, facts_of, is_alive
from sealserve.local.supervised import Phase


class AlreadyRunningError(InputError):
    """The cluster of this working directory runs already."""


class ProcessState(BaseModel):
    """One process, as :class:`sealserve.local.supervised.Supervised` has it."""

    model_config = ConfigDict(frozen=True)

    name: str
    role: str
    phase: Phase
    pid: int | None
    started_ticks: int | None
    attempt: int
    since: float
    ready_seconds: float | None
    status: str
    last_error: str | None
    log: Path


class ClusterState(BaseModel):
    """``state.json``. Process numbers mean something only together with ``boot`` and the start in clock ticks."""

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    deployment: str
    file: Path | None
    phase: Literal["starting", "running", "stopping"]
    boot: str
    supervisor: int
    supervisor_ticks: int
    started_at: float
    broker: str
    gateway: str
    rest: str | None = None
    server_name: str
    tls: str = "attested"
    model: str
    model_version: int
    processes: tuple[ProcessState, ...]

    @property
    def supervisor_alive(self) -> bool:
        """Whether the process that wrote this still runs."""
        return self.boot == boot_id() and is_alive(self.supervisor, self.supervisor_ticks)


def write_state(layout: Layout, state: ClusterState) -> None:
    """Replace ``state.json`` in one step. It is not synced to disk: after a power cut it would mean nothing."""
    beside = layout.state.with_name(f".state.{secrets.token_hex(4)}.partial")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
        with os.fdopen(descriptor, "w") as file:
            file.write(state.model_dump_json(indent=1))
        beside.replace(layout.state)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise explain_os_error(error, layout.state, "write") from error


def read_state(layout: Layout) -> ClusterState | None:
    """What the last supervisor wrote; None if there is nothing, or nothing that can be read."""
    try:
        return ClusterState.model_validate_json(layout.state.read_bytes())
    except (OSError, ValidationError):
        return None


def remove_state(layout: Layout) -> None:
    """Forget a cluster that is gone."""
    with contextlib.suppress(OSError):
        layout.state.unlink()


@contextlib.contextmanager
def cluster_lock(layout: Layout) -> Iterator[None]:
    """Hold the working directory; the kernel lets go of it when the process ends, however it ends.

    :raises AlreadyRunningError: another process holds it.
    """
    descriptor = _open_lock(layout)
    try:
        if not _try_lock(descriptor):
            holder = lock_holder(layout)
            who = f" (process {holder[0]})" if holder and is_alive(*holder) else ""
            option = shlex.join(["--state", str(layout.root)])
            raise AlreadyRunningError(
                f"a cluster runs already in {layout.root}{who}",
                hint=f"`sealserve status {option}` shows it, `sealserve down {option}` stops it.",
            )
        if not _is_the_file(descriptor, layout.lock):
            raise AlreadyRunningError(
                f"{layout.root} was removed by a command that failed at this moment", hint="Run the command again."
            )
        own = facts_of(os.getpid())
        with contextlib.suppress(OSError):  # a full disk: who holds it is not known then, until there is a state
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()} {own.started if own else 0}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def lock_holder(layout: Layout) -> tuple[int, int] | None:
    """The process that wrote itself into the lock last: its number, and its start in clock ticks since boot.

    Means something only while the lock is held. While a cluster is prepared, there is no state yet.
    """
    with contextlib.suppress(OSError, ValueError):
        number, started = layout.lock.read_bytes()[:100].split()
        return int(number), int(started)
    state = read_state(layout)
    return (state.supervisor, state.supervisor_ticks) if state is not None else None


def is_running(layout: Layout) -> bool:
    """Whether some process holds the working directory."""
    if not layout.lock.exists():
        return False
    descriptor = _open_lock(layout)
    try:
        return not _try_lock(descriptor)
    finally:
        os.close(descriptor)


def _open_lock(layout: Layout) -> int:
    try:
        return os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)
    except OSError as error:
        raise explain_os_error(error, layout.lock, "open") from error


def _is_the_file(descriptor: int, path: Path) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
