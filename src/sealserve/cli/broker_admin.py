"""``sealserve broker admin``: who may administer the broker over HTTPS."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sealserve.cli.broker_options import JSON, SETTINGS, actor, opened_store, show

if TYPE_CHECKING:
    from sealserve.broker.store.tokens import Role, StoredToken


@click.group()
def admin() -> None:
    """Administration over HTTPS: its tokens."""


@admin.group()
def token() -> None:
    """Bearer tokens. They are made where the store is, and not over HTTPS."""


@token.command()
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(["viewer", "operator"]),
    default="viewer",
    show_default=True,
    help="A viewer reads; an operator also changes.",
)
@click.option("--days", type=click.FloatRange(min=0, min_open=True, max=3660), default=90.0, show_default=True)
@click.option(
    "-o",
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the token there, mode 0600, instead of printing it.",
)
@SETTINGS
@JSON
def create(name: str, *, role: Role, days: float, token_file: Path | None, path: Path, as_json: bool) -> None:
    """Make a token for NAME. It is shown this once: the store keeps a digest of it."""
    from datetime import timedelta

    from sealserve.broker.tokens import TokenAdministration
    from sealserve.errors import SealserveError
    from sealserve.files import PRIVATE, write_atomically

    with opened_store(path) as store:
        made, secret = TokenAdministration(store, actor=actor()).create(name, role, lifetime=timedelta(days=days))
    with secret:
        text = bytes(secret.reveal()).decode()
    if token_file is not None:
        try:
            write_atomically(token_file, text + "\n", mode=PRIVATE)
        except SealserveError:
            with opened_store(path) as store:  # nobody has it
                TokenAdministration(store, actor=actor()).revoke(made.id)
            raise
        show(made.as_dict(), f"{_line(made)}\nwritten to {token_file}", as_json=as_json)
        return
    if not as_json:
        click.echo(_line(made), err=True)
    show({**made.as_dict(), "token": text}, text, as_json=as_json)


@token.command("list")
@SETTINGS
@JSON
def list_(path: Path, as_json: bool) -> None:
    """All tokens, without what is secret of them."""
    from sealserve.broker.tokens import TokenAdministration

    with opened_store(path) as store:
        tokens = TokenAdministration(store, actor=actor()).tokens()
    text = "\n".join(_line(found) for found in tokens) or "there are no tokens"
    show([found.as_dict() for found in tokens], text, as_json=as_json)


@token.command()
@click.argument("token_id", metavar="ID")
@SETTINGS
@JSON
def revoke(token_id: str, path: Path, as_json: bool) -> None:
    """End the token ID. Running brokers refuse it within a second."""
    from sealserve.broker.tokens import TokenAdministration

    with opened_store(path) as store:
        revoked = TokenAdministration(store, actor=actor()).revoke(token_id)
    show(revoked.as_dict(), _line(revoked), as_json=as_json)


def _line(found: StoredToken) -> str:
    end = found.revoked or found.expires
    return f"{found.id} {found.name} {found.role}: {found.state()}, {end:%Y-%m-%d %H:%M:%S} UTC"
