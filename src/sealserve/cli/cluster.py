"""``sealserve up``, ``status``, ``logs`` and ``down``: one machine's cluster."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sealserve.cli.deployment_option import deployment_option
from sealserve.cli.failures import final_event
from sealserve.cli.progress import progress_bar
from sealserve.cli.signals import interrupted_by_termination
from sealserve.errors import InputError
from sealserve.logs import printable, printable_lines

if TYPE_CHECKING:
    from sealserve.local.account import Entry
    from sealserve.local.control import ProcessReport
    from sealserve.local.layout import Layout

_state = click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    help="The working directory itself, if the deployment's file is not at hand.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _layout(file: Path, state: Path | None) -> Layout:
    """Of a working directory that sealserve made, or that is not there yet."""
    from sealserve.deploy import load_deployment
    from sealserve.local.layout import Layout
    from sealserve.local.ownership import is_claimed

    layout = Layout(Path(os.path.normpath(state.absolute())) if state is not None else load_deployment(file).state)
    is_claimed(layout.root)
    return layout


@click.command(short_help="Run the cluster: key broker, attested replicas, gateway.")
@deployment_option
@click.option("-d", "--detach", is_flag=True, help="Return when the cluster is ready; it goes on running.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
def up(*, file: Path, detach: bool, as_json: bool, quiet: bool) -> int:
    """Run the cluster on this machine: key broker, attested replicas, gateway.

    Runs until Ctrl-C, or with --detach until `sealserve down`.
    """
    from sealserve import logs
    from sealserve.local.account import FAILED, Account, as_text, file_option
    from sealserve.local.detach import run_detached
    from sealserve.local.foreground import run_up

    logs.configure(json_lines=as_json, level=logging.ERROR)

    def show(entry: Entry) -> None:
        text = None if quiet else json.dumps(entry) if as_json else as_text(entry)
        if text is not None:
            # Whoever read our output may be gone, or its disk full; the cluster goes on.
            with contextlib.suppress(OSError):
                click.echo(printable_lines(text))

    with interrupted_by_termination(), final_event(enabled=as_json and not quiet, event=FAILED):
        if not detach:
            with (
                progress_bar("  sealing the model") if not (quiet or as_json) else contextlib.nullcontext() as progress
            ):
                run_up(file, account_for=lambda layout: Account(layout.log("supervisor"), show), progress=progress)
            return 0
        code, complaint = run_detached(file, show=show, json_errors=as_json)
    click.echo(complaint, nl=False, err=True)
    if code and as_json and not quiet:
        _tell_failure(complaint, code)
    if code == 0 and not quiet and not as_json:
        option = file_option(file)
        click.echo("It runs in the background:")
        for command in ("status", "logs", "down"):
            click.echo(f"  sealserve {command}{option}")
    return code


def _tell_failure(complaint: str, code: int) -> None:
    """End the lines on standard output with what the background wrote to standard error."""
    lines = complaint.splitlines() or ["{}"]
    failure: dict[str, Any] = {}
    with contextlib.suppress(ValueError):
        failure = json.loads(lines[-1])
    click.echo(json.dumps({"event": "cluster-failed", **failure, "exit_code": code}))


@click.command()
@deployment_option
@_state
@_json
def status(*, file: Path, state: Path | None, as_json: bool) -> int:
    """Show the processes of the cluster. Exit code 5 if it does not run.

    With one-way and two-way TLS it says when a certificate ends within 30 days.
    """
    from sealserve.local.control import report_processes, running_state
    from sealserve.local.expiry import certificate_ends, ending_soon
    from sealserve.local.state import is_running

    layout = _layout(file, state)
    running = is_running(layout)
    found = running_state(layout) if running else None
    if running and found is None:
        click.echo(
            json.dumps({"running": True, "phase": "starting", "processes": []})
            if as_json
            else printable(f"starting: a cluster is being prepared in {layout.root}")
        )
        return 0
    if found is None:
        click.echo(json.dumps({"running": False}) if as_json else printable(f"no cluster runs in {layout.root}"))
        return 5
    reports = report_processes(found)
    ends = certificate_ends(found, layout)
    if as_json:
        head = found.model_dump(mode="json", exclude={"processes"})
        head["certificates"] = {whose: end.isoformat() for whose, end in ends.items()}
        click.echo(json.dumps({"running": True, **head, "processes": [report.as_dict() for report in reports]}))
        return 0
    rest = "" if found.rest is None else f"REST {found.rest}\n"
    tls = "" if found.tls == "attested" else f", {found.tls} TLS"
    line = f"{found.deployment}: {found.phase}, gateway {found.gateway}{tls}, model {found.model}/{found.model_version}"
    click.echo(f"{line}\n{rest}")
    rows = [("NAME", "PROCESS", "STATE", "RESTARTS", "UP", "MEMORY", "ATTESTED"), *map(_row, reports)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo(printable("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()))
    for report in reports:
        if report.phase != "ready" and report.last_error:
            click.echo(printable_lines(f"\n{report.name}: {report.last_error}"))
    for line in ending_soon(ends):
        click.echo(f"\n{line}")
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


@click.command(short_help="Print the logs of the cluster's processes.")
@click.argument("name", required=False)
@deployment_option
@_state
@click.option("--follow", is_flag=True, help="Go on with what is added, until Ctrl-C.")
@click.option("-n", "--lines", type=click.IntRange(min=0), default=50, show_default=True, help="Of each log, the last.")
def logs(*, name: str | None, file: Path, state: Path | None, follow: bool, lines: int) -> None:
    """Print the logs of broker, replica-1 and so on, gateway, supervisor; or of NAME only.

    A log begins with its first line: the gateway has none before nginx tells of trouble.
    """
    from sealserve.local.logview import Follower

    if name is None and state is None and not (file.suffix or file.exists()):
        raise InputError(
            f"there is no deployment's file {file}, which -f names",
            hint=f"To follow a log: `sealserve logs {file} --follow`.",
        )
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
                # A replica's log is the host's or the enclave's to write: it must not command the terminal.
                click.echo(printable(line if name is not None else f"{each:<{width}} | {line}"))
        if not follow:
            return
        sys.stdout.flush()
        time.sleep(0.2)


@click.command()
@deployment_option
@_state
def down(*, file: Path, state: Path | None) -> None:
    """Stop the cluster, and end what a crash may have left of it."""
    from sealserve.local.control import stop_cluster

    layout = _layout(file, state)
    if stop_cluster(layout, on_wait=lambda text: click.echo(printable(text), err=True)):
        click.echo(f"stopped the cluster in {layout.root}")
    else:
        click.echo(f"no cluster runs in {layout.root}")
