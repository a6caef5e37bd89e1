"""``sealserve evidence``: look at a quote, and appraise it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

_FILE = click.Path(path_type=Path, dir_okay=False)
_MARKS = {"ok": ("✓", "green"), "failed": ("✗", "red"), "skipped": ("-", "yellow")}


def _time(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no time like 2025-06-19T12:00:00") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _report_data(_context: click.Context, _parameter: click.Parameter, value: str | None) -> bytes | None:
    if value is None:
        return None
    try:
        data = bytes.fromhex(value)
    except ValueError as error:
        raise click.BadParameter("is not hexadecimal") from error
    if len(data) != 64:
        raise click.BadParameter(f"must be 64 bytes (128 hexadecimal digits), and this is {len(data)} bytes")
    return data


@click.group()
def evidence() -> None:
    """Look at evidence, and judge it."""


@evidence.command()
@click.argument("file", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(file: Path, *, as_json: bool) -> None:
    """Explain the quote in FILE (raw or hexadecimal) without judging it."""
    from sealserve.evidence import parse_quote
    from sealserve.evidence.description import describe, read_quote_file

    described = describe(parse_quote(read_quote_file(file)))
    if as_json:
        click.echo(json.dumps(described, ensure_ascii=False))
        return
    if described["simulated"]:
        click.secho("SIMULATED, NO PROTECTION", fg="red", bold=True)
    _show(described)
    click.secho("\nNothing of this is verified. `sealserve evidence verify` does that.", fg="yellow")


@evidence.command()
@click.argument("file", type=_FILE)
@click.option("--policy", "policy_file", type=_FILE, required=True, help="What evidence to accept.")
@click.option(
    "--time", "now", metavar="TIME", callback=_time, help="Judge at this time (UTC if it has no zone) instead of now."
)
@click.option("--report-data", metavar="HEX", callback=_report_data, help="The 64 bytes that the quote must be over.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def verify(
    context: click.Context,
    file: Path,
    *,
    policy_file: Path,
    now: float | None,
    report_data: bytes | None,
    as_json: bool,
) -> None:
    """Appraise the quote in FILE (raw or hexadecimal) and report every check.

    The exit code is 0 if the policy accepts it and 4 if not. Without --report-data the report cannot say for whom and
    when the quote was made.
    """
    from sealserve.evidence import AppraisalPolicy
    from sealserve.evidence.description import read_quote_file

    policy = AppraisalPolicy.load(policy_file)
    appraisal = policy.appraise_with_steps(read_quote_file(file), report_data=report_data, now=now)
    if as_json:
        click.echo(json.dumps(appraisal.as_dict(), ensure_ascii=False))
    else:
        for step in appraisal.steps:
            mark, colour = _MARKS[step.outcome]
            click.echo(click.style(f"{mark} ", fg=colour) + click.style(step.title, bold=True) + f": {step.detail}")
        if appraisal.error is not None and appraisal.error.hint:
            click.echo(f"  {appraisal.error.hint}")
    if appraisal.error is not None:
        context.exit(appraisal.error.exit_code)


def _show(values: Mapping[str, Any], indent: str = "") -> None:
    for name, value in values.items():
        if isinstance(value, Mapping):
            click.secho(f"{indent}{name}", bold=True)
            _show(value, indent + "  ")
        elif isinstance(value, list):
            for number, item in enumerate(value, start=1):
                _show({f"{name.removesuffix('s')} {number}": item}, indent)
        else:
            click.echo(f"{indent}{click.style(name, bold=True)}: {value}")
