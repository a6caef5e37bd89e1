"""How much a server has to do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """Requests of one server.

    :ivar working: that wait for a thread or have one, now. :ivar most: how many of these there may be.
    :ivar refused: for which there was no place, since the server's start.
    """

    working: int
    most: int
    refused: int
