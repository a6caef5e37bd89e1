"""What the commands of ``sealserve broker`` share."""

from __future__ import annotations

import contextlib
import functools
import getpass
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from sealserve.broker.admin.connection import Server
    from sealserve.broker.admin.remote import RemoteAdministration, RemoteAudit
    from sealserve.broker.administration import BrokerAdministration
    from sealserve.broker.audit_reading import AuditReader
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
_FILE = click.Path(dir_okay=False, path_type=Path)
_REMOTE = (
    click.option(
        "--server",
        envvar="SEALSERVE_BROKER_SERVER",
        show_envvar=True,
        metavar="https://HOST:PORT",
        help="Ask the broker's administration there instead of opening its store here.",
    ),
    click.option(
        "--ca",
        envvar="SEALSERVE_BROKER_CA",
        show_envvar=True,
        type=_FILE,
        help="The authority that signed the server's certificate, PEM; the system's if not given.",
    ),
    click.option(
        "--token-file",
        envvar="SEALSERVE_BROKER_TOKEN_FILE",
        show_envvar=True,
        type=_FILE,
        help="Holds a token of `broker admin token create`; mode 0600.",
    ),
    click.option("--client-certificate", type=_FILE, help="Your certificate, PEM, instead of a token."),
    click.option("--client-key", type=_FILE, help="Its private key, PEM, mode 0600."),
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


@dataclass(frozen=True)
class Target:
    """The broker that a command is for: its store here, by the settings in ``path``, or its administration there."""

    path: Path
    server: Server | None = None


def target(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say which broker; the command gets a :class:`Target`."""

    @functools.wraps(command)
    def run(
        *,
        path: Path,
        server: str | None,
        ca: Path | None,
        token_file: Path | None,
        client_certificate: Path | None,
        client_key: Path | None,
        **others: Any,
    ) -> Any:
        source = click.get_current_context().get_parameter_source
        if source("path") is ParameterSource.COMMANDLINE and server is not None:
            if source("server") is ParameterSource.COMMANDLINE:
                raise click.UsageError("give --file or --server, not both")
            server = None  # it came from the environment
        if server is None:
            return command(target=Target(path), **others)
        from sealserve.broker.admin.connection import Server

        there = Server(server, ca, token_file, client_certificate, client_key)
        return command(target=Target(path, there), **others)

    for option in reversed((SETTINGS, *_REMOTE)):
        run = option(run)
    return run


@contextlib.contextmanager
def administration(target: Target) -> Iterator[BrokerAdministration | RemoteAdministration]:
    """Administration of that broker by whoever runs this command."""
    from sealserve.broker.administration import BrokerAdministration

    if target.server is None:
        with opened_store(target.path) as store:
            yield BrokerAdministration(store, actor=actor())
        return
    from sealserve.broker.admin.connection import Connection
    from sealserve.broker.admin.remote import RemoteAdministration

    with Connection(target.server) as connection:
        yield RemoteAdministration(connection)


@contextlib.contextmanager
def audit_log(target: Target) -> Iterator[AuditReader | RemoteAudit]:
    """The audit log of that broker."""
    from sealserve.broker.audit_reading import AuditReader

    if target.server is None:
        with opened_store(target.path) as store:
            yield AuditReader(store)
        return
    from sealserve.broker.admin.connection import Connection
    from sealserve.broker.admin.remote import RemoteAudit

    with Connection(target.server) as connection:
        yield RemoteAudit(connection)


def show(value: Any, text: str, *, as_json: bool) -> None:
    """Print a result for a script or for a person."""
    click.echo(json.dumps(value) if as_json else text)
