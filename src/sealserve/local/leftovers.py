"""Ending what a cluster left behind whose supervisor is gone.

The kernel ends almost everything with the supervisor. What can remain is a grandchild whose parent was killed in the
same moment, such as an nginx worker.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from sealserve.local.layout import Layout
from sealserve.local.proc import ProcessFacts, all_processes, boot_id, facts_of, is_alive
from sealserve.local.state import ClusterState, read_state, remove_state

_PATIENCE = 5.0


def find_leftovers(layout: Layout, state: ClusterState) -> list[ProcessFacts]:
    """The processes of a cluster that still run."""
    return list(_leftovers(layout, state))


def _leftovers(layout: Layout, state: ClusterState) -> Iterator[ProcessFacts]:
    if state.boot != boot_id():
        return
    sessions = {process.pid: process.started_ticks for process in state.processes if process.pid is not None}
    for facts in all_processes():
        if facts.session not in sessions or facts.state in "ZX":
            continue
        leader = facts_of(facts.session)
        if leader is not None and leader.started != sessions[facts.session]:
            continue  # the number belongs to somebody else by now
        if _works_below(facts.pid, layout.root) or (facts.pid == facts.session and leader is not None):
            yield facts


def _works_below(pid: int, root: Path) -> bool:
    with contextlib.suppress(OSError):
        return Path(os.readlink(f"/proc/{pid}/cwd")).is_relative_to(root)  # noqa: PTH115 - a magic link, not a path
    return False


def end_leftovers(layout: Layout) -> list[int]:
    """Kill what is left of a cluster whose lock is free, and forget its state.

    :returns: the process numbers that were killed.
    """
    state = read_state(layout)
    killed: list[int] = []
    if state is not None:
        deadline = time.monotonic() + _PATIENCE
        while (found := find_leftovers(layout, state)) and time.monotonic() < deadline:
            for facts in found:
                if is_alive(facts.pid, facts.started):
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(facts.pid, signal.SIGKILL)
                    killed.append(facts.pid)
            time.sleep(0.02)
    remove_state(layout)
    empty_directory(layout.temporary)
    return sorted(set(killed))


def remove_partials(layout: Layout) -> None:
    """Remove what a command was writing when it was killed. The working directory must be locked by the caller."""
    for directory in (layout.root, layout.owner, layout.platform, layout.nginx, layout.client):
        for path in directory.glob(".*.partial"):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def empty_directory(directory: Path) -> None:
    """Remove everything in a directory, as far as it can be removed."""
    with contextlib.suppress(OSError):
        for entry in directory.iterdir():
            _remove(entry)
