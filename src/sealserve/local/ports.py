"""TCP ports of a local cluster: choosing free ones, holding them, and saying who has one that is taken."""

from __future__ import annotations

import contextlib
import errno
import random
import socket
from collections.abc import Iterator
from pathlib import Path

from sealserve.addresses import Address
from sealserve.errors import MachineError

# Below what Linux hands out to outgoing connections (32768 and up), so that none of those takes a port in between.
_CHOICE = range(20000, 32000)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def require_free(address: Address, *, setting: str) -> Address:
    """Make sure that a server can listen on ``address``; port 0 is replaced by a free one.

    :param setting: the name of the setting that gives the address, for the message.
    :raises MachineError: the port is taken (the message names the process, where it can be found), or the address is
        not this machine's.
    """
    if address.port == 0:
        return _choose(address, setting)
    error = _try_to_bind(address)
    if error is None:
        return address
    if error.errno == errno.EADDRINUSE:
        user = find_listener(address)
        raise MachineError(
            f"port {address.port} ({setting}: {address}) is in use" + (f" by {user}" if user else ""),
            hint=f"Stop that program, or set {setting} to another port in deployment.yaml.",
        )
    if error.errno == errno.EACCES:
        raise MachineError(
            f"not allowed to listen on {address} ({setting})",
            hint=f"Ports below 1024 are for root: set {setting} to a higher port.",
        )
    raise MachineError(
        f"cannot listen on {address} ({setting}): {error.strerror}",
        hint=f"Set {setting} to an address of this machine, such as 127.0.0.1:8500.",
    )


def _choose(address: Address, setting: str) -> Address:
    for port in random.sample(_CHOICE, 200):
        candidate = address.with_port(port)
        error = _try_to_bind(candidate)
        if error is None:
            return candidate
        if error.errno != errno.EADDRINUSE:
            raise MachineError(f"cannot listen on {candidate} ({setting}): {error.strerror}")
    raise MachineError(f"found no free port for {setting}", hint=f"Set {setting} to a port that is free.")


def _try_to_bind(address: Address) -> OSError | None:
    try:
        with socket.socket(_family(address.host), socket.SOCK_STREAM) as probe:
            # As servers do it: connections in TIME_WAIT are no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address.host, address.port))
            probe.listen(1)
    except OSError as error:
        return error
    return None


class ReservedPort:
    """Holds a free port of 127.0.0.1 for a server that binds with SO_REUSEPORT, as both of a replica do.

    The holding socket does not listen, so it gets no connection; other programs cannot take the port while the server
    is between two lives.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._socket.bind(("127.0.0.1", 0))
        except OSError as error:
            self._socket.close()
            raise MachineError(f"cannot reserve a port for a replica: {error.strerror}") from error
        self.address = Address("127.0.0.1", int(self._socket.getsockname()[1]))

    def close(self) -> None:
        """Let go of the port."""
        self._socket.close()


def find_listener(address: Address) -> str | None:
    """The program that listens on a port, as ``nginx (process 123)``, as far as /proc shows it to this user."""
    inodes = set(_listening_inodes(address.port))
    if not inodes:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(descriptor.readlink()) in inodes:
                        return f"{(process / 'comm').read_text().strip()} (process {process.name})"
    return None


def _listening_inodes(port: int) -> Iterator[str]:
    """``socket:[INODE]`` of every TCP socket in state LISTEN (0A) on ``port``; format: Linux, proc_net_tcp.rst."""
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        with contextlib.suppress(OSError):
            for line in table.read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    yield f"socket:[{fields[9]}]"
