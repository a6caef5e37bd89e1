"""The fleet: the enclaves that got keys lately. The audit chain tells it, so every broker of a store is counted.

Every replica makes a TLS key of its own when it starts, so the digest of that key tells replicas apart. A replica that
was started again is another one here; the old one is not *current* any more when it does not ask again in time.
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sealserve.broker.store import Store
from sealserve.broker.store.documents import StoredGrant

_FIRST_LOOK = 5000
_ENCLAVES = 5000
MINUTES = 60
_SHOWN = ("tee", "mrenclave", "mrsigner", "isv_svn", "debug", "tcb_status", "advisory_ids", "ppid", "fmspc")
_SLACK = 60.0
_REFRESH = 300


class Fleet:
    """Follows the audit chain. Safe for several threads.

    After a start it looks at the last 5000 records, and it remembers the 5000 enclaves that asked last.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._after: int | None = None
        self._enclaves: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._minutes: dict[int, list[int]] = {}

    def update(self) -> int:
        """Take over what was recorded since; the number of the last record looked at."""
        with self._lock:
            if self._after is None:
                self._after = max(0, self._store.audit_head()[0] - _FIRST_LOOK)
            with self._store.audit_lines(after=self._after, limit=50_000) as lines:
                for line in lines:
                    record = json.loads(line)
                    self._take(record)
                    self._after = record["sequence"]
            oldest = int(time.time() // 60) - MINUTES
            self._minutes = {minute: counts for minute, counts in self._minutes.items() if minute > oldest}
            return self._after or 0

    def enclaves(self, grants: Mapping[str, StoredGrant]) -> list[dict[str, Any]]:
        """The enclaves that were granted something, the latest first.

        :param grants: how often each deployment's replicas ask again; ``current`` are those that are not overdue.
        """
        now = datetime.now(UTC)
        with self._lock:
            found = [dict(enclave) for enclave in reversed(self._enclaves.values())]
        for enclave in found:
            grant = grants.get(enclave["deployment"])
            refresh = grant.document.refresh_seconds if grant else _REFRESH
            age = (now - datetime.fromisoformat(enclave["last_seen"])).total_seconds()
            enclave["current"] = grant is not None and age <= 2 * refresh + _SLACK
        return found

    def per_minute(self) -> list[dict[str, Any]]:
        """Decisions in each of the last 60 minutes, the oldest first."""
        this = int(time.time() // 60)
        with self._lock:
            return [
                {
                    "minute": datetime.fromtimestamp(60 * minute, UTC).isoformat(),
                    **dict(zip(("granted", "refused"), self._minutes.get(minute, (0, 0)), strict=True)),
                }
                for minute in range(this - MINUTES + 1, this + 1)
            ]

    def _take(self, record: dict[str, Any]) -> None:
        match record["event"]:
            case "decision":
                granted = record["outcome"] == "granted"
                self._count(record, 0 if granted else 1, 1)
                if granted and "key_sha256" in record and "evidence" in record:
                    self._remember(record)
            case "strangers":
                self._count(record, 1, int(record["refused"]))

    def _count(self, record: dict[str, Any], place: int, number: int) -> None:
        minute = int(datetime.fromisoformat(record["time"]).timestamp() // 60)
        self._minutes.setdefault(minute, [0, 0])[place] += number

    def _remember(self, record: dict[str, Any]) -> None:
        evidence = record["evidence"]
        known = self._enclaves.pop(record["key_sha256"], None)
        self._enclaves[record["key_sha256"]] = {
            "key_sha256": record["key_sha256"],
            "deployment": record["deployment"],
            "peer": record["peer"],
            "protocol": record["protocol"],
            "simulated": record["simulated"],
            **{name: evidence.get(name) for name in _SHOWN},
            "mrtd": (evidence.get("trust_domain") or {}).get("mrtd"),
            "collateral_expires": evidence.get("collateral_expires"),
            "keys": record["keys"],
            "model": record["model"],
            "first_seen": known["first_seen"] if known else record["time"],
            "last_seen": record["time"],
            "decision": record["decision"],
            "broker": record.get("broker"),
        }
        while len(self._enclaves) > _ENCLAVES:
            self._enclaves.popitem(last=False)
