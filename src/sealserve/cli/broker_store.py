"""``sealserve broker store``: make, check and re-encrypt the broker's store."""

from __future__ import annotations

from pathlib import Path

import click

from sealserve.cli.broker_options import JSON, SETTINGS, actor, opened_store, show


@click.group(short_help="The broker's store: where everything of it is.")
def store() -> None:
    """The broker's store: one database with keys, policies, grants and the audit log."""


@store.command(short_help="Make the store, or bring an older one up to date.")
@SETTINGS
@JSON
def init(path: Path, as_json: bool) -> None:
    """Make the store and its master key if there are none; bring an older store up to date."""
    from sealserve.broker.settings import BrokerSettings

    with BrokerSettings.load(path).create_store(actor=actor()) as made:
        revision = made.mark()[0]
        show({"store": made.name, "revision": revision}, f"the store {made.name} is ready", as_json=as_json)


@store.command(short_help="Verify all that is in the store.")
@SETTINGS
@JSON
def check(path: Path, as_json: bool) -> None:
    """Verify everything: every key, policy and grant, the audit log, and that they go together."""
    with opened_store(path) as opened:
        report = opened.check()
        value = {
            "store": opened.name,
            "revision": report.revision,
            "key_versions": report.keys,
            "key_values": report.opened,
            "policies": report.policies,
            "grants": report.grants,
            "audit": {"records": report.audit.records, "head": report.audit.head, "signed": report.audit.signed},
        }
        text = (
            f"{opened.name} is whole at revision {report.revision}: {report.opened} key values, {report.policies} "
            f"policies, {report.grants} grants, {report.audit.records} audit records. Last hash: {report.audit.head}"
        )
    show(value, text, as_json=as_json)


@store.command()
@SETTINGS
@JSON
@click.option(
    "--finish", is_flag=True, help="Put the new master key in the old one's place, after all brokers have it."
)
def rewrap(path: Path, as_json: bool, finish: bool) -> None:
    """Encrypt the store under a new master key.

    The new key is FILE.next beside the master key's FILE; it is made if it is missing. Running brokers go on with it.
    With more than one broker, first put the same FILE.next beside the master key of each. Afterwards run it again with
    --finish on each machine.
    """
    from sealserve.broker.settings import BrokerSettings
    from sealserve.broker.store import MasterKeyPlace

    place = MasterKeyPlace.find(BrokerSettings.load(path).master_key)
    if finish:
        with opened_store(path) as opened:
            opened.finish_rewrap()
        show({"master_key": str(place.path)}, f"{place.path} is the new master key", as_json=as_json)
        return
    with opened_store(path) as opened:
        opened.rewrap(actor())
    show(
        {"next": str(place.next)},
        f"the store is encrypted under {place.next} now; run this again with --finish to put it in place",
        as_json=as_json,
    )
