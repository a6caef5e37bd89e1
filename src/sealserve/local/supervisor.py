"""Keeps processes running: starts them in stages, starts again what dies, stops them in reverse.

Nothing survives the supervisor: the kernel signals every process when the supervisor dies, however it does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from sealserve.local.child import ProcessSpec
from sealserve.local.events import Listener
from sealserve.local.notifications import Notifications
from sealserve.local.rotation import LIMIT, rotate_if_full
from sealserve.local.supervised import RestartPolicy, Supervised

_ROTATION_INTERVAL = 5.0


class Supervisor:
    """Runs stages of processes; those of one stage start together, when the stage before is ready.

    Has to be made and used in one running event loop, in a thread that lives as long as the processes shall.

    :param listener: told everything that happens, in the event loop's thread; it must not block and must not raise.
    """

    def __init__(
        self, stages: Sequence[Sequence[ProcessSpec]], *, listener: Listener, policy: RestartPolicy | None = None
    ) -> None:
        self._notifications = Notifications()
        self._stages = [
            [
                Supervised(spec, policy=policy or RestartPolicy(), notifications=self._notifications, listener=listener)
                for spec in stage
            ]
            for stage in stages
        ]
        self._rotation: asyncio.Task[None] | None = None

    @property
    def processes(self) -> tuple[Supervised, ...]:
        """All of them, in the order of the stages."""
        return tuple(process for stage in self._stages for process in stage)

    async def start(self) -> None:
        """Start everything and return when all of it is ready. If this raises, :meth:`stop` is still to be called.

        :raises SealserveError: a process refused to start; the error is its own, with its cause's exit code.
        """
        self._notifications.open()
        self._rotation = asyncio.create_task(self._rotate_logs())
        for stage in self._stages:
            await asyncio.gather(*(process.start() for process in stage))

    async def stop(self) -> None:
        """Stop everything, the last stage first; each process has its ``stop_timeout``, then it is killed."""
        for stage in reversed(self._stages):
            await asyncio.gather(*(process.stop() for process in stage))
        if self._rotation is not None:
            self._rotation.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._rotation
        self._notifications.close()

    def kill(self) -> None:
        """SIGKILL for everything, now; a :meth:`stop` under way then ends at once."""
        for process in self.processes:
            process.kill()

    async def _rotate_logs(self, *, interval: float = _ROTATION_INTERVAL, limit: int = LIMIT) -> None:
        """Keep the logs small that processes write themselves."""
        while True:
            await asyncio.sleep(interval)
            for process in self.processes:
                for path in process.spec.own_logs:
                    rotate_if_full(path, limit=limit)
