"""``sealserve broker policy``: the appraisal policies in the broker's store."""

from __future__ import annotations

from pathlib import Path

import click

from sealserve.cli.broker_options import JSON, Target, administration, show, target


@click.group()
def policy() -> None:
    """Appraisal policies: which enclaves are accepted."""


@policy.command(short_help="Store a policy and its trust root.")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@target
@JSON
def put(name: str, file: Path, target: Target, as_json: bool) -> None:
    """Take the policy in FILE over as NAME, with the trust root that it names."""
    from sealserve.broker.store import StoredPolicy

    given = StoredPolicy.from_file(name, file)
    with administration(target) as administrator:
        stored = administrator.put_policy(given)
    show(stored.as_dict(), f"policy {name}, revision {stored.revision}", as_json=as_json)


@policy.command("show")
@click.argument("name")
@target
@JSON
def show_(name: str, target: Target, as_json: bool) -> None:
    """Print a policy and its trust root."""
    with administration(target) as administrator:
        stored = administrator.policy(name)
    show(stored.as_dict(), stored.text + (stored.trust_root or ""), as_json=as_json)


@policy.command("list")
@target
@JSON
def list_(target: Target, as_json: bool) -> None:
    """All policies."""
    with administration(target) as administrator:
        policies = administrator.policies()
    text = "\n".join(f"{stored.name}, revision {stored.revision}" for stored in policies) or "there are no policies"
    show([stored.as_dict() for stored in policies], text, as_json=as_json)


@policy.command()
@click.argument("name")
@target
@JSON
def delete(name: str, target: Target, as_json: bool) -> None:
    """Remove a policy that no grant names."""
    with administration(target) as administrator:
        administrator.delete_policy(name)
    show({"deleted": name}, f"policy {name} is deleted", as_json=as_json)
