"""``sealserve broker grant``: which enclaves get what."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sealserve.cli.broker_options import JSON, Target, administration, show, target

if TYPE_CHECKING:
    from sealserve.broker.store.documents import StoredGrant


@click.group()
def grant() -> None:
    """Grants: which enclaves get which keys, for which model."""


@grant.command(short_help="Write a grant, in place of its deployment's last one.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@target
@JSON
def put(file: Path, target: Target, as_json: bool) -> None:
    """Write the grant in FILE (YAML), which replaces the one of its deployment."""
    from sealserve.broker.store import GrantDocument

    document = GrantDocument.load(file)
    with administration(target) as administrator:
        _show(administrator.put_grant(document), as_json=as_json)


@grant.command(short_help="Move to another sealed model or key version.")
@click.argument("deployment")
@click.option("--digest", required=True, help="The digest of the sealed model, 64 hexadecimal digits.")
@click.option("--key-version", type=click.IntRange(min=1), help="The version of its key; as before if not given.")
@click.option("--model-version", type=click.IntRange(min=1), help="The model's version; as before if not given.")
@click.option("--without-previous", is_flag=True, help="What was served before must not be served any more.")
@target
@JSON
def switch(
    deployment: str,
    *,
    digest: str,
    key_version: int | None,
    model_version: int | None,
    without_previous: bool,
    target: Target,
    as_json: bool,
) -> None:
    """Move DEPLOYMENT to another sealed model, another version of its key, or both, at one moment.

    Replicas that do not find it in their storage yet may open what the grant named before, until that key version is
    retired.
    """
    try:
        raw = bytes.fromhex(digest)
    except ValueError:
        raw = b""
    if len(raw) != 32:
        raise click.BadParameter("a model digest has 64 hexadecimal digits", param_hint="--digest")
    with administration(target) as administrator:
        stored = administrator.switch_grant(
            deployment,
            digest=raw,
            key_version=key_version,
            model_version=model_version,
            keep_previous=not without_previous,
        )
    _show(stored, as_json=as_json)


@grant.command("show")
@click.argument("deployment")
@target
@JSON
def show_(deployment: str, target: Target, as_json: bool) -> None:
    """Print the grant of DEPLOYMENT, as `put` reads it."""
    with administration(target) as administrator:
        stored = administrator.grant(deployment)
    show(stored.as_dict(), stored.document.to_yaml().rstrip(), as_json=as_json)


@grant.command("list")
@target
@JSON
def list_(target: Target, as_json: bool) -> None:
    """All grants."""
    with administration(target) as administrator:
        grants = administrator.grants()
    text = "\n".join(_line(stored) for stored in grants) or "there are no grants"
    show([stored.as_dict() for stored in grants], text, as_json=as_json)


@grant.command(short_help="Remove a grant: its enclaves are refused from now on.")
@click.argument("deployment")
@target
@JSON
def delete(deployment: str, target: Target, as_json: bool) -> None:
    """Remove the grant of DEPLOYMENT: its enclaves are refused from now on."""
    with administration(target) as administrator:
        administrator.delete_grant(deployment)
    show({"deleted": deployment}, f"the grant of {deployment} is deleted", as_json=as_json)


def _show(stored: StoredGrant, *, as_json: bool) -> None:
    show(stored.as_dict(), _line(stored), as_json=as_json)


def _line(stored: StoredGrant) -> str:
    document = stored.document
    keys = ", ".join(f"{name} {version}" for name, version in document.keys.items())
    previous = f", before: {document.previous.model.digest[:16]}…" if document.previous else ""
    return (
        f"{stored.deployment}, revision {stored.revision}: policy {document.policy}, keys {keys}, "
        f"model {document.model.name} {document.model.version} {document.model.digest[:16]}…{previous}"
    )
