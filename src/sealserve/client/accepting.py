"""Accepts connections of local programs, for as long as a proxy lives."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from typing import NoReturn

from sealserve.errors import MachineError

_PASSING = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED, errno.EPROTO, errno.EPERM}
)
_PAUSE = 0.05  # seconds, where the system has no more sockets for us


async def accept_all(listening: socket.socket, take: Callable[[socket.socket], Awaitable[bool]]) -> NoReturn:
    """Serve one listening socket until it is cancelled, or fails.

    :param take: is given each connection, of which nothing was read. What it does not keep is closed.
    :raises MachineError: the listening socket is of no use any more.
    """
    loop = asyncio.get_running_loop()
    while True:
        try:
            connection, _ = await loop.sock_accept(listening)
        except OSError as error:
            if error.errno not in _PASSING:
                raise MachineError("the proxy cannot take connections any more") from error
            await asyncio.sleep(_PAUSE)
            continue
        try:
            kept = await take(connection)
        except BaseException:
            connection.close()
            raise
        if not kept:
            connection.close()
        await asyncio.sleep(0)  # whoever connects without end must not keep the loop from all else
