"""The root of the command line: which commands there are, and how an error reaches the user."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import click

from sealserve import __version__, logs
from sealserve.cli.failures import did_you_mean, explain_missing_module, explain_system_error, show_failure
from sealserve.cli.streams import prepare_streams

# Heading → command name → (module, attribute). Loaded when asked for.
SECTIONS = {
    "A deployment on this machine": {
        "demo": ("sealserve.cli.demo", "demo"),
        "init": ("sealserve.cli.init", "init"),
        "up": ("sealserve.cli.cluster", "up"),
        "prepare": ("sealserve.cli.prepare", "prepare"),
        "status": ("sealserve.cli.cluster", "status"),
        "logs": ("sealserve.cli.cluster", "logs"),
        "down": ("sealserve.cli.cluster", "down"),
    },
    "Calling replicas": {
        "verify": ("sealserve.cli.client_verify", "verify"),
        "predict": ("sealserve.cli.client", "predict"),
        "proxy": ("sealserve.cli.proxy", "proxy"),
        "bench": ("sealserve.cli.bench", "bench"),
        "resnet-client": ("sealserve.cli.resnet_client", "resnet_client"),
    },
    "Models": {
        "model": ("sealserve.cli.model", "model"),
        "key": ("sealserve.cli.key", "key"),
        "seal": ("sealserve.cli.seal", "seal"),
        "unseal": ("sealserve.cli.seal", "unseal"),
        "pf-crypt": ("sealserve.cli.pf_crypt", "pf_crypt"),
    },
    "Keys, evidence, certificates": {
        "broker": ("sealserve.cli.broker", "broker"),
        "evidence": ("sealserve.cli.evidence", "evidence"),
        "tls": ("sealserve.cli.tls", "tls"),
    },
    "Servers and their machines": {
        "serve": ("sealserve.cli.serve", "serve"),
        "replica": ("sealserve.cli.replica", "replica"),
        "image": ("sealserve.cli.image", "image"),
        "k8s": ("sealserve.cli.kubernetes", "k8s"),
        "cloud": ("sealserve.cli.cloud", "cloud"),
        "doctor": ("sealserve.cli.doctor", "doctor"),
    },
}
COMMANDS = {name: where for section in SECTIONS.values() for name, where in section.items()}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for heading, names in SECTIONS.items():
            commands = ((name.ljust(width), self.get_command(ctx, name)) for name in names)
            with formatter.section(heading):
                formatter.write_dl([(name, command.get_short_help_str(200)) for name, command in commands if command])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}.{attribute} is not a command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if args[0] in COMMANDS:
                raise
            # Click itself compares with commands that are loaded.
            raise click.UsageError(error.message + did_you_mean(args[0], COMMANDS), ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise click.Abort from None  # Click itself would print an empty line
        except BrokenPipeError:
            raise ReaderGoneError from None  # Click itself would end with exit code 1


class ReaderGoneError(Exception):
    """Whoever read the output of the command does not any more (``| head``): nothing is wrong."""


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
    machine_readable = not {"--json", "--json-logs", "--json_logs"}.isdisjoint(given)
    prepare_streams()
    try:
        with _interruptible():
            # Commands that log, or that say what the logs would, configure them anew.
            logs.configure(json_lines=machine_readable, level=logging.WARNING, command=True)
            result = cli.main(args=given, prog_name="sealserve", standalone_mode=False)
            sys.stdout.flush()
        code = result if isinstance(result, int) else 0
    except (BrokenPipeError, ReaderGoneError):
        code = 0
        _silence()
    except SystemExit as ended:
        # Rich ends the process with 1 when whoever read its output is gone.
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        code = 0
    except (click.Abort, KeyboardInterrupt):
        code = show_failure(KeyboardInterrupt(), machine_readable=machine_readable)
    except ModuleNotFoundError as error:
        code = show_failure(explain_missing_module(error), machine_readable=machine_readable)
    except OSError as error:
        code = show_failure(explain_system_error(error), machine_readable=machine_readable)
        _silence()
    except Exception as error:  # noqa: BLE001 - a defect is told as an error is
        code = show_failure(error, machine_readable=machine_readable)
    sys.exit(code)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt for the length of the block.

    Afterwards it ends the process, if `sealserve.__main__` arranged that: nothing is left to clean up then, and an
    interpreter that ends would show a traceback.
    """
    before = signal.getsignal(signal.SIGINT)
    # A shell starts background jobs with SIGINT ignored: it stays so.
    if before is signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _silence() -> None:
    """Have nothing more printed: what is buffered cannot be written either."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
