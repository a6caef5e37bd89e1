"""One life of one process: start it, keep what it writes, end it with everything it started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sealserve import notify
from sealserve.errors import MachineError
from sealserve.local import _child
from sealserve.local.proc import facts_of
from sealserve.local.rotation import RotatingLog

_TAIL_LINES = 60
_LONGEST_LINE = 8192


@dataclass(frozen=True)
class ProcessSpec:
    """A process that a supervisor keeps running."""

    name: str
    role: str
    command: tuple[str, ...]
    log: Path
    working_directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to this process's environment, NOTIFY_SOCKET aside."""
    start_timeout: float = 60.0
    """Seconds from the start to readiness."""
    stop_timeout: float = 15.0
    """Seconds from the stop signal to SIGKILL."""
    stop_signal: signal.Signals = signal.SIGTERM
    orphan_signal: signal.Signals = signal.SIGKILL
    """What the kernel sends it if the supervisor dies. A program with children of its own needs one it can catch."""
    is_ready: Callable[[int], bool] | None = None
    """Asked again and again with the process number; None: the process says READY=1 itself."""
    before_start: Callable[[], None] | None = None
    """Called before every start; raises what makes a start pointless."""
    own_logs: tuple[Path, ...] = ()
    """Logs that the process itself appends to."""


class Child:
    """A running process in a session of its own, so that signals reach all of it and the terminal's reach none."""

    def __init__(self, spec: ProcessSpec, process: asyncio.subprocess.Process, output: _Output) -> None:
        self.spec = spec
        self.pid = process.pid
        facts = facts_of(process.pid)
        self.started_ticks = facts.started if facts else 0
        self.started_at = time.monotonic()
        self._process = process
        self._output = output

    @classmethod
    async def spawn(cls, spec: ProcessSpec, environment: Mapping[str, str]) -> Child:
        """Start a process.

        Has to run in a thread that lives as long as the cluster does: the kernel ties the child to the thread.

        :raises MachineError: it cannot be started (no such working directory, too many processes).
        """
        inherited = {name: value for name, value in os.environ.items() if name != notify.VARIABLE}
        loop = asyncio.get_running_loop()
        reading, writing = os.pipe()
        try:
            _, output = await loop.connect_read_pipe(
                lambda: _Output(RotatingLog(spec.log)), os.fdopen(reading, "rb", 0)
            )
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(_child.__file__)),
                *(str(int(spec.orphan_signal)), str(os.getpid())),
                *spec.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                cwd=spec.working_directory,
                env={**inherited, **spec.environment, **environment},
                start_new_session=True,
                umask=0o077,
            )
        except OSError as error:
            raise MachineError(f"cannot start {spec.name}: {error}") from error
        finally:
            os.close(writing)
        return cls(spec, process, output)

    async def wait(self) -> int:
        """Wait for its end and end whatever it left running. Returns the exit code, negative for a signal."""
        code = await self._process.wait()
        # Its group lives on in what it started (nginx's workers, if the master was killed).
        self.kill()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._output.ended), 1.0)
        self._output.close()
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Signal the process itself; one that is gone already is no error."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL for the process and everything in its session's group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    @property
    def last_lines(self) -> tuple[str, ...]:
        """The last lines that it wrote."""
        return self._output.lines()


class _Output(asyncio.Protocol):
    """Copies a pipe into a log and remembers the last lines."""

    def __init__(self, log: RotatingLog) -> None:
        self._log = log
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._rest = b""
        self._transport: asyncio.BaseTransport | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._log.write(data)
        *complete, rest = (self._rest + data).split(b"\n")
        self._tail.extend(line.decode(errors="replace") for line in complete)
        self._rest = rest[-_LONGEST_LINE:]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._log.close()
        if not self.ended.done():
            self.ended.set_result(None)

    def lines(self) -> tuple[str, ...]:
        rest = [self._rest.decode(errors="replace")] if self._rest else []
        return (*self._tail, *rest)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
