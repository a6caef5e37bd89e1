"""``sealserve broker``: run a key broker, check its settings, verify its audit log."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.group()
def broker() -> None:
    """The key broker: releases keys to attested enclaves."""


_FILE = click.option(
    "-f",
    "--file",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("broker.yaml"),
    show_default=True,
    help="The broker's settings.",
)


@broker.command()
@_FILE
@click.option("--json-logs", is_flag=True, help="Log one JSON object a line.")
def run(path: Path, json_logs: bool) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    from sealserve.broker import tickets

    tickets.forbid()  # before anything starts OpenSSL

    import asyncio

    from sealserve import logs
    from sealserve.broker.server import Broker
    from sealserve.broker.settings import BrokerSettings

    logs.configure(json_lines=json_logs)
    asyncio.run(Broker(BrokerSettings.load(path)).run())


@broker.command()
@_FILE
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def check(path: Path, as_json: bool) -> None:
    """Read the settings, policies, keys and certificate, and say what they grant; starts nothing."""
    from sealserve import logs
    from sealserve.broker.server import Broker
    from sealserve.broker.settings import BrokerSettings

    logs.configure(json_lines=as_json)  # a policy warns of what is insecure in it
    settings = BrokerSettings.load(path)
    grants = [
        {
            "deployment": grant.deployment,
            "keys": {name: key.version for name, key in grant.keys.items()},
            "model": {"name": grant.model.name, "version": grant.model.version, "digest": grant.model.digest.hex()},
            "protocols": [2, 1] if grant.version_1 else [2],
        }
        for grant in Broker(settings).grants.values()
    ]
    if as_json:
        click.echo(json.dumps({"listen": settings.listen, "grants": grants}))
        return
    click.echo(f"{path} is good: listens at {settings.listen}, and grants")
    for grant in grants:
        click.echo(f"  {grant['deployment']}: {json.dumps({k: v for k, v in grant.items() if k != 'deployment'})}")


@broker.group()
def audit() -> None:
    """The broker's audit log."""


@audit.command()
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--head", help="The last known hash: it must be the log's last, or that of an earlier line.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def verify(path: Path, head: str | None, as_json: bool) -> None:
    """Check that no line of FILE was edited, removed, inserted or moved.

    Lines missing at the end show only if you give --head: the broker's log has it as "audit_head" of every decision.
    """
    from sealserve.broker.audit import verify_audit

    summary = verify_audit(path, must_contain=head)
    if as_json:
        click.echo(json.dumps({"records": summary.records, "head": summary.head, "torn_bytes": len(summary.torn)}))
        return
    click.echo(f"{path}: {summary.records} records, whole. Last hash: {summary.head}")
    if summary.torn:
        click.echo(f"After the last record there are {len(summary.torn)} bytes of an unfinished one.")
