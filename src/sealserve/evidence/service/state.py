"""What is known of the collateral for one kind of platform."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sealserve.errors import SealserveError
from sealserve.evidence.quote import Quote
from sealserve.evidence.service.cache import Stored
from sealserve.evidence.service.platforms import PlatformKey

_LEFT = 4  # renewed when less than this part of the validity is left: a quarter


@dataclass(frozen=True)
class PlatformStatus:
    """How the collateral for one kind of platform is.

    :param fmspc: in hexadecimal. :param fetched_at: none if there is no collateral. :param expires: when its first
        part does. :param fetches: successful ones of this process. :param failures: of this process.
    :param last_error: why the last attempt failed; none if it did not.
    """

    tee: str
    fmspc: str
    ca: str
    service: str
    fetched_at: datetime | None
    expires: datetime | None
    evaluation_data_number: int | None
    fetches: int
    failures: int
    last_error: str | None

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready form, times in RFC 3339."""
        return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in vars(self).items()}


@dataclass(frozen=True)
class Entry:
    """Collateral in use.

    :param usable: the time when all of its parts are valid.
    """

    stored: Stored
    usable: tuple[datetime, datetime]

    @classmethod
    def of(cls, stored: Stored) -> Entry:
        """With what has to be known of it computed once."""
        validities = list(stored.collateral.validities())
        return cls(stored, (max(v.not_before for v in validities), min(v.not_after for v in validities)))

    def valid(self, now: datetime) -> bool:
        """Whether all of it is valid."""
        return self.usable[0] <= now <= self.usable[1]

    def due(self, now: datetime, refresh_after: timedelta) -> bool:
        """Whether it should be renewed."""
        issued = self.stored.collateral.tcb_info.validity.not_before
        age = now - self.stored.fetched_at
        little_left = (self.usable[1] - now) * _LEFT < self.usable[1] - issued
        return age >= refresh_after or age < timedelta(0) or little_left


@dataclass
class Platform:
    """What is known of one kind of platform.

    :param quote: one that asked for it. :param flight: the attempt to fetch that is under way, and since when.
    :param not_before: no attempt before this time (``time.monotonic``).
    """

    key: PlatformKey
    quote: Quote
    entry: Entry | None = None
    flight: tuple[Future[Entry], float] | None = None
    failure: SealserveError | None = None
    failed_at: float = 0.0
    pause: float = 0.0
    fetches: int = 0
    failures: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def status(self, service: str) -> PlatformStatus:
        """For people and metrics.

        :param service: the service's name.
        """
        with self.lock:
            entry = self.entry
            return PlatformStatus(
                tee=self.key.tee,
                fmspc=self.key.fmspc.hex(),
                ca=self.key.ca,
                service=service,
                fetched_at=entry.stored.fetched_at if entry else None,
                expires=entry.usable[1] if entry else None,
                evaluation_data_number=entry.stored.collateral.tcb_info.evaluation_data_number if entry else None,
                fetches=self.fetches,
                failures=self.failures,
                last_error=self.failure.message if self.failure else None,
            )
