"""What the commands of ``sealserve broker`` share."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sealserve.broker.administration import BrokerAdministration
    from sealserve.broker.store import Store

SETTINGS = click.option(
    "-f",
    "--file",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("broker.yaml"),
    show_default=True,
    help="The broker's settings.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def actor() -> str:
    """Who runs this command, for the audit log."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = str(os.getuid())
    return f"cli:{name}"


@contextlib.contextmanager
def opened_store(path: Path) -> Iterator[Store]:
    """The store that the settings in ``path`` name."""
    from sealserve.broker.settings import BrokerSettings

    with BrokerSettings.load(path).open_store() as store:
        yield store


@contextlib.contextmanager
def administration(path: Path) -> Iterator[BrokerAdministration]:
    """Administration of that store by whoever runs this command."""
    from sealserve.broker.administration import BrokerAdministration

    with opened_store(path) as store:
        yield BrokerAdministration(store, actor=actor())


def show(value: Any, text: str, *, as_json: bool) -> None:
    """Print a result for a script or for a person."""
    click.echo(json.dumps(value) if as_json else text)
