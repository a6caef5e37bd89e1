"""The threads in which requests are received and answered.

Unlike :class:`concurrent.futures.ThreadPoolExecutor`, the thread that was busy last is taken first: it is still warm,
and most threads are never started. And a thread that the system refuses is no error: it would end grpcio's server.

Before the interpreter ends, threads get some seconds to end their calls. A daemon that comes back from C++ later is
ended by Python there and then, which C++ answers with ``terminate called without an active exception``, and SIGABRT.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent import futures
from typing import Any, TypeVar

Result = TypeVar("Result")

_LAST_SECONDS = 5.0
_LOOK = 0.005  # seconds between two looks


class RequestThreads(futures.Executor):
    """At most ``most`` threads, started when they are needed; the first at once.

    :raises RuntimeError: the system refuses even the first.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []  # the one that was busy last is at the end
        self._waiting: deque[Callable[[], None]] = deque()
        self._threads = 0
        self._closed = False
        _all.add(self)
        with self._lock:
            self._start_thread(lambda: None)

    def submit(self, function: Callable[..., Result], /, *args: Any, **kwargs: Any) -> futures.Future[Result]:
        """Have a thread call ``function``, now or when one is free. Never raises before :meth:`shutdown`."""
        future: futures.Future[Result] = futures.Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = function(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever has the future
                future.set_exception(error)
            else:
                future.set_result(result)

        with self._lock:
            if self._closed:
                raise RuntimeError("no new calls after shutdown")
            if self._idle:
                self._idle.pop().take(call)
            elif self._threads >= self._most:
                self._waiting.append(call)
            else:
                try:
                    self._start_thread(call)
                except RuntimeError:  # the system has no more threads for us
                    self._waiting.append(call)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002 - Executor's
        """Start nothing more; the threads end with their calls. Does not wait for them."""
        with self._lock:
            self._closed = True
            for worker in self._idle:
                worker.take(None)
            self._idle.clear()

    def ended(self) -> bool:
        """Whether all threads have ended, which they do after :meth:`shutdown`, each with its call."""
        with self._lock:
            return not self._threads

    def _start_thread(self, call: Callable[[], None]) -> None:
        # Daemons: a call that never returns must not keep the process from ending.
        threading.Thread(target=self._run, args=(call,), name=f"request-{self._threads}", daemon=True).start()
        self._threads += 1

    def _run(self, call: Callable[[], None] | None) -> None:
        worker = _Worker()
        while call is not None:
            call()
            call = None  # lets go of the request while this thread waits
            with self._lock:
                if self._waiting:
                    call = self._waiting.popleft()
                    continue
                if self._closed:
                    break
                self._idle.append(worker)
            call = worker.wait()
        with self._lock:
            self._threads -= 1


_all: weakref.WeakSet[RequestThreads] = weakref.WeakSet()


@atexit.register
def _end() -> None:
    end = time.monotonic() + _LAST_SECONDS
    executors = list(_all)
    for threads in executors:
        threads.shutdown()
    while time.monotonic() < end and not all(threads.ended() for threads in executors):
        time.sleep(_LOOK)


class _Worker:
    """A thread that waits for its next call."""

    def __init__(self) -> None:
        self._call: Callable[[], None] | None = None
        self._ready = threading.Lock()
        self._ready.acquire()

    def take(self, call: Callable[[], None] | None) -> None:
        self._call = call
        self._ready.release()

    def wait(self) -> Callable[[], None] | None:
        self._ready.acquire()
        call, self._call = self._call, None
        return call
