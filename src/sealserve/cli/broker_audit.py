"""``sealserve broker audit``: the broker's audit log."""

from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sealserve.cli.broker_options import JSON, Target, audit_log, show, target

if TYPE_CHECKING:
    from sealserve.broker.audit import AuditSummary

_HEAD = click.option("--head", help="A hash that was the last once, kept elsewhere: some record must have it.")


@click.group()
def audit() -> None:
    """The broker's audit log: every decision and every change."""


@audit.command(short_help="Check that the log, here or exported, is whole.")
@click.argument("exported", required=False, metavar="[FILE]", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--public-key",
    "public_key",
    type=click.Path(dir_okay=False, path_type=Path),
    help="For FILE: what `audit public-key` printed. Without it the checkpoints' signatures are not verified.",
)
@_HEAD
@target
@JSON
def verify(exported: Path | None, public_key: Path | None, head: str | None, target: Target, as_json: bool) -> None:
    """Check that no record of the store, or of an exported FILE, was edited, removed, inserted or moved.

    Records missing at the end of a FILE show only if you give --head: the broker's log has it as "audit_head" of every
    decision.
    """
    if exported is not None:
        from sealserve.broker.audit_export import read_public_key, verify_export

        key = None if public_key is None else read_public_key(public_key)
        summary = verify_export(exported, public_key=key, must_contain=head)
        _report(summary, str(exported), signatures=key is not None, as_json=as_json)
        return
    if public_key is not None:
        raise click.UsageError("--public-key is for an exported FILE: the store has the key itself")
    with audit_log(target) as log:
        _report(log.verify(must_contain=head), log.name, signatures=True, as_json=as_json)


@audit.command(short_help="Write the whole log to a file, its end signed.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@target
@JSON
def export(file: Path, target: Target, as_json: bool) -> None:
    """Write the whole log to FILE, one record a line, with a checkpoint at its end."""
    with audit_log(target) as log:
        summary = log.export(file)
    show(
        {"records": summary.records, "head": summary.head},
        f"wrote {summary.records} records to {file}. Last hash: {summary.head}",
        as_json=as_json,
    )


@audit.command("list")
@click.option("--event", help="decision, change, key-used, strangers or checkpoint.")
@click.option("--outcome", type=click.Choice(["granted", "refused"]))
@click.option("--deployment")
@click.option("--decision", help="The one with this number.")
@click.option("--reason", help="Why it was refused.")
@click.option("--actor", help="Who changed something.")
@click.option("--since", type=click.DateTime(), help="UTC.")
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="The last so many.")
@click.option("--follow", is_flag=True, help="Then print new ones as they come, until Ctrl-C.")
@target
@JSON
def list_(target: Target, *, limit: int, since: datetime | None, follow: bool, as_json: bool, **fields: Any) -> None:
    """Print records, the oldest first. With --json one record a line."""
    from datetime import UTC

    from sealserve.broker.audit_reading import AuditFilter

    wanted = AuditFilter(**fields, since=since and since.replace(tzinfo=UTC))
    with audit_log(target) as log:
        end, _ = log.head()
        found: list[dict[str, Any]] = []
        place: int | None = end + 1
        while place is not None and len(found) < limit:
            page = log.latest(wanted, before=place, limit=min(limit - len(found), 1000))
            found, place = found + page.records, page.next
        for record in reversed(found):
            _print(record, as_json=as_json)
        while follow:
            following = log.following(wanted, after=end)
            for record in following.records:
                _print(record, as_json=as_json)
            end = following.next or end
            if not following.records:
                time.sleep(1)


@audit.command()
@target
@JSON
def checkpoint(target: Target, as_json: bool) -> None:
    """Sign the log's end; prints its last hash, for keeping elsewhere."""
    with audit_log(target) as log:
        records, head = log.checkpoint()
    show({"records": records, "head": head}, f"{records} records. Last hash: {head}", as_json=as_json)


def _print(record: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(record))
        return
    fields = ("outcome", "decision", "deployment", "reason", "action", "key", "version", "policy", "actor", "peer")
    told = " ".join(f"{name}={record[name]}" for name in fields if name in record)
    # What a stranger sent must not steer the terminal.
    text = f"{record['sequence']} {record['time']} {record['event']} {told}"
    click.echo("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text))


@audit.command("public-key", short_help="Print the key that verifies exported logs.")
@target
def public_key(target: Target) -> None:
    """Print the key (PEM) that verifies the checkpoints of an exported log. Keep it where you verify."""
    from sealserve.broker.audit_export import public_key_pem

    with audit_log(target) as log:
        click.echo(public_key_pem(log.public_key).decode(), nl=False)


def _report(summary: AuditSummary, name: str, *, signatures: bool, as_json: bool) -> None:
    value = {
        "records": summary.records,
        "head": summary.head,
        "signatures_verified": signatures,
        "checkpoints": summary.checkpoints,
        "signed": summary.signed,
    }
    text = f"{name}: {summary.records} records, whole. Last hash: {summary.head}\n"
    if signatures:
        text += f"{summary.checkpoints} signed checkpoints; the last one covers {summary.signed} records."
    else:
        text += "Signatures were not verified: give --public-key to know that a broker wrote it."
    show(value, text, as_json=as_json)
