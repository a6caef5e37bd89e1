"""``sealserve model``: get models and look into them."""

from __future__ import annotations

import json
from pathlib import Path

import click

from sealserve.logs import printable_lines


@click.group()
def model() -> None:
    """Get models, and look into them."""


@model.command()
@click.argument("name")
@click.option(
    "--to",
    "target",
    type=click.Path(path_type=Path),
    help="Directory to write; a directory named like the model if not given.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def fetch(name: str, target: Path | None, as_json: bool) -> None:
    """Write a model that is known by NAME as a TensorFlow SavedModel.

    Known: efficientnet-lite0 (ImageNet classes, 18 MB; its weights come with the extra `example`).
    """
    from sealserve.models.catalogue import fetch_model
    from sealserve.models.description import describe_model

    path = fetch_model(name, target or Path(name))
    description = describe_model(path)
    if as_json:
        click.echo(json.dumps({"model": name, **description.as_dict()}))
    else:
        click.echo(f"wrote {name} to {description.path} ({description.size:,} bytes)")


@model.command(short_help="Print what the model in DIRECTORY can be asked.")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--version", type=int, help="The version to describe; the highest if not given.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(directory: Path, version: int | None, as_json: bool) -> None:
    """Print the signatures, versions, size and operations of the model in DIRECTORY."""
    from sealserve.models.description import describe_model

    description = describe_model(directory, version)
    click.echo(json.dumps(description.as_dict()) if as_json else printable_lines(description.as_text()))
