"""Whether the broker can do its work now. This is told without authentication: causes, and no details."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sealserve.broker.grants import LiveGrants
from sealserve.broker.store import Store
from sealserve.broker.tally import Counts
from sealserve.errors import SealserveError
from sealserve.evidence import AppraisalPolicy

_SECONDS = 1.0


class Health:
    """Readiness, looked at once a second at most. Safe for several threads."""

    def __init__(self, store: Store, grants: LiveGrants, counts: Callable[[], Counts]) -> None:
        self._store = store
        self._grants = grants
        self._counts = counts
        self._lock = threading.Lock()
        self._known: tuple[float, dict[str, Any]] | None = None

    def ready(self) -> dict[str, Any]:
        """``ready``, and for each of the ``checks`` either ``ok`` or what is wrong."""
        with self._lock:
            if self._known is None or time.monotonic() - self._known[0] > _SECONDS:
                checks = {"store": self._store_check(), "audit": self._audit_check(), "collateral": self._collateral()}
                ready = all(found == "ok" for found in checks.values())
                self._known = (time.monotonic(), {"ready": ready, "checks": checks})
            return self._known[1]

    def _store_check(self) -> str:
        try:
            self._grants.current()
            self._store.mark()
        except SealserveError as error:
            return (error.__cause__.reason if isinstance(error.__cause__, SealserveError) else None) or error.reason
        return "ok"

    def _audit_check(self) -> str:
        try:
            self._store.probe_audit()
        except SealserveError as error:
            return error.reason
        return self._counts().statistics.audit_failure or "ok"

    def _collateral(self) -> str:
        """Policies that accept nobody any more, because all collateral that they hold has expired."""
        try:
            grants = self._grants.current()
        except SealserveError:
            return "ok"  # the store is what is wrong
        expired = sum(_all_expired(grant.policy) for grant in grants.values())
        return f"expired for {expired} of {len(grants)} deployments" if expired else "ok"


def _all_expired(policy: AppraisalPolicy) -> bool:
    expiries = [moment for moment in policy.collateral_expiry().values() if moment is not None]
    return bool(expiries) and all(moment < datetime.now(UTC) for moment in expiries)
