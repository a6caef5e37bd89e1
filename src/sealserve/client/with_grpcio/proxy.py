"""A local endpoint that speaks plain gRPC to programs as they are, and the attested protocol to the cluster.

Every unary method of every service is passed through as bytes, with its metadata, its deadline and its status. What a
local program sends is in the clear on this machine only as far as the loopback interface or a socket file goes, and
only to and from programs of the user who runs the proxy.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

from sealserve.addresses import Address
from sealserve.client.aio.client import AsyncCaller
from sealserve.client.doors import SocketFile, is_own, open_local_port
from sealserve.client.headers import check_metadata
from sealserve.client.reply import Reply
from sealserve.client.with_grpcio.codes import REASON, code_of, explain
from sealserve.client.with_grpcio.relay import Relay
from sealserve.errors import MachineError, SealserveError
from sealserve.threads import RequestThreads

_NOT_PASSED = frozenset({"user-agent"})  # of the program; the replica sees the client's own
_LONGEST = 86_400.0  # seconds that a program may wait
_NO_DEADLINE = 10 * 365 * 86_400.0  # grpcio says some such number where there is none
_MESSAGE_SECONDS = 30.0  # in which a request's message has to arrive, once its headers have
_SLOT_SECONDS = 0.2  # a call that has its answer is over a moment later
_SPARE_THREADS = 16  # for calls that are about to be refused
_ALIVE_SECONDS = 10.0  # between two questions whether the inner server answers
_ALIVE = "/sealserve.proxy/Alive"
_STREAMING = frozenset(
    {
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    }
)


class Proxy:
    """Serves until it is stopped, and keeps its ports until it is closed; belongs to one event loop.

    Connections are accepted here and relayed to grpcio's synchronous server, which listens in a private directory.

    :param client: through which calls go. :param timeout: seconds, for calls that come without a deadline.
    :param max_concurrent: calls at the same time; more are answered RESOURCE_EXHAUSTED. Memory is bounded by it times
        twice ``max_message_bytes``, the largest request and the largest reply.
    :param insecure_any_local_user: serve every user of this machine who can connect.
    :raises MachineError: a private directory or a socket in it cannot be had.
    """

    def __init__(
        self,
        client: AsyncCaller,
        *,
        timeout: float = 60.0,
        max_concurrent: int = 128,
        max_message_bytes: int = 64 << 20,
        insecure_any_local_user: bool = False,
    ) -> None:
        self._client = client
        self._timeout = timeout
        self._loop: asyncio.AbstractEventLoop  # from the start on
        self._listening: list[socket.socket] = []
        self._files: list[SocketFile] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._slots = threading.BoundedSemaphore(max_concurrent)
        self._unread: dict[Any, float] = {}  # calls without their message, and since when
        try:
            self._threads = RequestThreads(max_concurrent + _SPARE_THREADS)
        except RuntimeError as error:
            raise MachineError("cannot start a thread", hint="Allow the process more threads.") from error
        logging.getLogger("grpc._cython.cygrpc").setLevel(logging.CRITICAL)  # a traceback for each header of bad UTF-8
        self._server = grpc.server(
            self._threads,
            handlers=(_Everything(self),),
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", max_message_bytes),
                ("grpc.max_concurrent_streams", max_concurrent),
            ],
            maximum_concurrent_rpcs=max_concurrent + _SPARE_THREADS,
        )
        try:
            self._directory = Path(tempfile.mkdtemp(prefix="sealserve-proxy-"))  # mode 0700
        except OSError as error:
            raise MachineError("cannot make a private directory", hint="Check TMPDIR.") from error
        self._inner = self._directory / "socket"
        self._relay = Relay(self._inner, (lambda _: True) if insecure_any_local_user else is_own)
        try:
            self._server.add_insecure_port(f"unix:{self._inner}")
        except RuntimeError as error:
            self.close()
            raise MachineError(f"cannot listen in {self._directory}", hint="Set TMPDIR to a shorter path.") from error

    def listen(self, address: Address, *, insecure_beyond_loopback: bool = False) -> Address:
        """Take a TCP port.

        :param address: of the loopback interface; port 0 takes a free one. :returns: the address it has.
        :raises InputError: the address is another. :raises MachineError: the port cannot be had.
        """
        listening, taken = open_local_port(address, insecure_beyond_loopback=insecure_beyond_loopback)
        self._listening.append(listening)
        return taken

    def listen_on_socket(self, path: Path) -> None:
        """Take a socket file that its owner alone may use (mode 0600). One that nobody serves any more is replaced.

        :raises InputError: something else is there, another program serves it, or the directory cannot be written.
        """
        self._files.append(SocketFile(path))
        self._listening.append(self._files[-1].listening)

    async def start(self) -> None:
        """Answer from now on."""
        self._loop = asyncio.get_running_loop()
        self._server.start()
        self._tasks = [self._loop.create_task(self._relay.accept(listening)) for listening in self._listening]
        self._tasks += [self._loop.create_task(self._watch()), self._loop.create_task(self._limit_messages())]

    async def ended(self) -> None:
        """Wait for what should not happen.

        :raises MachineError: the server within has ended, or connections cannot be accepted any more.
        """
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        raise MachineError("the proxy has ended")

    async def stop(self, grace: float = 5.0) -> None:
        """Take no new connections, and let calls that are under way end, for ``grace`` seconds. Ports stay taken."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._server.stop(grace).wait, grace + 2)  # one that is broken never says that it ended
        self._relay.close()
        self._threads.shutdown()

    def close(self) -> None:
        """Give the ports back and remove the socket files, last of all: whoever has the port next gets the requests."""
        for file in self._files:
            file.close()
        for listening in self._listening:
            listening.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def handle(self, method: str, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        """Pass one call through, in one of the server's threads."""
        if method in _STREAMING:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, f"sealserve proxy passes unary calls; {method} streams")
        if not self._slots.acquire(timeout=_SLOT_SECONDS):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the proxy has as many calls as it may")
        # Not when this returns: the answer is in memory until the program has taken it.
        if not context.add_callback(self._slots.release):
            self._slots.release()
        message = self._receive(messages, context)
        try:
            reply = self._call(method, message, context)
        except SealserveError as error:
            context.set_trailing_metadata(((REASON, error.reason),))
            context.abort(*explain(error))
        except futures.CancelledError:
            context.abort(grpc.StatusCode.CANCELLED, "the program has hung up")
        context.send_initial_metadata(reply.initial_metadata)
        context.set_trailing_metadata(reply.trailing_metadata)
        if reply.status:
            context.abort(code_of(reply.status), reply.text)
        return bytes(reply.message)

    def _receive(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        self._unread[context] = time.monotonic()
        try:
            return next(messages)
        except StopIteration:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call has no message")
            raise  # abort has raised
        finally:
            del self._unread[context]

    def _call(self, method: str, message: bytes, context: grpc.ServicerContext) -> Reply:
        left = context.time_remaining()
        metadata = check_metadata(
            (name, value)
            for name, value in context.invocation_metadata() or ()
            if name not in _NOT_PASSED and not name.startswith("grpc-")
        )
        timeout = self._timeout if left is None or left > _NO_DEADLINE else min(max(left, 1e-3), _LONGEST)
        call = self._client.call(method, message, metadata=metadata, timeout=timeout)
        work = asyncio.run_coroutine_threadsafe(call, self._loop)
        if not context.add_callback(work.cancel):
            work.cancel()
        return work.result()

    async def _limit_messages(self) -> None:
        while True:
            await asyncio.sleep(_MESSAGE_SECONDS / 8)
            late = time.monotonic() - _MESSAGE_SECONDS
            for context, since in list(self._unread.items()):
                if since < late:
                    context.cancel()

    async def _watch(self) -> None:
        """Ask the server within for a method that it refuses before anything else; fails when it is silent twice."""
        silent = 0
        with grpc.insecure_channel(f"unix:{self._inner}", [("grpc.enable_http_proxy", 0)]) as channel:
            ask = channel.unary_unary(_ALIVE)
            while silent < 2:  # once may be a machine that slept
                call = ask.future(b"", timeout=_ALIVE_SECONDS)
                await asyncio.sleep(_ALIVE_SECONDS)
                answered = call.done() and call.code() is grpc.StatusCode.UNIMPLEMENTED
                silent = 0 if answered else silent + 1
        raise MachineError("the proxy's server does not answer any more")


class _Everything(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        method = details.method
        if method == _ALIVE:
            return None  # refused before it counts as a call
        # For a method of unary_unary, grpcio would wait for the message itself, without an end. It is the same on the
        # wire, and so is a stream that is refused.
        return grpc.stream_unary_rpc_method_handler(
            lambda messages, context: self._proxy.handle(method, messages, context)
        )
