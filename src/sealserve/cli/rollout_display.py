"""What happens in a cluster as people see it: lines that change on a terminal, a line for each change in a pipe."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from sealserve.cli.failures import say
from sealserve.cli.kubernetes_display import is_told_before, replica_line
from sealserve.logs import printable

if TYPE_CHECKING:
    from sealserve.kubernetes.live.applying import Change, Told
    from sealserve.kubernetes.live.replica_state import ReplicaState
    from sealserve.kubernetes.live.rollout import Snapshot

_COLOURS = {"serving": "green", "refused": "red", "failed": "red", "image-unavailable": "red", "leaving": "dim"}
_MOST_LINES = 40


class Account:
    """What happened, for people while it happens and for scripts at the end."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self.changes: list[dict[str, str]] = []
        self.warnings: list[str] = []

    def change(self, change: Change) -> None:
        self.changes.append(vars(change))
        if not self._as_json:
            click.echo(printable(f"{change.kind} {change.name} {change.what}"))

    def warning(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)
            say("warning", "yellow", text)

    @property
    def told(self) -> Told:
        from sealserve.kubernetes.live.applying import Told

        return Told(self.change, self.warning)


def rollout_line(each: ReplicaState, snapshot: Snapshot) -> str:
    """A replica in one line, and whether it is as it was before the rollout."""
    old = each.state == "serving" and snapshot.templates and not snapshot.is_current(each)
    return replica_line(each, note=", as it was before" if old else "", told=is_told_before(each, snapshot.replicas))


@contextlib.contextmanager
def rollout_display(*, quiet: bool) -> Iterator[Callable[[Snapshot], None]]:
    """A callback for each look at the rollout. It starts no thread."""
    if quiet:
        yield lambda _: None
    elif sys.stderr.isatty():
        with _live() as show:
            yield show
    else:
        yield _ByLine().show


class _ByLine:
    """Tells what is different from the last time."""

    def __init__(self) -> None:
        self._told: dict[str, str] = {}

    def show(self, snapshot: Snapshot) -> None:
        now = {each.pod: rollout_line(each, snapshot) for each in snapshot.replicas}
        now["edge"] = "edge  ready" if snapshot.edge.ready else f"edge  {printable(snapshot.edge.reason or '')}"
        if snapshot.advice is not None:
            now["advice"] = printable(snapshot.advice)
        for key, line in now.items():
            if self._told.get(key) != line:
                click.echo(line)
        for key in self._told.keys() - now.keys() - {"advice"}:
            click.echo(printable(f"{key}  gone"))
        self._told = {key: line for key, line in self._told.items() if key == "advice"} | now


@contextlib.contextmanager
def _live() -> Iterator[Callable[[Snapshot], None]]:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True, highlight=False)

    def lines(snapshot: Snapshot) -> Text:
        room = max(3, min(_MOST_LINES, shutil.get_terminal_size().lines - 4))
        text = Text(overflow="ellipsis", no_wrap=True)
        text.append(f"{snapshot.serving} of {snapshot.wanted} replicas attested, serving\n", "bold")
        # Those that need looking at first; many that serve are told by their number.
        shown = sorted(snapshot.replicas, key=lambda each: each.state == "serving")[:room]
        for each in shown:
            text.append(f"  {rollout_line(each, snapshot)}\n", _COLOURS.get(str(each.state), ""))
        if more := len(snapshot.replicas) - len(shown):
            text.append(f"  and {more} more\n")
        text.append(f"  edge  {'ready' if snapshot.edge.ready else printable(snapshot.edge.reason or '')}")
        if snapshot.advice is not None:
            text.append(f"\n  {printable(snapshot.advice)}")
        return text

    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield lambda snapshot: live.update(lines(snapshot), refresh=True)
