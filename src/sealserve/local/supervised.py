"""One process over all its lives: started, watched until it is ready, started again when it dies.

A life goes ``starting → ready``; a death leads to ``waiting`` for the next start or, during start-up, to ``failed``.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import Literal

from sealserve.errors import SealserveError
from sealserve.local.child import Child, ProcessSpec
from sealserve.local.diagnosis import Diagnosis, diagnose
from sealserve.local.events import (
    Listener,
    ProcessDied,
    ProcessReady,
    ProcessReported,
    ProcessStarted,
    ProcessStopped,
)
from sealserve.local.notifications import Notifications

Phase = Literal["waiting", "starting", "ready", "stopping", "stopped", "failed"]


@dataclass(frozen=True)
class RestartPolicy:
    """How soon a process that died is started again, in seconds."""

    first_delay: float = 0.2
    longest_delay: float = 10.0
    stable_after: float = 10.0
    """After so long in readiness, a death counts as the first one again."""
    attempts_to_start: int = 3
    """How often a process may die before it was ever ready; then the start-up has failed."""

    def delay(self, deaths: int) -> float:
        """Before the next start, after ``deaths`` deaths in a row (1 or more)."""
        return min(self.first_delay * 2.0 ** min(deaths - 1, 30), self.longest_delay)


@dataclass
class _Life:
    child: Child
    said_ready: asyncio.Event
    became_ready: float | None = None
    timed_out: bool = False


class Supervised:
    """A process under supervision."""

    def __init__(
        self, spec: ProcessSpec, *, policy: RestartPolicy, notifications: Notifications, listener: Listener
    ) -> None:
        self.spec = spec
        self.phase: Phase = "waiting"
        self.since = time.time()
        """When it entered its phase, in seconds since the epoch."""
        self.attempt = 0
        """How often it was started."""
        self.ready_seconds: float | None = None
        """From start to readiness, of the present life."""
        self.status = ""
        self.last_error: str | None = None
        self._policy = policy
        self._notifications = notifications
        self._tell = listener
        self._life: _Life | None = None
        self._task: asyncio.Task[None] | None = None
        self._first_ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stopping = False

    @property
    def child(self) -> Child | None:
        """The running process, if there is one now."""
        return self._life.child if self._life else None

    async def start(self) -> None:
        """Start it and return when it is ready.

        :raises SealserveError: it refused to start, or died too often; the error has its cause's exit code.
        """
        self._task = asyncio.create_task(self._live(), name=f"supervise-{self.spec.name}")
        await asyncio.wait([self._first_ready, self._task], return_when=asyncio.FIRST_COMPLETED)
        if not self._first_ready.done():
            await self._task  # it ended first: raise why

    async def stop(self) -> None:
        """Ask it to end, wait ``stop_timeout``, then kill it with everything it started."""
        self._stopping = True
        task, child = self._task, self.child
        if task is None:
            return
        killed = False
        if child is not None:
            self._enter("stopping")
            child.send_signal(self.spec.stop_signal)
            await asyncio.wait([task], timeout=self.spec.stop_timeout)
            if not task.done():
                killed = True
                child.kill()
                await asyncio.wait([task], timeout=5)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, SealserveError):
            await task
        if self.phase != "failed":
            self._enter("stopped")
            self._tell(ProcessStopped(self.spec.name, killed))

    def kill(self) -> None:
        """SIGKILL, now; it is not started again."""
        self._stopping = True
        if self.child is not None:
            self.child.kill()

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self.since = time.time()

    async def _live(self) -> None:
        deaths = 0
        while True:
            self.attempt += 1
            self.ready_seconds = None
            self.status = ""
            self._enter("starting")
            life: _Life | None = None
            try:
                if self.spec.before_start is not None:
                    await asyncio.to_thread(self.spec.before_start)
                life = await self._begin()
            except SealserveError as error:
                diagnosis = Diagnosis(error.message, error.hint, error.exit_code)
            else:
                diagnosis = await self._until_death(life)
            if self._stopping:
                return
            if life and life.became_ready and time.monotonic() - life.became_ready >= self._policy.stable_after:
                deaths = 0
            deaths += 1
            await asyncio.sleep(self._judge(diagnosis, deaths))

    async def _begin(self) -> _Life:
        """Start a process; a cancellation in the middle of it leaves none behind."""
        spawning = asyncio.create_task(Child.spawn(self.spec, self._notifications.environment))
        try:
            child = await asyncio.shield(spawning)
        except asyncio.CancelledError:
            with contextlib.suppress(SealserveError):
                (await spawning).kill()
            raise
        life = self._life = _Life(child, asyncio.Event())
        self._notifications.register(child.pid, lambda fields: self._hear(life, fields))
        self._tell(ProcessStarted(self.spec.name, child.pid, self.attempt))
        return life

    async def _until_death(self, life: _Life) -> Diagnosis:
        watch = asyncio.create_task(self._watch_start(life))
        try:
            code = await life.child.wait()
        finally:
            life.child.kill()
            watch.cancel()
            self._notifications.forget(life.child.pid)
            self._life = None
        diagnosis = diagnose(code, life.child.last_lines)
        if life.timed_out:
            doing = f" ({self.status})" if self.status else ""
            return Diagnosis(f"not ready after {self.spec.start_timeout:g} s{doing}", None, code)
        return diagnosis

    async def _watch_start(self, life: _Life) -> None:
        """Wait for readiness; a process that takes too long is killed."""
        try:
            async with asyncio.timeout(self.spec.start_timeout):
                if self.spec.is_ready is None:
                    await life.said_ready.wait()
                else:
                    while not self.spec.is_ready(life.child.pid):  # noqa: ASYNC110 - it cannot tell by itself
                        await asyncio.sleep(0.02)
        except TimeoutError:
            life.timed_out = True
            life.child.kill()
            return
        if self._stopping:
            return
        life.became_ready = time.monotonic()
        self.ready_seconds = life.became_ready - life.child.started_at
        self._enter("ready")
        self._tell(ProcessReady(self.spec.name, life.child.pid, self.ready_seconds, self.attempt))
        if not self._first_ready.done():
            self._first_ready.set_result(None)

    def _hear(self, life: _Life, fields: dict[str, str]) -> None:
        if status := fields.get("STATUS"):
            self.status = status
            self._tell(ProcessReported(self.spec.name, status))
        if fields.get("READY") == "1":
            life.said_ready.set()

    def _judge(self, diagnosis: Diagnosis, deaths: int) -> float:
        """Tell about a death. Returns the seconds to wait before the next start.

        :raises SealserveError: it was never ready, and another start would end the same way.
        """
        self.last_error = diagnosis.reason
        gives_up = not self._first_ready.done() and (diagnosis.permanent or deaths >= self._policy.attempts_to_start)
        delay = self._policy.delay(deaths)
        self._enter("failed" if gives_up else "waiting")
        self._tell(ProcessDied(self.spec.name, diagnosis.reason, diagnosis.hint, None if gives_up else delay))
        if gives_up:
            raise diagnosis.as_error(self.spec.name, str(self.spec.log))
        return delay
