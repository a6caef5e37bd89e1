"""``sealserve init``: the first deployment.yaml."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from sealserve.errors import ConfigurationError, InputError

# What each option sets.
_SETTINGS = {"--name": "name", "--model": "model.path", "--model-name": "model.name"}


@click.command()
@click.option(
    "-f",
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("deployment.yaml"),
    show_default=True,
    help="The file to write.",
)
@click.option("--force", is_flag=True, help="Write over an existing file.")
@click.option("--name", help="Name of the deployment: lower-case letters, digits and hyphens.")
@click.option("--model", help="Base directory of the model, with a directory for each version.")
@click.option("--model-name", help="Name that clients call the model by.")
@click.option("--kubernetes", is_flag=True, help="Fill in what a Kubernetes cluster needs, simulated.")
@click.option("--image", help="With --kubernetes: name of the image in a registry of yours.")
@click.option("--broker", metavar="ADDRESS", help="With --kubernetes: where pods find the key broker, on this machine.")
def init(
    *,
    file: Path,
    force: bool,
    name: str | None,
    model: str | None,
    model_name: str | None,
    kubernetes: bool,
    image: str | None,
    broker: str | None,
) -> None:
    """Write a commented deployment.yaml, and say what comes next."""
    from sealserve.configuration import parse_yaml
    from sealserve.deploy import Deployment, render_template
    from sealserve.deploy.first_cluster import cluster_values
    from sealserve.files import write_atomically
    from sealserve.local.account import file_option
    from sealserve.local.layout import Layout

    if not kubernetes and (image or broker):
        raise click.UsageError("--image and --broker go with --kubernetes.")

    if file.exists() and not force:
        raise InputError(f"{file} exists already", hint="Choose another name with -f, or write over it with --force.")
    options = {"--name": name, "--model": model, "--model-name": model_name}
    values: dict[str, Any] = {_SETTINGS[option]: value for option, value in options.items() if value is not None}
    if kubernetes:
        values |= cluster_values(name or "my-deployment", image=image, broker=broker)
    text = render_template(values)
    try:
        deployment = parse_yaml(text, Deployment, path=file)
    except ConfigurationError as error:
        raise _about_options(error, file) from None
    write_atomically(file, text)
    click.echo(f"wrote {file}\n\nNext:")
    path = file.parent / deployment.model.path
    if not path.is_dir():
        click.echo(
            f"  put the versions of your model under {path}/ (as {path}/1/saved_model.pb), or take one that is known:\n"
            f"  {shlex.join(['sealserve', 'model', 'fetch', 'efficientnet-lite0', '--to', str(path)])}"
        )
    steps = None
    if kubernetes:
        broker_file = Layout(file.parent / deployment.state).broker_configuration
        steps = _in_a_cluster(file, file_option(file), broker_file, registry=image is not None)
    for step in steps or [f"sealserve up{file_option(file)}"]:
        click.echo(f"  {step}")


def _in_a_cluster(file: Path, option: str, broker: Path, *, registry: bool) -> list[str]:
    written = shlex.quote(str(file))
    load = [f"kind load image-archive {name}.tar" for name in ("replica", "model")]
    load = ["sealserve image push --archive model.tar"] if registry else load
    image = f"push --write {written}" if registry else f"save -o replica.tar --write {written}"
    return [
        f"sealserve image pin ubuntu:24.04 --write {written} image.base",
        f"sealserve prepare{option}",
        f"sealserve image render simulated{option}",
        "sealserve image build",
        f"sealserve image {image}",
        f"sealserve image model{option} -o model.tar --write {written}",
        *([] if registry else ["# into a kind cluster; other clusters: docs/kubernetes-quickstart.md"]),
        *load,
        f"sealserve broker run -f {shlex.quote(str(broker))}    # in a terminal of its own",
        f"sealserve k8s apply{option}",
    ]


def _about_options(error: ConfigurationError, file: Path) -> InputError:
    """The same error in terms of what was typed; there is no file yet that could be corrected."""
    lines = []
    for line in error.message.splitlines():
        # FILE:LINE: SETTING: PROBLEM
        setting, _, problem = line.removeprefix(f"{file}:").partition(": ")[2].partition(": ")
        option = next((option for option, name in _SETTINGS.items() if name == setting), setting)
        lines.append(f"{option}: {problem}")
    return InputError("\n".join(lines), hint="Nothing was written.")
