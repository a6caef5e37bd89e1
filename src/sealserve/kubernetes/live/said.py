"""What a replica said last, from its log or from what kubelet kept of it when it ended.

Replicas log JSON lines, and end with one that has ``error``. Whoever runs the node could write these lines as well:
they are for people, and nothing is decided by them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, Literal

_LONGEST = 500  # characters

_REFUSALS: Final = frozenset({"grant-refused", "grant-withdrawn", "broker-refused"})
_SAYS: Final[dict[str, tuple[Literal["waiting", "refused", "loading"], str]]] = {
    "broker-failed": ("waiting", ""),
    "waiting-for-broker": ("waiting", ""),
    "grant-refused": ("refused", ""),
    "key-granted": ("loading", "attested; the model is being loaded"),
    "model-served": ("loading", "attested; the model is loaded"),
    "replica-ready": ("loading", "attested; the model is loaded"),
}


@dataclass(frozen=True)
class Said:
    """What a log's end comes to.

    :ivar doing: ``waiting`` for a broker, ``refused`` by one, ``loading`` the model that was granted, or ``ended``.
    :ivar reason: of it, in words.
    """

    doing: Literal["waiting", "refused", "loading", "ended"]
    reason: str


def last_said(log: str, *, ended: bool = False) -> Said | None:
    """What the last telling line of a log says; None if there is none.

    :param ended: whether the process is gone: then its last line counts, in words of whatever kind.
    """
    lines = [line for line in log.splitlines() if line.strip()]
    for line in reversed(lines):
        if (said := _line(line)) is not None:
            return said
    return Said("ended", lines[-1].strip()[:_LONGEST]) if ended and lines else None


def served_model(log: str) -> tuple[str, int] | None:
    """Name and version of the model that a log last says is served."""
    for line in reversed(log.splitlines()):
        entry = _entry(line)
        if entry.get("event") == "model-served":
            name, version = entry.get("model"), entry.get("version")
            return (name, version) if isinstance(name, str) and isinstance(version, int) else None
    return None


def _line(line: str) -> Said | None:
    entry = _entry(line)
    if "error" in entry and "event" not in entry:
        refused = entry.get("reason") in _REFUSALS
        return Said("refused" if refused else "ended", str(entry["error"])[:_LONGEST])
    found = _SAYS.get(str(entry.get("event")))
    if found is None:
        return None
    doing, words = found
    return Said(doing, (words or str(entry.get("reason", "")))[:_LONGEST])


def _entry(line: str) -> dict[str, Any]:
    if not line.lstrip().startswith("{"):
        return {}
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}
