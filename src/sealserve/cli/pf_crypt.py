"""``sealserve pf-crypt``: in place of ``gramine-sgx-pf-crypt``."""

from __future__ import annotations

import functools
import stat
from pathlib import Path

import click

from sealserve.cli.progress import progress_bar
from sealserve.cli.signals import interrupted_by_termination

_key_file = click.Path(path_type=Path, readable=False)


@click.command(name="pf-crypt", short_help="Take the place of gramine-sgx-pf-crypt.")
@click.argument("mode", type=click.Choice(["gen-key", "encrypt", "decrypt"]))
@click.option("-w", "--wrap-key", "key_file", required=True, type=_key_file, help="Wrap key file.")
@click.option("-i", "--input", "source", help="File or directory to convert.")
@click.option("-o", "--output", "target", help="File or directory to write; for encrypt, also the path to embed.")
@click.option("-V", "--verify", is_flag=True, help="decrypt: refuse a file whose embedded path is not its input path.")
@click.option("-v", "--verbose", is_flag=True, help="Say more.")
@click.option(
    "--format-version", type=click.Choice(["1", "2"]), default="2", help="encrypt: 1 for Gramine up to 1.8; else 2."
)
def pf_crypt(
    mode: str,
    *,
    key_file: Path,
    source: str | None,
    target: str | None,
    verify: bool,
    verbose: bool,
    format_version: str,
) -> None:
    """Take the place of gramine-sgx-pf-crypt: the same options, the same files.

    An existing output is replaced as a whole once the new one is complete. An input that is its own output is refused,
    and so is an output that is a link or a device. gen-key replaces an existing key, as Gramine's tool does;
    `sealserve key generate` does not.
    """
    from sealserve.sealing.convert import decrypt_tree, encrypt_tree
    from sealserve.sealing.keys import generate_wrap_key, read_wrap_key
    from sealserve.sealing.layout import FormatVersion

    # Gramine's tool says on standard error what it does.
    say = functools.partial(click.echo, err=True)
    if mode == "gen-key":
        generate_wrap_key(key_file, replace=True)
        say(f"Wrap key saved to: {key_file}")
        return
    if source is None or target is None:
        raise click.UsageError("Input or output path not specified")
    # Keys that Gramine's tool made are often readable by others: a script that uses one must go on working.
    with read_wrap_key(key_file, insecure_allow_readable_key=True) as key:
        if stat.S_IMODE(key_file.stat().st_mode) & 0o077:
            say(f"warning: the wrap key {key_file} can be read by others; run `chmod 600 {key_file}`")
        if verbose:
            say(f"Wrap key: {key_file}; format version {format_version}")
        with interrupted_by_termination(), progress_bar(f"{mode}ing") as progress:
            if mode == "encrypt":
                version: FormatVersion = 1 if format_version == "1" else 2
                encrypt_tree(source, target, key, version=version, say=say, progress=progress)
            else:
                decrypt_tree(source, target, key, verify_path=verify, say=say, progress=progress)


def main() -> None:
    """The console script ``sealserve-pf-crypt``: its arguments are those of Gramine's tool."""
    import sys

    from sealserve.cli.main import main as run

    run(["pf-crypt", *sys.argv[1:]])
