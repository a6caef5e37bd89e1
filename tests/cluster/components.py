"""One program of the cluster: started, stopped, killed and started again, with its log in a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.sandbox import Inside, Sandbox


class Component:
    """A program that runs in a cluster's namespaces.

    :param command: the program, and its arguments. :param ready: whether it does its work; asked until it does.
    """

    def __init__(
        self, sandbox: Sandbox, name: str, command: Sequence[str | Path], *, ready: Callable[[], bool] | None = None
    ) -> None:
        self.name = name
        self.log = sandbox.directory / "logs" / f"{name}.log"
        self._sandbox = sandbox
        self._command = command
        self._ready = ready
        self._process: Inside | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    def start(self, *more: str, wait: float = 120) -> None:
        """Start it. :param more: arguments beside its own. :param wait: seconds until which it has to be ready; 0: it
        is not waited for.

        :raises RuntimeError: it ended, or is not ready in time; the text has the end of its log.
        """
        if self.running:
            return
        self.log.parent.mkdir(exist_ok=True)
        with self.log.open("ab") as log:
            self._process = self._sandbox.start(*self._command, *more, log=log)
        if wait:
            self.wait_until_ready(wait)

    def wait_until_ready(self, seconds: float = 120) -> None:
        """:raises RuntimeError: it ended, or is not ready in time."""
        deadline = time.monotonic() + seconds
        while self._ready is not None and not self._ready():
            if not self.running or time.monotonic() > deadline:
                how = "is not ready" if self.running else "ended"
                raise RuntimeError(f"{self.name} {how}:\n{self.end_of_log()}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()

    def restart(self, *more: str, wait: float = 120) -> None:
        """Stop it and start it again, as :meth:`start` does."""
        self.stop()
        self.start(*more, wait=wait)

    def end_of_log(self, *, lines: int = 30) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""
