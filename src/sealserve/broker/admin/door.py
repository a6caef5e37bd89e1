"""The socket that administrators connect to: no more connections than it has room for, and none that stalls for ever.

Its connections take file descriptors of the process that serves enclaves, so they are limited before the TLS
handshake, where asyncio counts nothing.
"""

from __future__ import annotations

import socket
from typing import Any

_BACKLOG = 100


class Door(socket.socket):
    """A listening socket that closes at once what has no room.

    :param most: connections that may be open. :param stall_seconds: how long a peer may take none of what it was sent.
    """

    def __init__(self, address: tuple[Any, ...], family: int, *, most: int, stall_seconds: float) -> None:
        super().__init__(family, socket.SOCK_STREAM)
        self._most = most
        self._inside: list[socket.socket] = []
        try:
            self.setblocking(False)
            self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Connections inherit it. Without it, a peer that reads nothing keeps its place.
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(stall_seconds * 1000))
            self.bind(address)
            self.listen(_BACKLOG)
        except OSError:
            self.close()
            raise

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection that there is room for.

        :raises BlockingIOError: there is none.
        """
        while True:
            connection, peer = super().accept()
            self._inside = [known for known in self._inside if known.fileno() >= 0]
            if len(self._inside) < self._most:
                self._inside.append(connection)
                return connection, peer
            connection.close()
