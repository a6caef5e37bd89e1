"""``sealserve broker``: run a key broker, and look after its store: keys, policies, grants, audit log."""

from __future__ import annotations

import json
from pathlib import Path

import click

from sealserve.cli.broker_admin import admin
from sealserve.cli.broker_audit import audit
from sealserve.cli.broker_grant import grant
from sealserve.cli.broker_key import key, seal
from sealserve.cli.broker_options import JSON, SETTINGS
from sealserve.cli.broker_policy import policy
from sealserve.cli.broker_store import store


@click.group()
def broker() -> None:
    """The key broker: releases keys to attested enclaves."""


for command in (store, key, seal, policy, grant, audit, admin):
    broker.add_command(command)


@broker.command()
@SETTINGS
@click.option("--json-logs", is_flag=True, help="Log one JSON object a line.")
def run(path: Path, json_logs: bool) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    from sealserve.broker import tickets

    tickets.forbid()  # before anything starts OpenSSL

    from sealserve import logs
    from sealserve.broker.settings import BrokerSettings
    from sealserve.broker.workers import run_broker

    logs.configure(json_lines=json_logs)
    run_broker(BrokerSettings.load(path))


@broker.command(short_help="Read settings and store, and say what they grant.")
@SETTINGS
@JSON
def check(path: Path, as_json: bool) -> None:
    """Read the settings, the certificate and the store, and say what they grant; starts nothing."""
    from sealserve import logs
    from sealserve.broker.server import Broker
    from sealserve.broker.settings import BrokerSettings

    logs.configure(json_lines=as_json)  # a policy warns of what is insecure in it
    settings = BrokerSettings.load(path)
    checked = Broker(settings)
    grants = [
        {
            "deployment": held.deployment,
            "keys": {name: held_key.key.version for name, held_key in held.keys.items()},
            "model": {"name": held.model.name, "version": held.model.version, "digest": held.model.digest.hex()},
            "protocols": [2, 1] if held.version_1 else [2],
        }
        for held in checked.grants.values()
    ]
    checked.close()
    if as_json:
        click.echo(json.dumps({"listen": settings.listen, "grants": grants}))
        return
    click.echo(f"{path} is good: listens at {settings.listen}, and grants")
    for given in grants:
        click.echo(f"  {given['deployment']}: {json.dumps({k: v for k, v in given.items() if k != 'deployment'})}")
    if not grants:
        click.echo("  nothing yet")
