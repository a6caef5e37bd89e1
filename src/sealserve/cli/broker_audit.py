"""``sealserve broker audit``: the broker's audit log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sealserve.cli.broker_options import JSON, SETTINGS, opened_store, show

if TYPE_CHECKING:
    from sealserve.broker.audit import AuditSummary

_HEAD = click.option("--head", help="A hash that was the last once, kept elsewhere: some record must have it.")


@click.group()
def audit() -> None:
    """The broker's audit log: every decision and every change."""


@audit.command()
@click.argument("exported", required=False, metavar="[FILE]", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--public-key",
    "public_key",
    type=click.Path(dir_okay=False, path_type=Path),
    help="For FILE: what `audit public-key` printed. Without it the checkpoints' signatures are not verified.",
)
@_HEAD
@SETTINGS
@JSON
def verify(exported: Path | None, public_key: Path | None, head: str | None, path: Path, as_json: bool) -> None:
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
    with opened_store(path) as store:
        _report(store.verify_audit(must_contain=head), store.name, signatures=True, as_json=as_json)


@audit.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@SETTINGS
@JSON
def export(file: Path, path: Path, as_json: bool) -> None:
    """Write the whole log to FILE, one record a line, with a checkpoint at its end."""
    from sealserve.broker.audit_export import export_audit

    with opened_store(path) as store:
        summary = export_audit(store, file)
    show(
        {"records": summary.records, "head": summary.head},
        f"wrote {summary.records} records to {file}. Last hash: {summary.head}",
        as_json=as_json,
    )


@audit.command("public-key")
@SETTINGS
def public_key(path: Path) -> None:
    """Print the key (PEM) that verifies the checkpoints of an exported log. Keep it where you verify."""
    from sealserve.broker.audit_export import public_key_pem

    with opened_store(path) as store:
        click.echo(public_key_pem(store.public_key).decode(), nl=False)


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
