"""Collateral is renewed before anybody needs it, and told of before it expires."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta

from sealserve.errors import SealserveError
from sealserve.evidence import AppraisalPolicy
from sealserve.logs import event, get_logger

LONGEST_PAUSE = 3600.0
SHORTEST_PAUSE = 60.0
_WARN_BEFORE = timedelta(days=3)

_log = get_logger(__name__)


async def keep_collateral_fresh(policies: Callable[[], Collection[AppraisalPolicy]]) -> None:
    """Renew the collateral of services that is due, every hour and more often before it expires, until cancelled.

    Services are asked in a thread: the event loop waits for none of them.

    :param policies: those that are in use now; may raise if the store cannot be trusted.
    """
    while True:
        pause = LONGEST_PAUSE
        try:
            in_use = policies()
            await asyncio.to_thread(_renew, in_use)
            pause = pause_until(datetime.now(UTC), in_use)
        except SealserveError as error:
            _log.debug("no collateral is renewed: %s", error)
        except Exception:  # noqa: BLE001 - a defect here must not end what keeps replicas served
            _log.exception("collateral-renewal-failed")
        await asyncio.sleep(pause)


def pause_until(now: datetime, policies: Collection[AppraisalPolicy]) -> float:
    """Seconds until the next look: an eighth of what is left of the validity, within limits."""
    left = [
        (status.expires - now).total_seconds() / 8
        for policy in policies
        for status in policy.collateral_status()
        if status.expires is not None
    ]
    return max(SHORTEST_PAUSE, min(LONGEST_PAUSE, *left)) if left else LONGEST_PAUSE


def _renew(policies: Collection[AppraisalPolicy]) -> None:
    for policy in policies:
        policy.refresh_collateral()
    now = datetime.now(UTC)
    for policy in policies:
        for source, expires in policy.collateral_expiry().items():
            if expires is None or expires - now < _WARN_BEFORE:
                bad = expires is None or expires <= now
                event(
                    _log,
                    logging.ERROR if bad else logging.WARNING,
                    "collateral-unusable" if bad else "collateral-expires",
                    policy=policy.name,
                    source=source,
                    expires=expires,
                    hint="Evidence is judged with it: renew the file, or see why the service gives no newer one.",
                )
