"""Spreading chunks of work over processes that share open files.

Threads do not help here: the interpreter's lock changes hands at every node. Helpers are forked, so they start within
milliseconds and inherit descriptors and keys; they hand results over by writing to the shared file. Forking a process
with several threads is not safe, so such a process (a server, an enclave) works alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import pickle
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NoReturn

from sealserve.errors import MachineError

MAX_CHUNKS: Final = 512
"""A board's numbers lie in a pipe, which holds at least a page: 512 times 8 bytes."""
_NUMBER: Final = struct.Struct("<Q")
_PR_SET_PDEATHSIG: Final = 1


def usable_processors() -> int:
    """How many processors this process may run on."""
    return len(os.sched_getaffinity(0))


def may_fork() -> bool:
    """Whether this process has one thread only."""
    try:
        threads = len(list(Path("/proc/self/task").iterdir()))
    except OSError:
        return False
    return threads == 1 and threading.active_count() == 1


class Board:
    """Numbers 0 ... count-1 that several processes take, and a mark for each that is done.

    :param count: at most 512.
    """

    def __init__(self, count: int) -> None:
        if count > MAX_CHUNKS:
            raise ValueError(f"a board has at most {MAX_CHUNKS} numbers")
        self.count = count
        self._marks = mmap.mmap(-1, max(1, count))
        self._take, put = os.pipe()
        with os.fdopen(put, "wb") as pipe:
            pipe.write(b"".join(_NUMBER.pack(number) for number in range(count)))

    def take(self) -> int | None:
        """A number that nobody took yet; None when there is none left."""
        piece = os.read(self._take, _NUMBER.size)
        return int(_NUMBER.unpack(piece)[0]) if piece else None

    def finish(self, number: int) -> None:
        """Mark ``number`` as done."""
        self._marks[number] = 1

    def is_done(self, number: int) -> bool:
        """Whether ``number`` is done, by any process."""
        return self._marks[number] == 1

    @property
    def done(self) -> int:
        """How many numbers are done."""
        return self._marks[: self.count].count(1)

    def close(self) -> None:
        """Give the pipe and the memory back."""
        os.close(self._take)
        self._marks.close()


class Crew:
    """Helper processes that run one function."""

    def __init__(self, count: int, work: Callable[[], None]) -> None:
        self._pipes: dict[int, int] = {}
        parent = os.getpid()
        try:
            for _ in range(count):
                read, write = os.pipe()
                with _no_signals():
                    pid = os.fork()
                    if pid == 0:
                        _helper(parent, write, work)
                    self._pipes[pid] = read
                os.close(write)
        except BaseException:
            self.kill()
            raise

    def check(self) -> None:
        """Raise what a helper raised, if one has ended badly; do not wait."""
        for pid in list(self._pipes):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._reap(pid, status)

    def join(self) -> None:
        """Wait for all helpers; raise what one of them raised."""
        for pid in list(self._pipes):
            _, status = os.waitpid(pid, 0)
            self._reap(pid, status)

    def _reap(self, pid: int, status: int) -> None:
        with os.fdopen(self._pipes.pop(pid), "rb") as pipe:
            report = pipe.read()
        if status == 0:
            return
        if report:
            error = pickle.loads(report)  # noqa: S301 - our own child wrote it, into a pipe nobody else has
            if isinstance(error, BaseException):
                raise error
        raise MachineError(
            "a helper process ended unexpectedly",
            hint="The machine may be short of memory. What was there before is untouched: run the command again.",
        )

    def kill(self) -> None:
        """End all helpers at once."""
        for pid, read in self._pipes.items():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                os.waitpid(pid, 0)
            os.close(read)
        self._pipes.clear()


def _helper(parent: int, report: int, work: Callable[[], None]) -> NoReturn:
    """The life of a helper: it never returns into the caller's code."""
    code = 1
    try:
        # A helper must not go on writing when its parent was killed.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            work()
            code = 0
    except BaseException as error:  # noqa: BLE001 - handed over to the parent, which raises it
        with contextlib.suppress(Exception):
            os.write(report, pickle.dumps(error)[:65536])
    finally:
        os._exit(code)


@contextlib.contextmanager
def _no_signals() -> Iterator[None]:
    """Signals wait: an exception that a handler raises while Python's own hooks for fork(2) run would be lost.

    In helpers they wait for ever: the parent gets them too, and ends its helpers.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def crew(count: int, work: Callable[[], None]) -> Iterator[Crew]:
    """``count`` forked helpers running ``work``; waited for at the end, killed on an error."""
    helpers = Crew(count, work)
    try:
        yield helpers
        helpers.join()
    except BaseException:
        helpers.kill()
        raise
