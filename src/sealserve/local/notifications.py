"""Receiving what processes say through the protocol of sd_notify(3), and knowing for certain who said it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import struct
from collections import deque
from collections.abc import Callable

from sealserve import notify

CREDENTIALS = struct.Struct("=iII")  # struct ucred of unix(7): pid, uid, gid
_EARLY = 256
_AT_ONCE = 64


class Notifications:
    """A datagram socket in the abstract namespace: no file that a crash leaves behind, no limit on a path's length.

    Anybody on the machine can write to it; the kernel attaches the sender's process number to every datagram
    (SO_PASSCRED), and only a number that was registered counts. A process may speak before whoever started it
    learned its number: what this user's processes said lately is kept for that.
    """

    def __init__(self) -> None:
        self._listeners: dict[int, Callable[[dict[str, str]], None]] = {}
        self._early: deque[tuple[int, dict[str, str]]] = deque(maxlen=_EARLY)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        name = f"sealserve-{secrets.token_hex(12)}"
        self._socket.bind(f"\0{name}")
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.environment = {notify.VARIABLE: f"@{name}"}
        """What a process needs in its environment to be heard."""

    def open(self) -> None:
        """Begin to listen, in the running event loop."""
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def close(self) -> None:
        """Stop listening; closing twice is no error."""
        if self._socket.fileno() == -1:
            return
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def register(self, pid: int, listener: Callable[[dict[str, str]], None]) -> None:
        """Have ``listener`` called with the fields of every datagram of process ``pid``, early ones included."""
        self._listeners[pid] = listener
        early, self._early = self._early, deque(maxlen=_EARLY)
        for sender, fields in early:
            if sender == pid:
                listener(fields)
            else:
                self._early.append((sender, fields))

    def forget(self, pid: int) -> None:
        """Stop listening to a process; first reads what it said before it ended."""
        self._read()
        self._listeners.pop(pid, None)

    def _read(self) -> None:
        for _ in range(_AT_ONCE):  # bounded: whoever floods the socket must not keep the event loop
            try:
                data, ancillary, _, _ = self._socket.recvmsg(8192, socket.CMSG_SPACE(CREDENTIALS.size))
            except OSError:  # nothing left
                return
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                    with contextlib.suppress(struct.error):
                        pid, user, _ = CREDENTIALS.unpack(payload[: CREDENTIALS.size])
                        if user == os.geteuid():
                            self._deliver(pid, notify.parse(data))

    def _deliver(self, pid: int, fields: dict[str, str]) -> None:
        if listener := self._listeners.get(pid):
            listener(fields)
        else:
            self._early.append((pid, fields))
