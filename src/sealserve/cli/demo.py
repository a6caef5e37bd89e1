"""``sealserve demo``: the whole story on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sealserve.cli.failures import final_event

if TYPE_CHECKING:
    from sealserve.deploy.deployment import TlsMode


@click.command(short_help="Show the whole path with real parts, on this machine.")
@click.option(
    "--image", type=click.Path(dir_okay=False, path_type=Path), help="A picture to classify; a photograph is built in."
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("sealserve-demo"),
    show_default=True,
    help="Where everything is made. It is kept, to be looked at.",
)
@click.option(
    "--tls",
    type=click.Choice(["attested", "one-way", "two-way"]),
    default="attested",
    show_default=True,
    help="What replicas show beside their evidence, as tls.mode in deployment.yaml.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, a line a step.")
def demo(*, image: Path | None, directory: Path, tls: TlsMode, as_json: bool) -> None:
    """Show the whole path with real parts: a sealed model, a key broker, attested replicas, nginx, a verifying client.

    Enclaves are simulated, so nothing is protected; everything else is what a deployment runs. When it ends, also by
    Ctrl-C, nothing that it started is left running.
    """
    import logging

    from rich.console import Console

    from sealserve import logs
    from sealserve.cli.signals import interrupted_by_termination
    from sealserve.demo.report import JsonReporter, PeopleReporter
    from sealserve.demo.story import DemoSettings, tell

    logs.configure(json_lines=as_json, level=logging.ERROR)
    console = Console(file=sys.stdout, highlight=False, soft_wrap=False)
    reporter = JsonReporter(console) if as_json else PeopleReporter(console)
    with interrupted_by_termination(), final_event(enabled=as_json, event="end", result="failed"):
        tell(DemoSettings(directory=directory, image=image, tls=tls), reporter)
