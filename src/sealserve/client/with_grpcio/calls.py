"""Calls of a verified channel as ``grpcio`` shows calls to its users."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc

from sealserve.client.headers import Metadata


class FinishedCall(grpc.Call):  # type: ignore[misc] # grpcio has no types
    """How a call ended."""

    def __init__(
        self,
        code: grpc.StatusCode,
        details: str,
        initial_metadata: Metadata = (),
        trailing_metadata: Metadata = (),
    ) -> None:
        self._code, self._details = code, details
        self._initial, self._trailing = initial_metadata, trailing_metadata

    def code(self) -> grpc.StatusCode:
        """The status code."""
        return self._code

    def details(self) -> str:
        """The server's words for it, or ours."""
        return self._details

    def initial_metadata(self) -> Metadata:
        """What the server sent before its message."""
        return self._initial

    def trailing_metadata(self) -> Metadata:
        """What the server sent after it."""
        return self._trailing

    def is_active(self) -> bool:
        """It is over."""
        return False

    def time_remaining(self) -> None:
        """It is over."""
        return

    def cancel(self) -> bool:
        """Too late."""
        return False

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Too late."""
        del callback
        return False


class CallError(grpc.RpcError, FinishedCall):  # type: ignore[misc]
    """A call that did not end with OK; both the exception and the call, as grpcio has it."""

    def __init__(self, call: FinishedCall) -> None:
        Exception.__init__(self, call.details())
        FinishedCall.__init__(self, call.code(), call.details(), call.initial_metadata(), call.trailing_metadata())

    def __str__(self) -> str:
        return f"{self.code().name}: {self.details()}"


class RunningCall(grpc.Call, grpc.Future):  # type: ignore[misc]
    """A call in a thread. What is cancelled is over for its caller; its thread ends with the call's deadline."""

    def __init__(self, work: futures.Future[tuple[Any, FinishedCall]]) -> None:
        self._work = work
        self._shown: futures.Future[tuple[Any, FinishedCall]] = futures.Future()
        work.add_done_callback(self._take_over)

    def _take_over(self, work: futures.Future[tuple[Any, FinishedCall]]) -> None:
        if not self._shown.set_running_or_notify_cancel():
            return
        if work.cancelled():
            self._shown.set_exception(CallError(FinishedCall(grpc.StatusCode.CANCELLED, "the channel was closed")))
        elif error := work.exception():
            self._shown.set_exception(error)
        else:
            self._shown.set_result(work.result())

    def cancel(self) -> bool:
        """:returns: whether it was not over yet."""
        self._work.cancel()
        return self._shown.cancel()

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._shown.cancelled()

    def running(self) -> bool:
        """Whether it is under way."""
        return not self._shown.done()

    is_active = running

    def done(self) -> bool:
        """Whether it is over."""
        return self._shown.done()

    def result(self, timeout: float | None = None) -> Any:
        """The response, waited for. :raises grpc.RpcError: the call did not end with OK."""
        return self._wait(timeout)[0]

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Why there is no response, waited for."""
        try:
            self._wait(timeout)
        except grpc.RpcError as error:
            return error  # type: ignore[no-any-return]
        return None

    def traceback(self, timeout: float | None = None) -> Any:
        """Where that was raised."""
        error = self.exception(timeout)
        return error.__traceback__ if error else None

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Call ``fn`` with this, once it is over."""
        self._shown.add_done_callback(lambda _: fn(self))

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Call ``callback``, once it is over."""
        self._shown.add_done_callback(lambda _: callback())
        return True

    def time_remaining(self) -> None:
        """Not told."""
        return

    def code(self) -> grpc.StatusCode:
        """The status code, waited for, as the next three."""
        return self._call().code()

    def details(self) -> str:
        """The words for it."""
        return self._call().details()

    def initial_metadata(self) -> Metadata:
        """What the server sent before its message."""
        return self._call().initial_metadata()

    def trailing_metadata(self) -> Metadata:
        """What the server sent after it."""
        return self._call().trailing_metadata()

    def _wait(self, timeout: float | None) -> tuple[Any, FinishedCall]:
        try:
            return self._shown.result(timeout)
        except futures.CancelledError:
            raise grpc.FutureCancelledError from None
        except futures.TimeoutError:
            raise grpc.FutureTimeoutError from None

    def _call(self) -> FinishedCall:
        try:
            return self._wait(None)[1]
        except CallError as error:
            return error
        except grpc.FutureCancelledError:
            return FinishedCall(grpc.StatusCode.CANCELLED, "cancelled by the caller")
