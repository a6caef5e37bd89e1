"""What happens in a cluster as people see it: lines that change on a terminal, a line for each change in a pipe."""

from __future__ import annotations

import contextlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from sealserve.cli.failures import say
from sealserve.cli.kubernetes_display import from_before, is_told_before, replica_line
from sealserve.logs import printable

if TYPE_CHECKING:
    from sealserve.kubernetes.live.applying import Change, Told
    from sealserve.kubernetes.live.replica_state import ReplicaState
    from sealserve.kubernetes.live.rollout import Snapshot

_COLOURS = {"serving": "green", "refused": "red", "failed": "red", "image-unavailable": "red", "leaving": "dim"}
_MOST_LINES = 40
_MOST_FOLDS = 4
_LEAST_WIDTH = 40


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


def rollout_lines(snapshot: Snapshot) -> list[tuple[ReplicaState, str]]:
    """Each replica in one line: new ones first, and of these first what needs looking at; then those from before."""
    from sealserve.kubernetes.live.templates import newest_first

    replicas = newest_first(snapshot.replicas, snapshot.templates)
    return [
        (each, replica_line(each, old=snapshot.is_old(each), told=is_told_before(each, replicas))) for each in replicas
    ]


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
        from sealserve.kubernetes.live.templates import all_known

        if not all_known(snapshot.templates):
            return  # in a moment the cluster says which replicas are old
        now = {each.pod: line for each, line in rollout_lines(snapshot)}
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
        text = Text(overflow="ellipsis", no_wrap=True)
        for line, style in _view(snapshot, width=console.width, height=console.height):
            text.append(f"{line}\n", style)
        text.right_crop(1)
        return text

    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield lambda snapshot: live.update(lines(snapshot), refresh=True)


def _view(snapshot: Snapshot, *, width: int, height: int) -> Iterator[tuple[str, str]]:
    """Lines of a terminal, and their styles."""
    from sealserve.kubernetes.live.templates import all_known

    old = from_before(snapshot.old_serving)
    yield f"{snapshot.serving} of {snapshot.wanted} replicas attested, serving{old}", "bold"
    room = max(3, min(_MOST_LINES, height - 4))
    # In a moment the cluster says which replicas are old.
    replicas = rollout_lines(snapshot) if all_known(snapshot.templates) else []
    while replicas and room > 0:
        each, line = replicas.pop(0)
        pieces = _folded(line, width)
        room -= len(pieces)
        style = "dim" if snapshot.is_old(each) else _COLOURS.get(str(each.state), "")
        yield from ((piece, style) for piece in pieces)
    if replicas:
        yield f"  and {len(replicas)} more", ""
    edge = f"edge  {'ready' if snapshot.edge.ready else printable(snapshot.edge.reason or '')}"
    for line in filter(None, (edge, printable(snapshot.advice or ""))):
        yield from ((piece, "") for piece in _folded(line, width))


def _folded(line: str, width: int) -> list[str]:
    return textwrap.wrap(
        line,
        max(width, _LEAST_WIDTH),
        initial_indent="  ",
        subsequent_indent=" " * 6,
        max_lines=_MOST_FOLDS,
        break_on_hyphens=False,
    )
