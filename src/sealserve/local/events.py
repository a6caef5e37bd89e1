"""What happens to the processes of a cluster, as the supervisor tells it to whoever listens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class ProcessStarted:
    """A process was started; ``attempt`` counts from 1."""

    name: str
    pid: int
    attempt: int


@dataclass(frozen=True)
class ProcessReported:
    """A process said what it is doing (``STATUS=`` of sd_notify)."""

    name: str
    text: str


@dataclass(frozen=True)
class ProcessReady:
    """A process is ready to work, ``seconds`` after its start. A replica is attested by then."""

    name: str
    pid: int
    seconds: float
    attempt: int


@dataclass(frozen=True)
class ProcessDied:
    """A process ended without being asked to.

    ``restart_in`` is in seconds; None if it will not be started again.
    """

    name: str
    reason: str
    hint: str | None
    restart_in: float | None


@dataclass(frozen=True)
class ProcessStopped:
    """A process ended because it was asked to; ``killed`` if it did not within its time."""

    name: str
    killed: bool


Event = ProcessStarted | ProcessReported | ProcessReady | ProcessDied | ProcessStopped
Listener = Callable[[Event], None]
