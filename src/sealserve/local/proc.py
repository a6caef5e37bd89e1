"""What /proc tells about processes: whether one still is the one that was started, its session, its memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessFacts:
    """From ``/proc/PID/stat`` (proc(5)); ``started`` is in clock ticks since boot."""

    pid: int
    state: str
    group: int
    session: int
    started: int
    resident: int
    """Bytes in memory, shared pages included."""


def facts_of(pid: int) -> ProcessFacts | None:
    """Facts of a process, or None if there is none with this number."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in parentheses may hold spaces and parentheses itself.
    fields = text.rpartition(")")[2].split()
    return ProcessFacts(
        pid=pid,
        state=fields[0],
        group=int(fields[2]),
        session=int(fields[3]),
        started=int(fields[19]),
        resident=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
    )


def all_processes() -> Iterator[ProcessFacts]:
    """Every process that /proc shows."""
    for entry in os.listdir("/proc"):  # noqa: PTH208 - only the names are needed, and there are many
        if entry.isdecimal() and (facts := facts_of(int(entry))) is not None:
            yield facts


def is_alive(pid: int, started: int) -> bool:
    """Whether the process that had this number and start is still running (a zombie is not)."""
    facts = facts_of(pid)
    return facts is not None and facts.started == started and facts.state not in "ZX"


def resident_of_group(group: int) -> int:
    """Memory of a process and of what it started, in bytes; pages they share count more than once."""
    return sum(facts.resident for facts in all_processes() if facts.group == group)


def boot_id() -> str:
    """Changes with every boot; process numbers of another boot mean nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
