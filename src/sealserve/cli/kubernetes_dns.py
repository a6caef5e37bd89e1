"""``sealserve k8s dns``: the key broker's name in the cluster's own DNS."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sealserve.cli.cluster_options import ClusterAccess, cluster_options, json_option
from sealserve.cli.deployment_option import deployment_option
from sealserve.cli.failures import say
from sealserve.logs import printable_lines

if TYPE_CHECKING:
    from sealserve.kubernetes.live.dns import Outcome


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    options = (
        click.option(
            "--config-map",
            "where",
            metavar="NAMESPACE/NAME",
            default="kube-system/coredns",
            show_default=True,
            help="CoreDNS' own configuration, with a key Corefile.",
        ),
        click.option("--dry-run", is_flag=True, help="Print the change, and make none."),
        json_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group(short_help="The key broker's name in CoreDNS.")
def dns() -> None:
    """Put the key broker's name into CoreDNS, and take it out again."""


@dns.command(short_help="Put the broker's name and address into CoreDNS.")
@deployment_option
@cluster_options
@click.option("--address", "addresses", multiple=True, metavar="IP", help="Where the key broker is; may be repeated.")
@click.option("--name", "names", multiple=True, metavar="NAME", help="Its name; those in image.brokers if not given.")
@_options
def apply(
    *,
    file: Path,
    addresses: tuple[str, ...],
    names: tuple[str, ...],
    where: str,
    dry_run: bool,
    as_json: bool,
    access: ClusterAccess,
) -> None:
    """Add a `hosts` entry to the Corefile, whatever else is in it, so that pods find the broker by name.

    `kubernetes.broker` in the deployment gives the broker a name inside the cluster, and needs none of this. Without
    --address it is that of broker.listen. Applying it again changes nothing; `dns undo` takes it out.
    """
    from sealserve.deploy import load_deployment
    from sealserve.kubernetes.broker_name import hosts_entry, names_known_already, split_place
    from sealserve.kubernetes.live.dns import apply_entry

    deployment = load_deployment(file)
    entry = hosts_entry(deployment, addresses=addresses, names=names)
    namespace, config_map = split_place(where)
    with access.connect() as cluster:
        outcome = apply_entry(cluster, entry, namespace=namespace, config_map=config_map, dry_run=dry_run)
    outcome = replace(outcome, warnings=(*names_known_already(deployment, entry), *outcome.warnings))
    what = f"{' and '.join(entry.names)} → {', '.join(entry.addresses)}"
    _show(outcome, f"{what} is in {{place}}", f"{what} is in {{place}} already", dry_run=dry_run, as_json=as_json)


@dns.command(short_help="Take the deployment's entry out of CoreDNS.")
@deployment_option
@cluster_options
@_options
def undo(*, file: Path, where: str, dry_run: bool, as_json: bool, access: ClusterAccess) -> None:
    """Remove what `dns apply` added for this deployment, and leave everything else as it is, byte for byte."""
    from sealserve.deploy import load_deployment
    from sealserve.kubernetes.broker_name import entry_owner, split_place
    from sealserve.kubernetes.live.dns import undo_entry

    owner = entry_owner(load_deployment(file))
    namespace, config_map = split_place(where)
    with access.connect() as cluster:
        outcome = undo_entry(cluster, owner, namespace=namespace, config_map=config_map, dry_run=dry_run)
    missing = f"there is no entry of {owner} in {{place}}"
    _show(outcome, f"the entry of {owner} is out of {{place}}", missing, dry_run=dry_run, as_json=as_json)


def _show(outcome: Outcome, done: str, nothing: str, *, dry_run: bool, as_json: bool) -> None:
    place = outcome.place
    if as_json:
        told = {
            "changed": outcome.changed,
            "dry_run": dry_run,
            "config_map": f"{place.namespace}/{place.config_map}",
            "key": place.key,
            "diff": outcome.diff,
            "reloads": outcome.reloads,
            "warnings": outcome.warnings,
        }
        click.echo(json.dumps(told))
        return
    for warning in outcome.warnings:
        say("warning", "yellow", warning)
    if dry_run:
        click.echo(printable_lines(outcome.diff) if outcome.diff else nothing.format(place=place))
        return
    click.echo(printable_lines((done if outcome.changed else nothing).format(place=place)))
    if outcome.changed and outcome.reloads:
        click.echo("CoreDNS reads it within two minutes; nothing has to be restarted.")
    elif outcome.changed:
        click.echo("CoreDNS has no plugin `reload` there. Restart it:")
        click.echo(printable_lines(f"  kubectl -n {place.namespace} rollout restart deployment/coredns"))
