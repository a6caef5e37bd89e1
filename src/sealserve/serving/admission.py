"""Who holds what of the server: requests on their way in, in work, and answers on their way out.

gRPC bounds connections and streams. It does not bound how long a stream may take to bring its message or to fetch its
answer, nor the memory of all streams together; that is done here. The connection that keeps the server waiting for most
messages loses one first, so that strangers who hold all they may do not keep others out.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from types import TracebackType

import grpc

from sealserve.logs import get_logger
from sealserve.serving.errors import CallerGoneError, NoMessageError, OverloadedError, StoppingError
from sealserve.serving.heap import allocated_bytes, give_back
from sealserve.serving.limits import Limits
from sealserve.serving.load import Load

_log = get_logger(__name__)

_TICK = 0.25  # seconds between two looks at what is overdue
_FRESH = 0.02  # seconds in which a message cannot have brought much
_QUIET, _MOST_QUIET = 0.05, 0.2  # seconds without a new request before the server closes; and that it waits for them
_PATIENCE = 8  # looks: memory that does not come back by then is not that of messages


class Admission:
    """Counts and bounds; safe to use from several threads.

    :param heap_bytes: how much memory the process has allocated; None where that cannot be known.
    """

    def __init__(self, limits: Limits, *, heap_bytes: Callable[[], int | None] | None = None) -> None:
        self._limits = limits
        self._heap_bytes = heap_bytes or allocated_bytes
        self._heap_before: int | None = None
        self._heap_last = 0
        self._short: list[int] = []  # the heap at the last looks, as long as memory was short at each
        self._lock = threading.Lock()
        # Oldest first, as dictionaries keep their order.
        self._receiving: dict[grpc.ServicerContext, float] = {}
        self._peers: dict[grpc.ServicerContext, str] = {}  # the connections of those, as far as they were asked for
        self._answering: dict[grpc.ServicerContext, tuple[float, int]] = {}
        self._working = 0
        self._refused = 0
        self._bytes = 0
        self._last = 0.0  # when a request came
        self._closed = False
        self._stop = threading.Event()

    @property
    def load(self) -> Load:
        """Requests that are queued or computed, and those that were refused."""
        return Load(self._working, self._limits.working, self._refused)

    def start(self) -> None:
        """Begin to look after what is overdue. To be called before there are requests."""
        self.look()
        threading.Thread(target=self._watch, name="admission", daemon=True).start()

    def close(self) -> None:
        """Take no more requests into work; returns when no more come, or soon.

        What grpcio has accepted and not handed over when it stops is CANCELLED, which callers take for their own doing.
        So those who are still asking are told UNAVAILABLE first, and go elsewhere.
        """
        self._closed = True
        until = time.monotonic() + _MOST_QUIET
        while (now := time.monotonic()) < min(until, self._last + _QUIET):
            time.sleep(min(until, self._last + _QUIET) - now)

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()

    def receive(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        """Wait for a request's one message.

        :raises NoMessageError: there is none. Other errors are those of :meth:`receive_next`.
        """
        message = self.receive_next(messages, context)
        if message is None:
            raise NoMessageError("the method requires exactly one request message")
        return message

    def receive_next(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes | None:
        """Wait for the next message; None if the caller sends no more.

        :raises OverloadedError: the request's headers are too large.
        :raises grpc.RpcError: the request was cancelled, by its caller or here.
        """
        # gRPC has settings for this, and lets headers of some MB pass all the same (grpcio 1.85).
        if sum(len(key) + len(value) for key, value in context.invocation_metadata()) > self._limits.header_bytes:
            raise OverloadedError("the headers of the request are too large")
        with self._lock:
            self._last = self._receiving[context] = time.monotonic()
            surplus = self._surplus() if len(self._receiving) > self._limits.receiving else None
            if surplus is not None:
                self._received(surplus)
        if surplus is not None:
            surplus.cancel()
        try:
            return next(messages, None)
        finally:
            with self._lock:
                self._received(context)

    def _received(self, context: grpc.ServicerContext) -> None:
        self._receiving.pop(context, None)
        self._peers.pop(context, None)

    def _surplus(self) -> grpc.ServicerContext:
        """The oldest of the connection that has most; between connections that have as many, the oldest."""
        for context in self._receiving:
            if context not in self._peers:
                self._peers[context] = context.peer()
        held = Counter(self._peers.values())
        return max(self._receiving, key=lambda context: held[self._peers[context]])  # the first of several

    def work(self, context: grpc.ServicerContext, size: int) -> Held:
        """The place in which a request that takes ``size`` bytes is answered, in a ``with`` block.

        :raises OverloadedError: there is no place. :raises CallerGoneError: nobody waits for the answer.
        :raises StoppingError: the server stops.
        """
        if self._closed:
            raise StoppingError("the server is stopping")
        if not context.is_active():
            raise CallerGoneError("the caller does not wait for the answer any more")
        size = min(size, self._limits.buffered_bytes)  # alone, the largest message has a place with all its fields
        with self._lock:
            full = self._working >= self._limits.working or self._bytes + size > self._limits.buffered_bytes
            if full:
                self._refused += 1
            else:
                self._working += 1
                self._bytes += size
        if full:
            raise OverloadedError("the server has as many requests as it takes at once: try again later")
        return Held(self, 1, size)

    def memory(self, size: int) -> Held:
        """Count ``size`` bytes more for a request in work, in a ``with`` block.

        :raises OverloadedError: the server would hold too many, and has other requests in work.
        """
        with self._lock:
            full = self._bytes + size > self._limits.buffered_bytes and self._working > 1
            if not full:
                self._bytes += size
        if full:
            raise OverloadedError("the server holds as many bytes of requests as it may: try again later")
        return Held(self, 0, size)

    def let_go(self, working: int, size: int) -> None:
        """End what :meth:`work` or :meth:`memory` counted."""
        with self._lock:
            self._working -= working
            self._bytes -= size

    def answer(self, context: grpc.ServicerContext, size: int) -> None:
        """Count an answer of ``size`` bytes until its caller has it."""
        with self._lock:
            self._answering[context] = (time.monotonic(), size)
            self._bytes += size
        if not context.add_callback(functools.partial(self._answered, context)):
            self._answered(context)
        while self._bytes > self._limits.buffered_bytes:
            with self._lock:
                oldest = next(iter(self._answering), None)
            if oldest is None:
                break
            self._drop(oldest)

    @contextlib.contextmanager
    def sending(self, context: grpc.ServicerContext, size: int) -> Iterator[None]:
        """Count an answer of ``size`` bytes, one of several of a stream, while the block sends it."""
        self.answer(context, size)
        try:
            yield
        finally:
            self._answered(context)

    def _answered(self, context: grpc.ServicerContext) -> None:
        with self._lock:
            _, size = self._answering.pop(context, (0.0, 0))
            self._bytes -= size

    def _drop(self, context: grpc.ServicerContext) -> None:
        context.cancel()
        self._answered(context)

    def _watch(self) -> None:
        while not self._stop.wait(_TICK):
            try:
                self.look()
            except Exception:  # noqa: BLE001 - whatever it is, what strangers hold must stay bounded
                _log.exception("admission-failed")

    def look(self) -> None:
        """End what is overdue; and, when memory is short, all messages that are slow to arrive."""
        now = time.monotonic()
        with self._lock:
            slow = [context for context, since in self._receiving.items() if now - since >= _TICK]
            late = [c for c in slow if now - self._receiving[c] >= self._limits.receive_seconds]
            unread = [c for c, (since, _) in self._answering.items() if now - since >= self._limits.answer_seconds]
            waiting = any(now - since >= _FRESH for since in self._receiving.values())
        if self._short:
            give_back()
        if self._heap_has_grown(waiting=waiting):
            late = slow
        for context in late:
            context.cancel()
        for context in unread:
            self._drop(context)

    def _heap_has_grown(self, *, waiting: bool) -> bool:
        """Whether the messages that are on their way may have taken all memory they may.

        gRPC does not tell how much of a message is there. The heap does, against what it was when none was waited for.
        """
        heap = self._heap_bytes()
        if heap is None:
            return False
        if self._heap_before is None:
            self._heap_before = self._heap_last = heap
        if not waiting:
            # One look late: at this one, messages may be there of which nobody knows yet.
            self._heap_before, self._heap_last = self._heap_last, heap
        if heap - self._heap_before <= self._limits.buffered_bytes:
            self._short = []
            return False
        self._short.append(heap)
        if len(self._short) > _PATIENCE:
            # A model was loaded, say, while somebody was always waited for. What was there at the lowest, stays.
            self._heap_before = self._heap_last = min(self._short)
            self._short = []
        return True


class Held:
    """What a request holds until the end of the ``with`` block. A class and no generator: every request passes here."""

    __slots__ = ("_admission", "_size", "_working")

    def __init__(self, admission: Admission, working: int, size: int) -> None:
        self._admission = admission
        self._working = working
        self._size = size

    def __enter__(self) -> None:
        """Held since it was made."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._admission.let_go(self._working, self._size)
