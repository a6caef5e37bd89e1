"""``sealserve model``: get models, convert them and look into them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import click

from sealserve.cli.failures import say
from sealserve.cli.progress import progress_bar
from sealserve.cli.signals import interrupted_by_termination
from sealserve.errors import ModelError
from sealserve.logs import printable, printable_lines

# That it cannot be read is told by the command, with a hint, and is no wrong command line.
_path = click.Path(path_type=Path, readable=False)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def _size(_context: click.Context, _parameter: click.Parameter, value: str) -> int:
    found = re.fullmatch(r"([0-9]{1,15})([KMG]?)", value, re.ASCII | re.IGNORECASE)
    if found is None:
        raise click.BadParameter("a size is a number of bytes, or one with K, M or G: 500M, 2G")
    return int(found[1]) * _UNITS[found[2].upper()]


def _digest(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        raise click.BadParameter("a SHA-256 has 64 hexadecimal digits")
    return value


@click.group()
def model() -> None:
    """Get models, convert them, and look into them."""


@model.command(short_help="Get a model by its name, from an address or a path.")
@click.argument("source")
@click.option("--to", "target", type=_path, help="Directory to write; one named like the source if not given.")
@click.option("--sha256", callback=_digest, metavar="HEX", help="Refuse a file with another SHA-256.")
@click.option(
    "--max-size",
    "max_bytes",
    callback=_size,
    default="2G",
    show_default=True,
    metavar="SIZE",
    help="Refuse a larger file, and an archive that holds more.",
)
@click.option("--model-version", type=click.IntRange(min=1), help="Number of the version to write.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds without a byte after which the server counts as gone.",
)
@_json_option
def fetch(
    source: str,
    *,
    target: Path | None,
    sha256: str | None,
    max_bytes: int,
    model_version: int | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Get a model into a directory, as `sealserve serve` and `sealserve seal` expect it.

    SOURCE is a name, an address (https://…) or a path: of a SavedModel, a frozen graph (.pb), an ONNX model, or an
    archive (.tar.gz, .tar, .zip) with one of them.

    \b
    Names:
      efficientnet-lite0   ImageNet classes, 18 MB; its weights come with the
                           extra `example`, and nothing is downloaded
      resnet50-v15-fp32    Intel's frozen graph of ResNet-50 v1.5 in FP32,
                           about 100 MB

    A download that broke off goes on where it stopped when the command is run again. Its SHA-256 is written beside it:
    a later one must bring the same file. The first is trusted, if you do not say with --sha256 what it must be.
    """
    from sealserve.models.download import shown
    from sealserve.models.fetching import fetch_model

    with interrupted_by_termination(), progress_bar("fetching", worth_showing=0) as progress:
        found = fetch_model(
            source,
            target,
            sha256=sha256,
            max_bytes=max_bytes,
            version=model_version,
            timeout=timeout,
            progress=progress,
        )
    source = shown(source) if "://" in source else source
    if as_json:
        report = {
            "source": source,
            "kind": found.kind.value,
            "path": str(found.path),
            "size": found.size,
            "sha256": found.sha256,
            "compared_with": found.trusted,
            "from": found.origin,
            "next": found.following,
        }
        click.echo(json.dumps(report))
        return
    came = f", from {found.origin}" if found.origin else ""
    click.echo(printable(f"wrote {source} to {found.path} ({found.size:,} bytes{came})"))
    if found.sha256:
        compared = {"given": " (as given)", "recorded": " (as an earlier fetch had it)", None: ""}
        click.echo(f"SHA-256: {found.sha256}{compared[found.trusted]}")
    click.echo(printable(f"next: {found.following}"))
    if found.origin and found.trusted is None:
        say("note", "yellow", "this first download is trusted; later ones must bring the same file")


