"""The account of a cluster's life: JSON lines in ``supervisor.log``, and the same as text for people."""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sealserve.deploy import FILE_NAME
from sealserve.errors import describe_failure
from sealserve.local.events import Event, ProcessDied, ProcessReady, ProcessReported, ProcessStarted, ProcessStopped
from sealserve.local.rotation import RotatingLog

Entry = dict[str, Any]

FAILED = "cluster-failed"
"""The last entry of a cluster that ended with an error."""

_NAMES: dict[type, str] = {
    ProcessStarted: "process-started",
    ProcessReported: "process-reported",
    ProcessReady: "process-ready",
    ProcessDied: "process-died",
    ProcessStopped: "process-stopped",
}


class Account:
    """Writes entries to the log and hands each to ``show``."""

    def __init__(self, log: Path, show: Callable[[Entry], None]) -> None:
        self._log = RotatingLog(log)
        self._show = show
        self._started = time.monotonic()

    def tell(self, event: str, **fields: Any) -> None:
        """Add an entry: ``time`` (RFC 3339, UTC), ``event``, the fields."""
        self._show(self._log_entry(event, fields))

    def hear(self, event: Event) -> None:
        """Add what the supervisor tells."""
        self.tell(_NAMES[type(event)], **asdict(event))

    @contextlib.contextmanager
    def failures(self) -> Iterator[None]:
        """Log what ends the block with an error, and raise it on: whoever catches it shows it."""
        try:
            yield
        except BaseException as error:
            self._log_entry(FAILED, describe_failure(error))
            raise

    def _log_entry(self, event: str, fields: Mapping[str, Any]) -> Entry:
        entry: Entry = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **fields}
        self._log.write(json.dumps(entry).encode() + b"\n")
        return entry

    @property
    def seconds(self) -> float:
        """Since the account began."""
        return round(time.monotonic() - self._started, 3)


def as_text(entry: Entry) -> str | None:
    """The line or lines for people; None for what only a log needs."""
    match entry:
        case {"event": "step", "text": text, "seconds": seconds}:
            return f"  {'prepare':<10} {text:<44} {seconds:5.1f} s"
        case {"event": "process-ready", "name": name, "seconds": seconds, "attempt": attempt, "pid": pid}:
            what = "attested and serving" if name.startswith("replica-") else "ready"
            what += f"{' again' if attempt > 1 else ''}, process {pid}"
            return f"  {name:<10} {what:<44} {seconds:5.1f} s"
        case {"event": "process-died", "name": name, "reason": reason, "hint": hint, "restart_in": delay}:
            if delay is None:
                return None  # the error that follows says it all
            lines = [f"  {name:<10} died: {reason}"]
            if hint:
                lines.append(f"  {'':<10} {hint}")
            return "\n".join([*lines, f"  {'':<10} starting it again in {delay:.1f} s"])
        case {"event": "process-stopped", "name": name, "killed": killed}:
            return f"  {name:<10} {'killed: it did not stop in time' if killed else 'stopped'}"
        case {"event": "cluster-starting", "deployment": name, "directory": directory}:
            return f"{name}: everything it makes is in {directory}"
        case {"event": "cluster-ready"}:
            return _invitation(entry)
        case {"event": "cluster-stopping", "reason": reason}:
            return f"stopping ({reason})"
        case _:
            return None


def file_option(file: Path) -> str:
    """`` -f FILE`` for a command in a hint; empty where every command finds ``./deployment.yaml`` by itself."""
    return "" if file.absolute() == Path.cwd() / FILE_NAME else " " + shlex.join(["-f", str(file)])


def _invitation(entry: Entry) -> str:
    option = file_option(Path(entry["file"]))
    rest = f" (gRPC) and {entry['rest']} (REST over TLS)" if entry.get("rest") else ""
    tls = entry.get("tls", "attested")
    own = "" if tls == "attested" else f"TLS is {tls}, for the name {entry['server_name']}.\n"
    return (
        f"ready after {entry['seconds']:.1f} s on {entry['gateway']}{rest}. {own}From another terminal:\n"
        f"  sealserve verify{option}\n"
        f"  sealserve predict{option} --image PICTURE\n"
        f"  sealserve status{option}\n"
        "The platform is simulated: it shows every step and protects nothing from this machine."
    )
