"""A progress bar for long work, on a terminal only."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

_WORTH_SHOWING = 64 << 20
_EVERY = 0.1


@contextlib.contextmanager
def progress_bar(label: str, *, worth_showing: int = _WORTH_SHOWING) -> Iterator[Callable[[int, int], None]]:
    """A callback for bytes done and all bytes (0 if that is not known), which draws on standard error.

    It draws nothing in a pipe, nor for less than ``worth_showing`` bytes. It starts no thread: work that forks may go
    on beside it.
    """
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), auto_refresh=False, transient=True)
    task = bar.add_task(label, total=None)
    shown = False
    drawn = 0.0

    def report(done: int, total: int) -> None:
        nonlocal shown, drawn
        now = time.monotonic()
        if total < worth_showing or now - drawn < _EVERY:
            return
        if not shown:
            bar.start()
            shown = True
        drawn = now
        bar.update(task, completed=done, total=total or None)
        bar.refresh()

    try:
        yield report
    finally:
        if shown:
            bar.stop()
