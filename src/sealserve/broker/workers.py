"""A broker of several processes: they share the listening sockets and the store, and each serves whom it accepts.

One process does not use more than one processor well: what judges evidence holds Python's lock. Workers are brokers
over one store, as brokers on several machines are; what they count is put together (:mod:`sealserve.broker.tally`). The
parent holds no secret and runs no thread. It starts a worker anew that ends, and ends when it is told to.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from sealserve.broker.server import GRACE_SECONDS, Broker
from sealserve.broker.settings import BrokerSettings
from sealserve.broker.tally import Tally
from sealserve.logs import event, get_logger
from sealserve.notify import notify
from sealserve.ratls.listener import bound_address, listening_sockets

_log = get_logger(__name__)

_PR_SET_PDEATHSIG = 1
_PAUSE_SECONDS, _LONGEST_PAUSE = 1.0, 30.0  # before a worker is started anew; twice as long each time it soon ends
_STOP_SECONDS = GRACE_SECONDS + 5.0
_STOPPING = (signal.SIGTERM, signal.SIGINT)


def run_broker(settings: BrokerSettings) -> None:
    """Serve until SIGTERM or SIGINT, with as many processes as the settings say.

    :raises SealserveError: it cannot start; see :class:`Broker`.
    """
    if settings.workers == 1:
        asyncio.run(Broker(settings).run())
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _check(settings)
    sockets = listening_sockets(settings.address)
    gc.collect()
    gc.freeze()  # or the workers would copy the memory that they share
    _Parent(settings, sockets).run()


def _check(settings: BrokerSettings) -> None:
    """Have a process that ends at once say what is wrong with the settings or the store: this one reads no keys."""
    process = os.fork()
    if process == 0:
        Broker(settings).close()
        raise SystemExit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code:
        raise SystemExit(code if code > 0 else 1)  # it has said why


@dataclass
class _Parent:
    settings: BrokerSettings
    sockets: list[socket.socket]
    _children: dict[int, int] = field(default_factory=dict)  # process → worker
    _waiting: dict[int, int] = field(default_factory=dict)  # end of a pipe that tells of readiness → worker
    _due: dict[int, float] = field(default_factory=dict)  # worker → when to start it anew
    _started: dict[int, float] = field(default_factory=dict)  # worker → when it was started
    _pauses: dict[int, float] = field(default_factory=dict)  # worker → how long its last pause was
    _ready: set[int] = field(default_factory=set)  # workers that have served
    _stopping: bool = False

    def __post_init__(self) -> None:
        self._tally = Tally(self.settings.workers)

    def run(self) -> None:
        with _signals() as woken:
            for worker in range(self.settings.workers):
                self._start(worker)
            told = False
            while not self._stopping:
                self._wait(woken)
                self._reap(serving=told)
                if not told and len(self._ready) == self.settings.workers:
                    notify(READY=1, STATUS=f"listening at {bound_address(self.sockets)}")
                    told = True
                for worker in [worker for worker, moment in self._due.items() if moment <= time.monotonic()]:
                    del self._due[worker]
                    self._start(worker)
            notify(STOPPING=1)
            self._end()

    def _start(self, worker: int) -> None:
        reading, writing = os.pipe()
        parent = os.getpid()
        self._started[worker] = time.monotonic()
        # A signal that comes before the worker has its own handlers waits for them.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        problem: str | None = None
        try:
            process = os.fork()
        except OSError as error:
            process, problem = -1, error.strerror
        if process == 0:
            os.close(reading)
            self._be(worker, parent, writing)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
        os.close(writing)
        if process < 0:
            os.close(reading)
            self._later(worker, "worker-not-started", reason=problem)
            return
        self._children[process] = worker
        self._waiting[reading] = worker

    def _later(self, worker: int, name: str, **fields: object) -> None:
        """Start a worker anew after a while, which grows as long as it soon ends."""
        soon = time.monotonic() < self._started[worker] + _LONGEST_PAUSE
        pause = min(2 * self._pauses[worker], _LONGEST_PAUSE) if soon and worker in self._pauses else _PAUSE_SECONDS
        self._pauses[worker] = pause
        self._due[worker] = time.monotonic() + pause
        event(_log, logging.ERROR, name, worker=worker, **fields, started_anew_seconds=pause)

    def _be(self, worker: int, parent: int, ready: int) -> NoReturn:
        """The life of a worker. Errors leave this process as they leave one that has no workers."""
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)
        signal.set_wakeup_fd(-1)
        for number in _STOPPING:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)

        def tell() -> None:
            os.write(ready, b"1")
            os.close(ready)

        broker = Broker(self.settings, worker=worker, tally=self._tally)
        asyncio.run(broker.run(self.sockets, ready=tell))
        raise SystemExit(0)

    def _wait(self, woken: int) -> None:
        soonest = min(self._due.values(), default=None)
        timeout = None if soonest is None else max(0.0, soonest - time.monotonic())
        readable, _, _ = select.select([woken, *self._waiting], [], [], timeout)
        for descriptor in readable:
            if descriptor != woken:
                worker = self._waiting.pop(descriptor)
                if os.read(descriptor, 1):  # nothing: it has ended
                    self._ready.add(worker)
                os.close(descriptor)
                continue
            numbers = os.read(woken, 64)
            self._stopping = self._stopping or any(number in numbers for number in _STOPPING)

    def _reap(self, *, serving: bool) -> None:
        for process, status in _ended():
            worker = self._children.pop(process, None)
            if worker is None or self._stopping:
                continue
            code = os.waitstatus_to_exitcode(status)
            if -code in _STOPPING:  # the whole group was told to stop, and the workers were quicker
                self._stopping = True
                continue
            if not serving:
                self._end()
                raise SystemExit(code if code > 0 else 1)  # it has said why
            self._later(worker, "worker-ended", code=code)

    def _end(self) -> None:
        for listening in self.sockets:  # whoever connects now is to try the next broker
            listening.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in self._children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, number)
            until = time.monotonic() + _STOP_SECONDS
            while self._children and time.monotonic() < until:
                for process, _ in _ended():
                    self._children.pop(process, None)
                time.sleep(0.01)


def _ended() -> Iterator[tuple[int, int]]:
    """Children that have ended, and their status."""
    while True:
        try:
            process, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if process == 0:
            return
        yield process, status


@contextlib.contextmanager
def _signals() -> Iterator[int]:
    """A descriptor from which the numbers of signals can be read."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    before = {number: signal.signal(number, lambda *_: None) for number in (*_STOPPING, signal.SIGCHLD)}
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)
