"""``sealserve key``: wrap keys."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.group()
def key() -> None:
    """Make the keys under which models are sealed."""


@key.command(short_help="Write a new wrap key to FILE.")
@click.argument("file", type=click.Path(readable=False))
@click.option("--force", is_flag=True, help="Replace an existing key. What was sealed under it is then lost.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def generate(file: str, force: bool, as_json: bool) -> None:
    """Write a new wrap key, 16 raw random bytes, to FILE, readable by you alone."""
    from sealserve.errors import KeyFileError
    from sealserve.sealing.keys import generate_wrap_key
    from sealserve.sealing.storage import is_directory

    path = Path(file)
    if not file or is_directory(path):
        what = f"{file} is a directory" if file else "the name of the key file is empty"
        raise KeyFileError(what, hint="Name the file that the key is to be written to.")
    generate_wrap_key(path, replace=force)
    click.echo(json.dumps({"key": str(path)}) if as_json else f"wrote a new wrap key to {file}")
