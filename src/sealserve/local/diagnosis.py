"""Why a process ended: from its exit code and the last lines that it wrote."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from sealserve.errors import InputError, MachineError, SealserveError, TrustError, UnavailableError

# Exit codes of our own programs (sealserve.errors) that starting again does not mend.
PERMANENT = {2, 3, 4, 6}

_BY_CODE: dict[int, type[SealserveError]] = {3: InputError, 4: TrustError, 5: UnavailableError, 6: MachineError}


@dataclass(frozen=True)
class Diagnosis:
    """``reason`` is half a sentence for people; ``exit_code`` is negative for a signal, as in :mod:`subprocess`."""

    reason: str
    hint: str | None
    exit_code: int

    @property
    def permanent(self) -> bool:
        """Whether starting the process again would end the same way."""
        return self.exit_code in PERMANENT

    def as_error(self, name: str, log: str) -> SealserveError:
        """The error of a start-up that failed because of process ``name``; it keeps the cause's exit code."""
        kind = _BY_CODE.get(self.exit_code, MachineError)
        return kind(f"{name} did not start: {self.reason}", hint=self.hint or f"Its log is {log}.")


def diagnose(exit_code: int, lines: Sequence[str]) -> Diagnosis:
    """Explain an end.

    :param lines: the last lines of the process's log, oldest first.
    """
    said, hint = _last_error(lines)
    if exit_code < 0:
        name = signal.Signals(-exit_code).name if -exit_code in set(signal.Signals) else f"signal {-exit_code}"
        if -exit_code == signal.SIGKILL:
            hint = "If nobody killed it, the machine may be out of memory: see `dmesg`."
        return Diagnosis(f"killed by {name}", hint, exit_code)
    if said is None:
        said = "it ended without being asked to" if exit_code == 0 else f"exit code {exit_code}"
        last = next((line.strip() for line in reversed(lines) if line.strip()), None)
        if last:
            said += f"; its last line: {last[:500]}"
    return Diagnosis(said, hint, exit_code)


def _last_error(lines: Sequence[str]) -> tuple[str | None, str | None]:
    """Message and hint of the last error in a log: ours as JSON or text, nginx's, or Python's."""
    for index in range(len(lines) - 1, -1, -1):
        line = lines[index]
        if line.startswith("{"):
            entry = _json_object(line)
            message, hint = entry.get("error"), entry.get("hint")
            if isinstance(message, str) and "reason" in entry:
                return message, hint if isinstance(hint, str) else None
        elif line.startswith("error: "):
            following = lines[index + 1] if index + 1 < len(lines) else ""
            return line.removeprefix("error: "), following.strip() if following.startswith("  ") else None
        elif match := re.search(r"\[(?:emerg|alert)\] (?:\d+#\d+: )?(?!\d+#|still could not bind)(.*)", line):
            return match[1], None
        elif re.match(r"[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)\b", line):
            return line, "This is a defect in sealserve; the log has the details."
    return None, None


def find_complaint(lines: Sequence[str]) -> tuple[str, str | None] | None:
    """Message and hint of the last error that a broker itself logged; None if there is none."""
    for line in reversed(lines):
        entry = _json_object(line) if line.startswith("{") else {}
        if entry.get("level") == "error" and str(entry.get("logger")).startswith("sealserve.broker."):
            exception, hint = str(entry.get("exception", "")).strip(), entry.get("hint")
            said = entry.get("reason") or exception.rpartition("\n")[2] or entry.get("event")
            return str(said), hint if isinstance(hint, str) else None
    return None


def _json_object(line: str) -> dict[str, object]:
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}