@model.command(
    context_settings={"token_normalize_func": lambda name: name.replace("-", "_")},
    short_help="Turn a frozen graph into a SavedModel.",
)
@click.option("--import_path", type=_path, required=True, help="The frozen graph: a .pb file.")
@click.option(
    "--export_dir", type=_path, required=True, help="Directory of the model; the version is written below it."
)
@click.option("--model_version", type=click.IntRange(min=1), default=1, show_default=True, help="Its number.")
@click.option("--inputs", metavar="TENSORS", help="What is fed; the graph's only placeholder if not given.")
@click.option("--outputs", metavar="TENSORS", help="What is answered; the graph's only end if not given.")
@_json_option
def convert(
    *,
    import_path: Path,
    export_dir: Path,
    model_version: int,
    inputs: str | None,
    outputs: str | None,
    as_json: bool,
) -> None:
    """Turn a frozen graph into a SavedModel, without TensorFlow.

    The flags are those of `model_graph_to_saved_model.py`; they may be written with dashes too. TENSORS are names of
    nodes, separated by commas. Callers name them alike; `image=input` gives `input` the name `image`.
    """
    from sealserve.models.conversion import convert_frozen_graph

    with interrupted_by_termination():
        done = convert_frozen_graph(
            import_path,
            export_dir,
            version=model_version,
            inputs=_tensors(inputs),
            outputs=_tensors(outputs),
        )
    if as_json:
        sides = {"inputs": done.inputs, "outputs": done.outputs}
        specs = {
            side: {
                alias: {"tensor": spec.name, "dtype": spec.dtype, "shape": spec.shape} for alias, spec in found.items()
            }
            for side, found in sides.items()
        }
        click.echo(json.dumps({"path": str(done.path), **specs, "left_out": done.left_out}))
        return
    click.echo(printable(f"wrote {done.path / 'saved_model.pb'}"))
    for label, specs_of in (("input", done.inputs), ("output", done.outputs)):
        for alias, spec in specs_of.items():
            click.echo(printable(f"  {label:<7} {alias}: {spec}"))
    if done.left_out:
        click.echo(f"  {done.left_out:,} nodes that the outputs do not need are left out")
    click.echo(printable(f"next: {shlex.join(['sealserve', 'model', 'inspect', str(export_dir)])}"))


@model.command(short_help="Tell what a model can be asked, and which engine runs it.")
@click.argument("path", type=_path)
@click.option("--version", type=int, help="The version to describe; the highest if not given.")
@click.option("--check", is_flag=True, help="Load it with each engine that is installed.")
@click.option("--key", "key_file", type=_path, help="Wrap key file, for a sealed model.")
@click.option("--insecure-allow-readable-key", "readable", is_flag=True, help="Accept a key file that others can read.")
@_json_option
def inspect(
    path: Path, *, version: int | None, check: bool, key_file: Path | None, readable: bool, as_json: bool
) -> None:
    """Print the signatures, versions, sizes and operations of the model at PATH, and which engine can run it.

    PATH is the directory of a model or of one version, a frozen graph, or an ONNX model. Which engine can run it is
    judged by the operations; --check loads it, which takes as long as serving it does. Of a sealed model only its
    encrypted files are told without the key.
    """
    from sealserve.models.description import describe_model
    from sealserve.sealing.inspection import inspect as look
    from sealserve.sealing.keys import read_wrap_key
    from sealserve.sealing.model import is_sealed

    if key_file is not None:
        from sealserve.serving.trial import inspect_sealed_model

        if not is_sealed(path):
            raise ModelError(f"{path} is not sealed", hint="Leave --key out.")
        with read_wrap_key(key_file, insecure_allow_readable_key=readable) as key:
            found = inspect_sealed_model(path, key, version, load=check)
    elif is_sealed(path):
        encrypted = look(path)
        click.echo(json.dumps({"kind": "sealed", **encrypted.as_dict()}) if as_json else encrypted.as_text())
        return
    else:
        found = describe_model(path, version)
        if check:
            from sealserve.serving.trial import try_engines

            found = try_engines(found)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    click.echo(json.dumps(found.as_dict()) if as_json else printable_lines(found.as_text(width)))


def _tensors(given: str | None) -> tuple[str, ...]:
    return tuple(one.strip() for one in given.split(",")) if given else ()
