"""The socket that callers connect to: no more connections than it has room for.

Connections are counted before the TLS handshake, where asyncio counts nothing. A newcomer takes the place of a
connection that is idle, so that strangers who hold all places without using them do not keep others out.
"""

from __future__ import annotations

import contextlib
import random
import socket
import time
import weakref
from collections.abc import Container
from typing import Any

BACKLOG = 1024
"""Connections that may wait to be accepted."""
_AGE_SPREAD = 0.1  # connections that were made together do not come back together


class Door(socket.socket):
    """A listening socket that closes at once what has no room.

    :param most: connections that may be open.
    :param stall_seconds: how long a caller may take none of what it was sent.
    :param reuse_port: several sockets may have the port (SO_REUSEPORT).
    :param age: seconds, give or take a tenth, after which a connection is old; None for never.
    :raises OSError: the address cannot be had.
    """

    def __init__(
        self,
        address: tuple[Any, ...],
        family: int,
        *,
        most: int,
        stall_seconds: float,
        reuse_port: bool,
        age: float | None = None,
    ) -> None:
        super().__init__(family, socket.SOCK_STREAM)
        self._most = most
        # Those that were idle longest come first. Weak: what asyncio loses when it stops is closed by nobody else.
        self._inside = weakref.WeakValueDictionary[int, socket.socket]()
        self._busy: set[socket.socket] = set()
        self._age = age
        self._ends = weakref.WeakKeyDictionary[socket.socket, float]()
        try:
            self.setblocking(False)
            self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            # Connections inherit it. Without it, a peer that reads nothing keeps its place.
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(stall_seconds * 1000))
            self.bind(address)
            self.listen(BACKLOG)
        except OSError:
            self.close()
            raise

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection that there is room for.

        :raises BlockingIOError: there is none.
        """
        while True:
            connection, peer = super().accept()
            if len(self._inside) < self._most or self._make_room():
                self._move_to_end(connection)
                if self._age is not None:
                    spread = random.uniform(1 - _AGE_SPREAD, 1 + _AGE_SPREAD)  # noqa: S311 - keeps no secret
                    self._ends[connection] = time.monotonic() + self._age * spread
                return connection, peer
            connection.close()

    def is_old(self, number: int) -> bool:
        """Whether the connection with that file descriptor should end with its next answer."""
        connection = self._inside.get(number)
        return connection is not None and time.monotonic() >= self._ends.get(connection, float("inf"))

    def begin(self, number: int) -> socket.socket | None:
        """A request begins on the connection with that file descriptor. To be given to :meth:`end`."""
        connection = self._inside.get(number)
        if connection is not None:
            self._busy.add(connection)
            self._move_to_end(connection)
        return connection

    def end(self, connection: socket.socket | None) -> None:
        """The request has ended."""
        if connection is not None:
            self._busy.discard(connection)
            if connection.fileno() >= 0:
                self._move_to_end(connection)

    def end_others(self, numbers: Container[int]) -> None:
        """End connections other than those with these file descriptors: asyncio loses some when it stops to listen."""
        for number, connection in list(self._inside.items()):
            if number not in numbers:
                _end(connection)

    def _move_to_end(self, connection: socket.socket) -> None:
        self._inside.pop(connection.fileno(), None)
        self._inside[connection.fileno()] = connection

    def _make_room(self) -> bool:
        for number, connection in self._inside.items():
            if connection not in self._busy:
                if connection.fileno() >= 0:
                    _end(connection)
                del self._inside[number]
                return True
        return False


def _end(connection: socket.socket) -> None:
    # asyncio sees the end of the connection and closes it: nobody else may.
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
