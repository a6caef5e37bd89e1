"""How the demonstration tells its story: for people on a terminal or in a pipe, or as JSON lines for scripts."""

from __future__ import annotations

import contextlib
import json
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.console import Console
from rich.text import Text

_INDENT = 13

PARTIES = {"owner": "magenta", "platform": "yellow", "client": "cyan", "proof": "green", "end": "dim"}


@dataclass
class Step:
    """One step of the story while it runs; what it fills in is printed when it ends."""

    number: int
    party: str
    title: str
    lines: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def say(self, line: str, **facts: Any) -> None:
        """Add a line for people, and facts (JSON-ready values) for scripts."""
        self.lines.append(line)
        self.facts.update(facts)


class Reporter(Protocol):
    """Where the story goes."""

    def opening(self, text: str, **facts: Any) -> None:
        """What comes before the first step."""

    def step(self, number: int, party: str, title: str) -> contextlib.AbstractContextManager[Step]:
        """Run one step: time it, and print it when it is done."""

    def closing(self, text: str, **facts: Any) -> None:
        """The last word."""


class PeopleReporter:
    """A numbered account with times; a spinner while a step runs, if the output is a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def opening(self, text: str, **_: Any) -> None:
        self._console.print(text, soft_wrap=True)
        self._console.print()

    @contextlib.contextmanager
    def step(self, number: int, party: str, title: str) -> Iterator[Step]:
        step = Step(number, party, title)
        started = time.monotonic()
        status = (
            self._console.status(Text(f"{title} …"), spinner="dots")
            if self._console.is_terminal
            else contextlib.nullcontext()
        )
        with status:
            yield step
        seconds = time.monotonic() - started
        head = Text.assemble(
            (f"{number:>2} ", "bold"), (f"{party:<10}", PARTIES[party]), (title, "bold"), (f"  {seconds:.1f} s", "dim")
        )
        self._console.print(head, soft_wrap=True)
        for line in step.lines:
            self._print_indented(line)

    def closing(self, text: str, **_: Any) -> None:
        self._console.print()
        self._console.print(text, soft_wrap=True)

    def _print_indented(self, line: str) -> None:
        """Wrap on a terminal, keeping the line's own indentation; a pipe gets every line whole."""
        indent = " " * (_INDENT + len(line) - len(line.lstrip()))
        if not self._console.is_terminal:
            self._console.print(Text(" " * _INDENT + line), soft_wrap=True)
            return
        width = max(self._console.width, _INDENT + 20)
        for piece in textwrap.wrap(line.lstrip(), width - len(indent), break_on_hyphens=False):
            self._console.print(Text(indent + piece), soft_wrap=True)


class JsonReporter:
    """One JSON object a line: ``{"step": 3, "party": "owner", "title": ..., "seconds": ..., <facts>}``."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def _line(self, entry: dict[str, Any]) -> None:
        self._console.file.write(json.dumps(entry) + "\n")
        self._console.file.flush()

    def opening(self, text: str, **facts: Any) -> None:  # noqa: ARG002 - the text is for people
        self._line({"event": "start", **facts})

    @contextlib.contextmanager
    def step(self, number: int, party: str, title: str) -> Iterator[Step]:
        step = Step(number, party, title)
        started = time.monotonic()
        yield step
        seconds = round(time.monotonic() - started, 3)
        self._line({"event": "step", "step": number, "party": party, "title": title, "seconds": seconds, **step.facts})

    def closing(self, text: str, **facts: Any) -> None:  # noqa: ARG002
        self._line({"event": "end", **facts})
