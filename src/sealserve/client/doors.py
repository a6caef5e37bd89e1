"""Where programs of this machine reach the proxies: TCP ports and socket files, and who may come in.

A stranger's bytes must not reach a server: whoever may send to it may fill it, and could end gRPC's asyncio server. So
the proxies accept connections themselves and look whose they are before they read.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
from pathlib import Path

from sealserve.addresses import Address
from sealserve.client.local_user import user_of
from sealserve.errors import InputError, MachineError

_BACKLOG = 1024


def open_local_port(address: Address, *, insecure_beyond_loopback: bool) -> tuple[socket.socket, Address]:
    """A TCP socket that listens where this machine alone can connect.

    :param address: of the loopback interface; port 0 takes a free one.
    :returns: the socket, and the address it has.
    :raises InputError: the address is another. :raises MachineError: the port cannot be had.
    """
    host = "127.0.0.1" if address.host == "localhost" else address.host
    if not (insecure_beyond_loopback or _is_loopback(host)):
        raise InputError(
            f"{address} can be reached from other machines, and what is sent to the proxy is not encrypted",
            hint="Listen on 127.0.0.1 or [::1], or say --insecure-beyond-loopback.",
        )
    listening = open_port(Address(host, address.port))
    return listening, Address(host, listening.getsockname()[1])


def open_port(address: Address) -> socket.socket:
    """A TCP socket that listens, and that no other socket shares its port with.

    :raises MachineError: the port cannot be had.
    """
    try:
        family, *_, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(
            where[:2],
            family=family,
            backlog=_BACKLOG,
            dualstack_ipv6=address.host == "::" and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        raise MachineError(
            f"cannot listen on {address}",
            hint="Another program may have the port, such as the gateway of a cluster here: choose another, or 0 for "
            "a free one.",
        ) from error
    listening.setblocking(False)
    return listening


class SocketFile:
    """A socket file that its owner alone may use (mode 0600), and that listens. It replaces one that nobody serves.

    :raises InputError: something else is there, another program serves it, or the directory cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._made: tuple[int, int] | None = None
        try:
            self._make()
        except OSError as error:
            self.close()
            raise InputError(f"cannot make the socket {path}", hint="Check the directory and its mode.") from error
        except InputError:
            self.close()
            raise

    def _make(self) -> None:
        _remove_stale(self._path)
        before = os.umask(0o177)  # so that there is no moment at which others may connect
        try:
            self.listening.bind(str(self._path))
        finally:
            os.umask(before)
        found = self._path.lstat()
        self._made = (found.st_dev, found.st_ino)
        if stat.S_IMODE(found.st_mode) != 0o600:
            raise InputError(f"{self._path} cannot have mode 0600", hint="Choose a path on another file system.")
        self.listening.listen(_BACKLOG)
        self.listening.setblocking(False)

    def close(self) -> None:
        """Stop listening, and remove the file if it is still the one that was made here."""
        self.listening.close()
        try:
            found = self._path.lstat()
            if self._made == (found.st_dev, found.st_ino):
                self._path.unlink()
        except OSError:
            pass  # it is gone, or the directory is


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise InputError(f"{path} exists and is no socket", hint="Name another path.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
        asked.setblocking(False)
        code = asked.connect_ex(str(path))
    if code != errno.ECONNREFUSED:  # with a full backlog it is EAGAIN, and somebody serves it
        raise InputError(f"another program serves {path}", hint="End that one, or name another path.")
    path.unlink()


def is_own(connection: socket.socket) -> bool:
    """Whether the program at the other end of a connection is run by this process's user.

    A socket file's mode has said so already. Where it cannot be told, it is not.
    """
    if connection.family == socket.AF_UNIX:
        return True
    try:
        (host, port, *_), (here, own_port, *_) = connection.getpeername(), connection.getsockname()
        peer, local = (_plain(ipaddress.ip_address(name)) for name in (host, here))
    except (OSError, ValueError):
        return False
    shown = f"ipv4:{peer}:{port}" if peer.version == 4 else f"ipv6:[{peer}]:{port}"
    return user_of(shown, (str(local), own_port)) == os.geteuid()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return getattr(address, "ipv4_mapped", None) or address
