"""A local endpoint that speaks plain gRPC to programs as they are, and the attested protocol to the cluster.

Every unary method of every service is passed through as bytes, with its metadata, its deadline and its status. What a
local program sends is in the clear on this machine only as far as the loopback interface or a socket file goes, and
only to and from programs of the user who runs the proxy.
"""

from __future__ import annotations

import ipaddress
import os
import stat
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from sealserve.addresses import Address
from sealserve.client.aio.client import AsyncCaller
from sealserve.client.headers import check_metadata
from sealserve.client.with_grpcio.codes import REASON, code_of, explain
from sealserve.client.with_grpcio.local_user import user_of
from sealserve.errors import InputError, MachineError, SealserveError

_NOT_PASSED = frozenset({"user-agent"})  # of the program; the replica sees the client's own
_LONGEST = 86_400.0  # seconds that a program may wait
_STREAMING = frozenset(
    {
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    }
)


class Proxy:
    """Serves until it is stopped; belongs to one event loop.

    :param client: through which calls go. :param timeout: seconds, for calls that come without a deadline.
    :param max_concurrent: calls at the same time; more are answered RESOURCE_EXHAUSTED. Memory is bounded by it times
        twice ``max_message_bytes``, the largest request and the largest reply.
    :param insecure_any_local_user: serve every user of this machine who can connect.
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
        self._any_user = insecure_any_local_user
        self._taken: list[tuple[str, int]] = []
        self._server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),  # or another process could take the port as well
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", max_message_bytes),
                ("grpc.max_concurrent_streams", max_concurrent),
            ],
            maximum_concurrent_rpcs=max_concurrent,
        )
        self._server.add_generic_rpc_handlers((_Everything(self),))

    def listen(self, address: Address, *, insecure_beyond_loopback: bool = False) -> Address:
        """Take a TCP port.

        :param address: of the loopback interface; port 0 takes a free one. :returns: the address it has.
        :raises InputError: the address is another. :raises MachineError: the port cannot be had.
        """
        host = "127.0.0.1" if address.host == "localhost" else address.host
        if not (insecure_beyond_loopback or _is_loopback(host)):
            raise InputError(
                f"{address} can be reached from other machines, and what is sent to the proxy is not encrypted",
                hint="Listen on 127.0.0.1 or [::1], or say --insecure-beyond-loopback.",
            )
        try:
            port = self._server.add_insecure_port(str(Address(host, address.port)))
        except RuntimeError as error:
            raise MachineError(
                f"cannot listen on {address}", hint="Another program may have the port; 0 takes a free one."
            ) from error
        self._taken.append((host, port))
        return Address(host, port)

    def listen_on_socket(self, path: Path) -> None:
        """Take a socket file that its owner alone may use (mode 0600). A socket that is there already is replaced.

        :raises InputError: something else is there, or the directory cannot be written.
        """
        try:
            if path.exists() or path.is_symlink():
                if not stat.S_ISSOCK(path.lstat().st_mode):
                    raise InputError(f"{path} exists and is no socket", hint="Name another path.")
                path.unlink()
            before = os.umask(0o177)  # so that there is no moment at which others may connect
            try:
                self._server.add_insecure_port(f"unix:{path.absolute()}")
            finally:
                os.umask(before)
            if stat.S_IMODE(path.stat().st_mode) != 0o600:
                raise InputError(f"{path} cannot have mode 0600", hint="Choose a path on another file system.")
        except (OSError, RuntimeError) as error:
            raise InputError(f"cannot make the socket {path}", hint="Check the directory and its mode.") from error

    async def start(self) -> None:
        """Answer from now on."""
        await self._server.start()

    async def stop(self, grace: float = 5.0) -> None:
        """Let calls that are under way end, for ``grace`` seconds."""
        await self._server.stop(grace)

    async def handle(self, method: str, request: bytes, context: Any) -> bytes:
        """Pass one call through."""
        if not self._allows(context.peer()):
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED, "this proxy serves the user who runs it, and no other"
            )
        left = context.time_remaining()
        try:
            metadata = check_metadata(
                (name, value)
                for name, value in context.invocation_metadata() or ()
                if name not in _NOT_PASSED and not name.startswith("grpc-")
            )
            timeout = self._timeout if left is None else min(max(left, 1e-3), _LONGEST)
            reply = await self._client.call(method, request, metadata=metadata, timeout=timeout)
        except SealserveError as error:
            await context.abort(*explain(error), ((REASON, error.reason),))
            raise  # abort has raised
        await context.send_initial_metadata(reply.initial_metadata)
        if reply.status:
            await context.abort(code_of(reply.status), reply.text, reply.trailing_metadata)
        context.set_trailing_metadata(reply.trailing_metadata)
        return bytes(reply.message)

    def _allows(self, peer: str) -> bool:
        """Whether the program at the other end is run by the same user. A socket file's mode says so already."""
        if self._any_user or peer.startswith("unix:"):
            return True
        return any(user_of(peer, taken) == os.geteuid() for taken in self._taken)


class _Everything(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        method = details.method

        async def passed(request: bytes, context: Any) -> bytes:
            return await self._proxy.handle(method, request, context)

        async def refused(_: Any, context: Any) -> None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"sealserve proxy passes unary calls; {method} streams")

        if method in _STREAMING:
            return grpc.stream_stream_rpc_method_handler(refused)
        return grpc.unary_unary_rpc_method_handler(passed)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
