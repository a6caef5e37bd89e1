"""Who holds what of the REST server: threads, places before them, and memory."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent import futures
from http import HTTPStatus
from typing import TypeVar

from sealserve.serving.errors import CallerGoneError, OverloadedError
from sealserve.serving.load import Load
from sealserve.serving.rest.http_errors import BusyError, DeadlineError, HttpError
from sealserve.threads import RequestThreads

Result = TypeVar("Result")


class Memory:
    """Bytes that requests take together. Safe to use from several threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._held = 0

    @property
    def held(self) -> int:
        """How many are taken now."""
        return self._held

    def take(self, size: int) -> None:
        """:raises BusyError: there are not so many left. :raises HttpError: there never are."""
        if size > self._most:
            raise HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the request would take {size} bytes of memory")
        with self._lock:
            if self._held + size > self._most:
                raise BusyError("the server holds as much of requests as it can: try again later")
            self._held += size

    def add(self, size: int) -> None:
        """Take what is there already, such as an answer."""
        with self._lock:
            self._held += size

    def give(self, size: int) -> None:
        """Give back what was taken."""
        with self._lock:
            self._held -= size


class Share:
    """What one request takes of the memory."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._size = 0

    def take(self, size: int) -> None:
        """See :meth:`Memory.take`."""
        self._memory.take(size)
        self._size += size

    def add(self, size: int) -> None:
        """Take what is there already."""
        self._memory.add(size)
        self._size += size

    def give_all(self) -> None:
        """Give everything back."""
        size, self._size = self._size, 0
        self._memory.give(size)


class Places:
    """Threads in which requests are answered, and places before them.

    :param waiting: how many requests may wait for a thread.
    :raises RuntimeError: the system refuses a thread.
    """

    def __init__(self, threads: int, waiting: int) -> None:
        self._most = threads + waiting
        self._threads = RequestThreads(threads)
        self._taken = self._refused = 0  # written in the event loop alone

    @property
    def load(self) -> Load:
        """Requests that wait for a thread or have one, and those that were refused."""
        return Load(self._taken, self._most, self._refused)

    async def run(self, work: Callable[[Callable[[], bool]], Result], *, deadline: float, share: Share) -> Result:
        """Have a thread do the work of a request.

        :param work: is given ``wanted``: whether somebody still waits. A place is taken until it returns, even if
            nobody does.
        :param deadline: of the loop's clock.
        :param share: given back when the work is done.
        :raises OverloadedError: there is no place. :raises DeadlineError: the time is over.
        """
        if self._taken >= self._most:
            self._refused += 1
            share.give_all()
            raise OverloadedError("the server has as many requests as it takes at once: try again later")
        loop = asyncio.get_running_loop()
        waiting = True

        def wanted() -> bool:
            return waiting

        def call() -> Result:
            if not waiting:
                raise CallerGoneError("the caller does not wait for the answer any more")
            return work(wanted)

        waiter: asyncio.Future[Result] = loop.create_future()

        def finish(done: futures.Future[Result]) -> None:
            self._taken -= 1
            share.give_all()
            if waiter.done():
                return
            if (error := done.exception()) is not None:
                waiter.set_exception(error)
            else:
                waiter.set_result(done.result())

        future = self._threads.submit(call)
        self._taken += 1
        # The loop is woken once for each request. It may be gone when a thread ends late.
        future.add_done_callback(lambda done: _later(loop, lambda: finish(done)))
        try:
            async with asyncio.timeout_at(deadline):
                return await waiter
        except TimeoutError as error:
            raise DeadlineError("the request was not answered in time") from error
        finally:
            waiting = False
            waiter.cancel()
            future.cancel()  # if no thread has begun with it

    def close(self) -> None:
        """Take no more work. Threads end with what they do."""
        self._threads.shutdown()


def _later(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function)
