"""``sealserve seal`` and ``sealserve unseal``: models as Gramine's encrypted files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sealserve.cli.failures import did_you_mean, say
from sealserve.cli.progress import progress_bar
from sealserve.cli.signals import interrupted_by_termination
from sealserve.errors import InputError
from sealserve.logs import printable

if TYPE_CHECKING:
    from sealserve.sealing import SealedModel
    from sealserve.sealing.bulk import Progress
    from sealserve.secret import Secret

# That it cannot be read is told by the command, with a hint, and is no wrong command line.
_directory = click.Path(path_type=Path, readable=False)


class _NamelessContext(click.Context):
    """The context of a command that the user calls by the name of its group."""

    @property
    def command_path(self) -> str:
        return self.parent.command_path if self.parent else super().command_path


class _NamelessCommand(click.Command):
    context_class = _NamelessContext


class _SealGroup(click.Group):
    """`seal MODEL_DIR OUT_DIR` seals; `seal verify` and `seal inspect` are commands of their own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.default: click.Command | None = None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.default is not None and args[0] not in self.commands:
            similar = did_you_mean(args[0], self.commands)
            if similar and not os.path.lexists(args[0]):
                raise click.UsageError(f"There is no directory or command {args[0]!r}.{similar}", ctx)
            return "", self.default, args
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            # Options are the default command's: nothing here may be parsed as the group's own.
            args = ["--", *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "MODEL_DIR OUT_DIR --key FILE --mount PATH [OPTIONS]")
        formatter.write_usage(ctx.command_path, "COMMAND [ARGS]...", prefix="       ")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.default is not None:
            self.default.format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


def key_options(command: Callable[..., None]) -> Callable[..., None]:
    """`--key` and the leave to use one that others can read."""
    command = click.option(
        "--insecure-allow-readable-key", "readable", is_flag=True, help="Accept a key file that others can read."
    )(command)
    return click.option(
        "--key",
        "key_file",
        required=True,
        type=_directory,
        help="Wrap key file: 16 raw bytes, readable by you alone; `sealserve key generate` makes one.",
    )(command)


def _digest(_context: click.Context, _parameter: click.Parameter, value: str | None) -> bytes | None:
    if value is None:
        return None
    try:
        digest = bytes.fromhex(value)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise click.BadParameter("a model digest has 64 hexadecimal digits")
    return digest


_mount_option = click.option(
    "--mount", help="Refuse a model that was sealed for another mount path. Without it any is accepted."
)
_digest_option = click.option("--digest", callback=_digest, help="Refuse a model with another digest.")
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(cls=_SealGroup, short_help="Seal a model into encrypted files.")
def seal() -> None:
    """Seal every file of MODEL_DIR into OUT_DIR, for an enclave that will see OUT_DIR at the mount path.

    MODEL_DIR may be any directory. To be served it has to hold a TensorFlow SavedModel in a directory named by its
    version (MODEL_DIR/1/saved_model.pb): there is a warning if it does not.

    The model digest that is printed names the content: the broker and clients can insist on it. MODEL_DIR is only read.
    OUT_DIR must be new, empty, or left by an interrupted run.
    """


@click.command(cls=_NamelessCommand)
@click.argument("model_dir", type=_directory)
@click.argument("out_dir", type=_directory)
@key_options
@click.option("--mount", required=True, help="The path at which the enclave will see OUT_DIR.")
@click.option(
    "--format-version",
    type=click.Choice(["1", "2"]),
    default="2",
    show_default=True,
    help="2 for Gramine 1.9 and later, 1 for Gramine up to 1.8.",
)
@click.option("--replace", is_flag=True, help="Replace a sealed model in OUT_DIR.")
@click.option("--processes", type=click.IntRange(min=1), help="How many may work; one for each processor if not given.")
@_json_option
def _seal_directory(
    model_dir: Path,
    out_dir: Path,
    *,
    key_file: Path,
    readable: bool,
    mount: str,
    format_version: str,
    replace: bool,
    processes: int | None,
    as_json: bool,
) -> None:
    """Seal a model."""
    from sealserve.sealing import read_wrap_key, seal_model

    if not mount.startswith("/"):
        raise InputError(
            f"the mount path {mount!r} is not absolute",
            hint="Give the path at which the enclave sees the model, e.g. --mount /models/NAME.",
        )
    with (
        interrupted_by_termination(),
        read_wrap_key(key_file, insecure_allow_readable_key=readable) as key,
        progress_bar("sealing") as progress,
    ):
        model = seal_model(
            model_dir,
            out_dir,
            key,
            mount=mount,
            version=1 if format_version == "1" else 2,
            replace=replace,
            processes=processes,
            progress=progress,
        )
    _print(model, f"sealed into {out_dir}", as_json=as_json)
    if not _could_be_served(model):
        warning = f"{model_dir} is sealed, but holds no TensorFlow model: no 1/saved_model.pb, nor another version's"
        if as_json:
            click.echo(json.dumps({"warning": warning}), err=True)
        else:
            say("warning", "yellow", warning, "Check that it is the directory you meant.")


