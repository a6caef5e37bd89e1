"""``sealserve init``, ``up``, ``status``, ``logs`` and ``down``: one machine's cluster."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sealserve.errors import InputError

if TYPE_CHECKING:
    from sealserve.local.account import Entry
    from sealserve.local.control import ProcessReport
    from sealserve.local.layout import Layout

_file = click.option(
    "-f",
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("deployment.yaml"),
    show_default=True,
    help="The deployment.",
)
_state = click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    help="The working directory itself, if the deployment's file is not at hand.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _layout(file: Path, state: Path | None) -> Layout:
    from sealserve.deploy import load_deployment
    from sealserve.local.layout import Layout

    return Layout(state.absolute() if state is not None else load_deployment(file).state)


@click.command()
@_file
@click.option("--force", is_flag=True, help="Write over an existing file.")
@click.option("--name", help="Name of the deployment.")
@click.option("--model", help="Base directory of the model.")
@click.option("--model-name", help="Name that clients call the model by.")
def init(*, file: Path, force: bool, name: str | None, model: str | None, model_name: str | None) -> None:
    """Write a commented deployment.yaml."""
    from sealserve.configuration import parse_yaml
    from sealserve.deploy import Deployment, render_template
    from sealserve.files import write_atomically

    if file.exists() and not force:
        raise InputError(f"{file} exists already", hint="Choose another name with -f, or write over it with --force.")
    given = {"name": name, "model.path": model, "model.name": model_name}
    text = render_template({key: value for key, value in given.items() if value is not None})
    deployment = parse_yaml(text, Deployment, path=file)
    write_atomically(file, text)
    option = "" if file == Path("deployment.yaml") else f" -f {file}"
    click.echo(f"wrote {file}\n\nNext:")
    if not (file.parent / deployment.model.path).is_dir():
        click.echo(
            f"  put the model's versions under {file.parent / deployment.model.path}/, or set model.path in {file}"
        )
    click.echo(f"  sealserve up{option}")


@click.command()
@_file
@click.option("-d", "--detach", is_flag=True, help="Return when the cluster is ready; it goes on running.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
def up(*, file: Path, detach: bool, as_json: bool, quiet: bool) -> int:
    """Run the cluster on this machine: key broker, attested replicas, gateway.

    Runs until Ctrl-C, or with --detach until `sealserve down`.
    """
    from sealserve import logs
    from sealserve.local.account import Account, as_text
    from sealserve.local.detach import run_detached
    from sealserve.local.foreground import run_up

    logs.configure(json_lines=as_json, level=logging.ERROR)

    def show(entry: Entry) -> None:
        text = None if quiet else json.dumps(entry, ensure_ascii=False) if as_json else as_text(entry)
        if text is not None:
            # Whoever read our output may be gone; the cluster goes on.
            with contextlib.suppress(BrokenPipeError):
                click.echo(text)

    if not detach:
        with _progress(enabled=not quiet and not as_json) as progress:
            run_up(file, account_for=lambda layout: Account(layout.log("supervisor"), show), progress=progress)
        return 0
    code, complaint = run_detached(file, show=show, json_errors=as_json)
    click.echo(complaint, nl=False, err=True)
    if code == 0 and not quiet and not as_json:
        click.echo("It runs in the background: `sealserve status`, `sealserve logs`, `sealserve down`.")
    return code


@click.command()
@_file
@_state
@_json
def status(*, file: Path, state: Path | None, as_json: bool) -> int:
    """Show the processes of the cluster. Exit code 5 if it does not run."""
    from sealserve.local.control import report_processes, running_state

    layout = _layout(file, state)
    found = running_state(layout)
    if found is None:
        click.echo(json.dumps({"running": False}) if as_json else f"no cluster runs in {layout.root}")
        return 5
    reports = report_processes(found)
    if as_json:
        head = found.model_dump(mode="json", exclude={"processes"})
        click.echo(json.dumps({"running": True, **head, "processes": [report.as_dict() for report in reports]}))
        return 0
    click.echo(
        f"{found.deployment}: {found.phase}, gateway {found.gateway}, model {found.model}/{found.model_version}\n"
    )
    rows = [("NAME", "PROCESS", "STATE", "RESTARTS", "UP", "MEMORY", "ATTESTED"), *map(_row, reports)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for report in reports:
        if report.phase != "ready" and report.last_error:
            click.echo(f"\n{report.name}: {report.last_error}")
    return 0


def _row(report: ProcessReport) -> tuple[str, ...]:
    attested = {None: "-", True: "yes", False: "no"}[report.attested]
    memory = f"{report.resident / 1e6:.0f} MB" if report.resident else "-"
    return (
        report.name,
        str(report.pid or "-"),
        report.phase,
        str(report.restarts),
        _duration(report.uptime),
        memory,
        attested,
    )


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


@click.command()
@click.argument("name", required=False)
@_file
@_state
@click.option("--follow", is_flag=True, help="Go on with what is added, until Ctrl-C.")
@click.option("-n", "--lines", type=click.IntRange(min=0), default=50, show_default=True, help="Of each log, the last.")
def logs(*, name: str | None, file: Path, state: Path | None, follow: bool, lines: int) -> None:
    """Print the logs of broker, replica-1 and so on, gateway, supervisor; or of NAME only."""
    from sealserve.local.logview import Follower

    layout = _layout(file, state)
    names = layout.log_names
    if name is not None and name not in names:
        raise InputError(
            f"there is no log {name!r} in {layout.root}",
            hint=f"There are: {', '.join(names)}." if names else "Nothing has run in this working directory yet.",
        )
    chosen = names if name is None else [name]
    followers = {each: Follower(layout.log(each), lines=lines) for each in chosen}
    width = max((len(each) for each in chosen), default=0)
    while True:
        for each, follower in followers.items():
            for line in follower.new_lines():
                click.echo(line if name is not None else f"{each:<{width}} | {line}")
        if not follow:
            return
        sys.stdout.flush()
        time.sleep(0.2)


@click.command()
@_file
@_state
def down(*, file: Path, state: Path | None) -> None:
    """Stop the cluster, and end what a crash may have left of it."""
    from sealserve.local.control import stop_cluster

    layout = _layout(file, state)
    if stop_cluster(layout):
        click.echo(f"stopped the cluster in {layout.root}")
    else:
        click.echo(f"no cluster runs in {layout.root}")


@contextlib.contextmanager
def _progress(*, enabled: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar for sealing a large model, on a terminal only."""
    if not (enabled and sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    columns = (TextColumn("  {task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task: Any = None

        def update(done: int, total: int) -> None:
            nonlocal task
            if task is None:
                task = bar.add_task("sealing the model", total=total)
            bar.update(task, completed=done, visible=done < total)

        yield functools.partial(update)
