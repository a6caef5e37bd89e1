"""``-f``, ``--file``: the deployment that a command is about."""

from __future__ import annotations

from pathlib import Path

import click

deployment_option = click.option(
    "-f",
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("deployment.yaml"),
    show_default=True,
    help="The deployment.",
)
"""Passes ``file``, which need not exist: whoever reads it says how to get one."""
