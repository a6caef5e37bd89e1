"""Trouble of the broker's own, because of which it cannot decide. It is told loudly, and without filling the log."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

from sealserve.errors import SealserveError
from sealserve.logs import event, get_logger

SECONDS_EACH = 10.0

_log = get_logger(__name__)


class Troubles:
    """Tells each kind of trouble when it begins, and every ten seconds while it lasts.

    :param clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[str, float] = {}
        self._untold: Counter[str] = Counter()

    def tell(self, error: Exception, decision: str) -> None:
        """Log why a decision could not be made. A defect is logged with its trace."""
        kind = error.reason if isinstance(error, SealserveError) else type(error).__name__
        now = self._clock()
        if now < self._told.get(kind, now - SECONDS_EACH) + SECONDS_EACH:
            self._untold[kind] += 1
            return
        self._told[kind] = now
        untold = self._untold.pop(kind, 0)
        if isinstance(error, SealserveError):
            event(
                _log,
                logging.ERROR,
                "cannot-decide",
                reason=kind,
                detail=error.message,
                hint=error.hint,
                decision=decision,
                more_since=untold,
            )
        else:
            fields = {"decision": decision, "more_since": untold}
            _log.error("decision-failed", exc_info=error, extra={"fields": fields})
