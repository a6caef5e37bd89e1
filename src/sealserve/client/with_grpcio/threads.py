"""The threads in which the proxy's server answers.

Unlike those of :class:`concurrent.futures.ThreadPoolExecutor` they do not keep a process from ending, and a thread that
the system refuses is no error: it would end grpcio's server.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent import futures
from typing import Any


class DaemonThreads(futures.Executor):
    """At most ``most`` threads, started when they are needed. Calls beyond them wait."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._started = 0
        self._idle = threading.Semaphore(0)
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> futures.Future[Any]:
        """Have a thread call ``fn``, now or when one is free. Never raises."""
        future: futures.Future[Any] = futures.Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever has the future
                future.set_exception(error)
            else:
                future.set_result(result)

        self._work.put(call)
        with self._lock:
            if not self._idle.acquire(blocking=False) and self._started < self._most:
                with contextlib.suppress(RuntimeError):  # the system has no more for us; the call waits
                    threading.Thread(target=self._run, name=f"proxy-{self._started}", daemon=True).start()
                    self._started += 1
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002 - Executor's
        """Threads end with their calls. Does not wait for them."""
        for _ in range(self._started):
            self._work.put(None)

    def _run(self) -> None:
        while call := self._work.get():
            call()
            call = None  # lets go of the request while this thread waits
            self._idle.release()
