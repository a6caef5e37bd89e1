"""Collateral from a service, kept in memory and on disk, and renewed before it is needed.

A verification waits for the service only when there is nothing valid for its kind of platform. What is valid is served
at once, and renewed in the background when it is a day old, or when little of its validity is left: revocations and
new attacks become known within a day, and a service that is down for weeks stops nobody. What has expired is refused.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta

from sealserve.errors import EvidenceError, SealserveError
from sealserve.evidence import chain_checks
from sealserve.evidence.collateral import Collateral
from sealserve.evidence.collateral_checks import check_signatures, older_parts
from sealserve.evidence.errors import (
    CollateralError,
    CollateralExpiredError,
    CollateralMismatchError,
    CollateralRollbackError,
    CollateralServiceError,
    CollateralUnusableError,
)
from sealserve.evidence.quote import Quote, parse_quote
from sealserve.evidence.roots import TrustRoot
from sealserve.evidence.service.addresses import Service
from sealserve.evidence.service.cache import CollateralCache, Stored
from sealserve.evidence.service.http import HttpClient
from sealserve.evidence.service.platforms import PlatformKey, check_issued
from sealserve.evidence.service.protocol import fetch
from sealserve.evidence.service.state import Entry, Platform, PlatformStatus
from sealserve.logs import event, get_logger

DEFAULT_TIMEOUT = 15.0
"""Seconds that fetching may take, and that a verification waits for it at most."""

DEFAULT_REFRESH_AFTER = timedelta(hours=24)

_GRACE = 0.5  # seconds more to wait for the reason of a failure than the attempt may take
_PAUSE_NEEDED = 5.0  # seconds without a new attempt after a failure, where verifications wait for it
_PAUSE_FIRST, _PAUSE_LONGEST = 60.0, 3600.0  # the same for renewals, which nobody waits for

_log = get_logger(__name__)


class ServiceCollateral:
    """A source of collateral behind which stand a service, memory, and a directory. Safe for several threads.

    :param service: where it comes from. :param root: whose platforms are believed; what others signed is not kept.
    :param http: how the service is reached. :param cache: the directory; without one, only memory.
    :param timeout: seconds that fetching may take. :param refresh_after: the age at which it is renewed.
    :param clock: seconds since 1970.
    """

    def __init__(
        self,
        service: Service,
        *,
        root: TrustRoot,
        http: HttpClient,
        cache: CollateralCache | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        refresh_after: timedelta = DEFAULT_REFRESH_AFTER,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.service = service
        self._root = root
        self._http = http
        self._cache = cache
        self._timeout = timeout
        self._refresh_after = refresh_after
        self._clock = clock
        self._platforms: dict[PlatformKey, Platform] = {}
        self._lock = threading.Lock()

    def collateral(self, quote: bytes) -> Collateral:
        """The collateral for the platform that made ``quote``; waits for the service only if there is none.

        :raises CollateralExpiredError: what there is has expired, and the service gives no other.
        :raises CollateralServiceError: there is none, and the service does not give it.
        :raises EvidenceError: the quote is malformed, or its certificates are not of the trusted root.
        """
        parsed = parse_quote(quote)
        platform = self._platform(parsed)
        with platform.lock:
            entry = self._valid_entry(platform)
            if entry is not None:
                if entry.due(self._now(), self._refresh_after) and self._may_try(platform, needed=False):
                    self._start(platform)
                return entry.stored.collateral
            if not self._may_try(platform, needed=True) and platform.failure is not None:
                raise self._refusal(platform, platform.failure)
            flight = self._start(platform)
        try:
            return flight.result(self._timeout + _GRACE).stored.collateral
        except TimeoutError:
            late = CollateralServiceError(f"{self.service.name} does not answer in time")
            raise self._refusal(platform, late) from None
        except SealserveError as error:
            raise self._refusal(platform, error) from error

    def would_block(self, quote: bytes) -> bool:
        """Whether :meth:`collateral` would wait for the service or the cache: for callers that must not wait.

        :raises EvidenceError: as :meth:`collateral`.
        """
        platform = self._platform(parse_quote(quote))
        if not platform.lock.acquire(blocking=False):
            return True  # somebody may be reading the cache, on a file system that hangs
        try:
            return platform.entry is None or not platform.entry.valid(self._now())
        finally:
            platform.lock.release()

    def refresh_due(self) -> int:
        """Renew, now and here, what is due; for a process that is rarely asked. Failures are in :meth:`status`.

        :returns: how many kinds of platforms were tried.
        """
        with self._lock:
            platforms = list(self._platforms.values())
        flights = []
        for platform in platforms:
            with platform.lock:
                entry = self._valid_entry(platform)
                due = entry is None or entry.due(self._now(), self._refresh_after)
                if due and self._may_try(platform, needed=False):
                    flights.append(self._start(platform))
        deadline = time.monotonic() + self._timeout
        for flight in flights:
            try:
                flight.result(max(0.0, deadline - time.monotonic()))
            except (SealserveError, TimeoutError):
                continue  # it is logged where it happened
        return len(flights)

    def status(self) -> tuple[PlatformStatus, ...]:
        """How the collateral for each kind of platform is that somebody asked for."""
        with self._lock:
            platforms = list(self._platforms.values())
        return tuple(platform.status(self.service.name) for platform in platforms)

    def close(self) -> None:
        """Close idle connections to the service."""
        self._http.close()

    # --- one kind of platform -----------------------------------------------------------------------------------

    def _platform(self, parsed: Quote) -> Platform:
        key = PlatformKey.of(parsed)
        with self._lock:
            platform = self._platforms.get(key)
        if platform is None:
            # A stranger's quote makes nobody ask the service, before its certificates are those of a real machine.
            chain_checks.check_quote_root(parsed.chain, self._root)
            check_issued(parsed.chain)
            with self._lock:
                platform = self._platforms.setdefault(key, Platform(key, parsed))
        return platform

    def _valid_entry(self, platform: Platform) -> Entry | None:
        """What is valid now: in memory, else on disk."""
        now = self._now()
        if platform.entry is None or not platform.entry.valid(now):
            platform.entry = self._newer(platform.entry, self._stored(platform))
        return platform.entry if platform.entry is not None and platform.entry.valid(now) else None

    def _may_try(self, platform: Platform, *, needed: bool) -> bool:
        if platform.failure is None:
            return True
        pause = _PAUSE_NEEDED if needed else platform.pause
        return time.monotonic() >= platform.failed_at + pause

    def _start(self, platform: Platform) -> Future[Entry]:
        """Start fetching, if nobody does. The platform's lock is held."""
        if platform.flight is not None:
            flight, since = platform.flight
            # A service that sends its answer byte by byte, for ever, must not end all fetching.
            if not flight.done() and time.monotonic() < since + 2 * self._timeout:
                return flight
        flight = Future()
        platform.flight = (flight, time.monotonic())
        name = f"collateral-{platform.key}"
        threading.Thread(target=self._fly, args=(platform, flight), name=name, daemon=True).start()
        return flight

    def _fly(self, platform: Platform, flight: Future[Entry]) -> None:
        """Fetch, in a thread of its own, and tell those who wait."""
        try:
            entry = self._renew(platform)
        except SealserveError as error:
            self._note_failure(platform, error)
            flight.set_exception(error)
        except BaseException as error:  # noqa: BLE001 - those who wait must hear of it
            unexpected = CollateralServiceError(f"fetching the collateral failed ({type(error).__name__})")
            _log.error("collateral-fetch-broken", exc_info=error)
            self._note_failure(platform, unexpected)
            flight.set_exception(unexpected)
        else:
            with platform.lock:
                if platform.entry is not None and platform.entry.valid(self._now()):
                    entry = self._newer(platform.entry, entry) or entry
                platform.entry, platform.failure, platform.pause = entry, None, 0.0
                platform.fetches += 1
            flight.set_result(entry)

    def _renew(self, platform: Platform) -> Entry:
        deadline = time.monotonic() + self._timeout
        if self._cache is None:
            return self._fetch(platform, platform.entry, deadline)
        with self._cache.locked(self._file_name(platform.key), deadline=deadline):
            # Another process may have been quicker.
            known = self._newer(platform.entry, self._stored(platform))
            now = self._now()
            fetched_by_others = known is not None and known is not platform.entry and known.valid(now)
            if known is not None and fetched_by_others and not known.due(now, self._refresh_after):
                return known
            entry = self._fetch(platform, known, deadline)
            self._cache.write(self._file_name(platform.key), entry.stored)
            return entry

    def _fetch(self, platform: Platform, known: Entry | None, deadline: float) -> Entry:
        """Fetch from the service, and check it before it takes the place of what is known."""
        collateral = fetch(self._http, self.service, platform.key, deadline=deadline)
        now = self._now()
        self._check(platform.quote, collateral)
        chain_checks.check_dates(collateral.validities(), now)
        if known is not None and (older := older_parts(collateral, known.stored.collateral)):
            if known.valid(now):
                raise CollateralRollbackError(
                    f"{self.service.name} gives collateral that is older than what is known: {'; '.join(older)}",
                    hint="What is known stays in use until it expires. Ask whoever runs the service.",
                )
            event(_log, logging.WARNING, "collateral-went-backwards", platform=str(platform.key), parts=older)
        entry = Entry.of(Stored(collateral, now))
        event(
            _log,
            logging.INFO,
            "collateral-fetched",
            platform=str(platform.key),
            service=self.service.name,
            expires=entry.usable[1],
            evaluation_data_number=collateral.tcb_info.evaluation_data_number,
        )
        return entry

    def _check(self, quote: Quote, collateral: Collateral) -> None:
        chain_checks.check_collateral_root(collateral, self._root)
        chain_checks.check_kind(quote, collateral)
        check_signatures(collateral)

    def _stored(self, platform: Platform) -> Entry | None:
        """What is on disk, if it is whole and for this platform."""
        if self._cache is None:
            return None
        name = self._file_name(platform.key)
        stored = self._cache.read(name)
        if stored is None:
            return None
        try:
            self._check(platform.quote, stored.collateral)
        except EvidenceError as error:
            self._cache.ignore(name, error)
            return None
        return Entry.of(stored)

    @staticmethod
    def _newer(first: Entry | None, second: Entry | None) -> Entry | None:
        """The one that is not older in any part; the first if that says nothing."""
        if first is None or second is None:
            return first or second
        return first if older_parts(second.stored.collateral, first.stored.collateral) else second

    def _file_name(self, key: PlatformKey) -> str:
        return f"{key}-{self._root.fingerprint.hex()[:8]}"

    def _note_failure(self, platform: Platform, error: SealserveError) -> None:
        with platform.lock:
            platform.failures += 1
            platform.failure, platform.failed_at = error, time.monotonic()
            platform.pause = min(_PAUSE_LONGEST, max(_PAUSE_FIRST, 2 * platform.pause))
            expires = platform.entry.usable[1] if platform.entry is not None else None
        event(
            _log,
            logging.WARNING,
            "collateral-rollback-refused" if isinstance(error, CollateralRollbackError) else "collateral-not-fetched",
            platform=str(platform.key),
            service=self.service.name,
            reason=error,
            valid_until=expires,
        )

    def _refusal(self, platform: Platform, error: SealserveError) -> SealserveError:
        """The error for a verification that gets no collateral."""
        entry = platform.entry
        if entry is not None and entry.usable[1] < self._now():
            return CollateralExpiredError(
                f"the collateral for this platform expired at {entry.usable[1]:%Y-%m-%d %H:%M:%S} UTC, "
                "and there is no other",
                hint=f"Fetching it from {self.service.name} failed: {error.message}",
            )
        if isinstance(error, CollateralServiceError):
            return CollateralServiceError(
                f"there is no collateral for this platform, and fetching it failed: {error.message}",
                hint=error.hint or "Check the policy's `collateral`, the network, and the proxy.",
            )
        # What does not fit the quote, or has a wrong signature, is the service's fault and no verdict on the quote.
        verdict = not isinstance(error, CollateralError) or isinstance(error, CollateralMismatchError)
        kind = CollateralUnusableError if verdict else type(error)
        return kind(f"{self.service.name} gives unusable collateral: {error.message}", hint=error.hint)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)