def _could_be_served(model: SealedModel) -> bool:
    return any(re.fullmatch(r"(0|[1-9][0-9]*)/saved_model\.pb", file.name) for file in model.files)


if isinstance(seal, _SealGroup):
    seal.default = _seal_directory


@seal.command(short_help="Check a sealed model, and keep nothing.")
@click.argument("path", type=_directory)
@key_options
@_mount_option
@_digest_option
@_json_option
def verify(
    path: Path, *, key_file: Path, readable: bool, mount: str | None, digest: bytes | None, as_json: bool
) -> None:
    """Decrypt and check everything in PATH, a sealed model, against its list, and keep nothing.

    PATH may be a single encrypted file, too. Then its content and its path are checked, and nothing says whether it
    belongs to a model.
    """
    from sealserve.sealing import open_sealed_model, read_wrap_key

    with read_wrap_key(key_file, insecure_allow_readable_key=readable) as key, progress_bar("verifying") as progress:
        if os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises if a name is too long
            if mount is not None or digest is not None:
                raise InputError(
                    f"{path} is a file, and --mount and --digest are about a sealed model",
                    hint="Name the directory of the sealed model, or leave the options out.",
                )
            file = _verify_file(path, key, progress)
        else:
            model = open_sealed_model(path, key, mount=_mount(path, key, mount), expected_digest=digest)
            model.verify(progress=progress)
            file = None
    if file is None:
        _print(model, f"verified {path}", as_json=as_json)
    elif as_json:
        click.echo(json.dumps(file))
    else:
        click.echo(printable(f"verified {path}: one file, {file['size']:,} bytes, for {file['path']}"))
        click.echo(f"SHA-256: {file['sha256']}")


def _verify_file(path: Path, key: Secret, progress: Progress) -> dict[str, Any]:
    from sealserve.sealing.pipeline import copy_plaintext
    from sealserve.sealing.reader import EncryptedReader

    with EncryptedReader.open(path, key) as reader:
        digest = copy_plaintext(reader, None, progress=progress)
        return {"file": str(path), "path": reader.path, "size": reader.size, "sha256": digest.hex()}


@seal.command(short_help="Tell what an encrypted file or a sealed model is.")
@click.argument("path", type=_directory)
@click.option("--key", "key_file", type=_directory, help="Wrap key file; without it, what everybody can read is told.")
@click.option("--insecure-allow-readable-key", "readable", is_flag=True, help="Accept a key file that others can read.")
@_json_option
def inspect(path: Path, *, key_file: Path | None, readable: bool, as_json: bool) -> None:
    """Tell what PATH, an encrypted file or a sealed model, is, and what of it is authenticated."""
    from sealserve.sealing.inspection import inspect as look
    from sealserve.sealing.keys import read_wrap_key

    key = read_wrap_key(key_file, insecure_allow_readable_key=readable) if key_file else None
    found = look(path, key)
    # Names and paths in hostile files may be no UTF-8: JSON then says so with escapes.
    click.echo(json.dumps(found.as_dict()) if as_json else found.as_text())


@click.command(short_help="Decrypt a sealed model.")
@click.argument("directory", type=_directory)
@click.argument("out_dir", type=_directory)
@key_options
@_mount_option
@_digest_option
@_json_option
def unseal(
    directory: Path,
    out_dir: Path,
    *,
    key_file: Path,
    readable: bool,
    mount: str | None,
    digest: bytes | None,
    as_json: bool,
) -> None:
    """Decrypt the sealed model in DIRECTORY into OUT_DIR, which must be new or empty."""
    from sealserve.sealing import read_wrap_key, unseal_model

    with (
        interrupted_by_termination(),
        read_wrap_key(key_file, insecure_allow_readable_key=readable) as key,
        progress_bar("unsealing") as progress,
    ):
        model = unseal_model(
            directory,
            out_dir,
            key,
            mount=_mount(directory, key, mount),
            expected_digest=digest,
            progress=progress,
        )
    _print(model, f"unsealed into {out_dir}", as_json=as_json)


def _mount(directory: Path, key: Secret, mount: str | None) -> str:
    from sealserve.sealing.model import embedded_mount

    return mount if mount is not None else embedded_mount(directory, key)


def _print(model: SealedModel, done: str, *, as_json: bool) -> None:
    if as_json:
        report = {
            "digest": model.digest.hex(),
            "mount": model.mount,
            "bytes": model.total_size,
            "files": [{"name": f.name, "size": f.size, "sha256": f.sha256.hex()} for f in model.files],
        }
        click.echo(json.dumps(report))
    else:
        files = "1 file" if len(model.files) == 1 else f"{len(model.files)} files"
        click.echo(printable(f"{done}: {files}, {model.total_size:,} bytes, for {model.mount}"))
        click.echo(f"model digest: {model.digest.hex()}")
