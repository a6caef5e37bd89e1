"""``sealserve image render``, ``build``, ``sign``, ``run`` and ``pin``: from a deployment to a container."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sealserve.cli.deployment_option import deployment_option
from sealserve.cli.failures import say
from sealserve.logs import printable

if TYPE_CHECKING:
    from sealserve.deploy.images.engines import Engine, Name

_file = click.Path(dir_okay=False, path_type=Path, readable=False)
_directory = click.Path(file_okay=False, path_type=Path, readable=False)
_DEFAULT_CONTEXT = Path("image")

context_option = click.option(
    "--context", "directory", type=_directory, default=_DEFAULT_CONTEXT, show_default=True, help="Rendered directory."
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Print the commands and run nothing.")


def engine_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--engine",
        "engine_name",
        type=click.Choice(["docker", "podman", "buildah"]),
        help="The first of them that is installed, if not given.",
    )(command)


@click.command(short_help="Write the build context of an image.")
@click.argument("kind", type=click.Choice(["replica", "broker", "client", "simulated"]), default="replica")
@deployment_option
@click.option(
    "-o", "--output", type=_directory, default=_DEFAULT_CONTEXT, show_default=True, help="Directory to write."
)
@click.option("--model-size", type=click.IntRange(min=1), metavar="BYTES", help="Size of the model, if it is not here.")
@click.option("--epc", metavar="SIZE", help="Protected memory of the machine, such as 64G; warn if it is too little.")
@click.option("--policy", type=_file, help="Warn if this policy would refuse every replica of the image.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def render(
    kind: Any,
    *,
    file: Path,
    output: Path,
    model_size: int | None,
    epc: str | None,
    policy: Path | None,
    as_json: bool,
) -> None:
    """Write everything that the image is built from into a directory: KIND is replica, broker,
    client, or simulated: replicas without an enclave, for clusters.

    The same deployment gives the same bytes. A directory that an earlier rendering wrote is replaced.
    """
    from sealserve.deploy.images.context import render_context

    context, warnings = render_context(file, kind, output, model_size=model_size, epc=epc, policy=policy)
    if as_json:
        files = sorted(path.name for path in output.iterdir())
        out = {"context": str(output), "kind": kind, "image": context.image, "files": files, "warnings": warnings}
        click.echo(json.dumps(out))
        return
    for warning in warnings:
        say("warning", "yellow", warning)
    click.echo(printable(f"wrote {output}, for the image {context.image}"))
    option = "" if output == _DEFAULT_CONTEXT else f" --context {shlex.quote(str(output))}"
    click.echo(printable(f"`sealserve image build{option}` builds it"))


@click.command(short_help="Build an image.")
@context_option
@engine_option
@click.option("--pip-config", type=_file, metavar="FILE", help="A pip.conf that names your package index.")
@dry_run_option
def build(directory: Path, engine_name: Name | None, pip_config: Path | None, dry_run: bool) -> None:
    """Build the image that was rendered; a replica's has to be signed then."""
    from sealserve.deploy.images.context import Context

    context = Context.load(directory)
    config = None if pip_config is None else _existing(pip_config)
    perform_all(find_engine(engine_name, dry_run=dry_run).build(context, pip_config=config), dry_run=dry_run)
    if context.kind == "replica" and not dry_run:
        click.echo(printable(f"built {context.unsigned_image}; `sealserve image sign` makes {context.image} of it"))


@click.command(short_help="Sign a replica's image.")
@context_option
@engine_option
@click.option("--key", type=_file, required=True, help="Signing key: RSA, 3072 bits, exponent 3, in PEM.")
@click.option("--new-key", is_flag=True, help="Make the key first.")
@click.option(
    "-o",
    "--output",
    type=_directory,
    default=Path("signature"),
    show_default=True,
    help="Where the signature (replica.sig) and the manifest that it is for go.",
)
@dry_run_option
def sign(*, directory: Path, engine_name: Name | None, key: Path, new_key: bool, output: Path, dry_run: bool) -> None:
    """Sign the enclave of the image that was built, and make the image to run.

    The key is lent to one build step, and is in no layer and no log. The signature says MRENCLAVE, which policies
    name: `sealserve image measure` reads it.
    """
    from sealserve.deploy.images.context import Context
    from sealserve.deploy.images.signing_key import check_signing_key, generate_signing_key
    from sealserve.files import make_directory

    context = Context.load(directory)
    engine = find_engine(engine_name, dry_run=dry_run)
    commands = engine.sign(context, key.absolute(), output)
    if not dry_run:
        if new_key:
            generate_signing_key(key)
            click.echo(printable(f"wrote a new signing key to {key}: keep it, and keep it to yourself"))
        check_signing_key(key)
        make_directory(output, mode=0o755)
    perform_all(commands, dry_run=dry_run)
    if not dry_run:
        click.echo(printable(f"signed {context.image}; its signature is {output / 'replica.sig'}"))


@click.command(short_help="Run an image.")
@context_option
@engine_option
@click.option("--sealed", type=_directory, help="replica: directory of the sealed model.")
@click.option(
    "--tls", "tls_files", type=_directory, help="replica with tensorflow-serving: directory of the sealed ssl.cfg."
)
@click.option("--state", type=_directory, help="broker: directory with broker.yaml, keys and store.")
@click.option("--publish", default="127.0.0.1", show_default=True, help="Address at which its ports are reached.")
@dry_run_option
@click.argument("arguments", nargs=-1)
def run(
    *,
    directory: Path,
    engine_name: Name | None,
    sealed: Path | None,
    tls_files: Path | None,
    state: Path | None,
    publish: str,
    dry_run: bool,
    arguments: tuple[str, ...],
) -> None:
    """Run the image in the foreground, with no more rights than it needs.

    Its root is read-only, all capabilities are dropped, and it gets what was named: a replica the SGX devices and the
    machine's AESM socket as well. ARGUMENTS are those of `sealserve`, for client and broker: a replica's are measured.
    """
    from sealserve.deploy.images.context import Context
    from sealserve.deploy.images.mounts import mounts_of

    context = Context.load(directory)
    mounts = mounts_of(context, sealed=sealed, tls=tls_files, state=state, arguments=arguments)
    command = find_engine(engine_name, dry_run=dry_run).run(
        context, mounts=mounts, publish=publish, arguments=arguments
    )
    perform_all([command], dry_run=dry_run)


@click.command(short_help="Ask a registry for the digest of an image.")
@click.argument("reference")
@click.option("--ca", type=_file, help="Authorities that may certify the registry, PEM; the system's if not given.")
@click.option("--insecure-http", is_flag=True, help="Ask without TLS: whoever is between chooses the answer.")
@click.option(
    "--write",
    nargs=2,
    metavar="FILE SETTING",
    help="Put it into this deployment.yaml, in the place of a setting such as image.base.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def pin(reference: str, ca: Path | None, insecure_http: bool, write: tuple[str, str] | None, as_json: bool) -> None:
    """Print the image REFERENCE (NAME:TAG) with the digest of what its tag means now.

    That is what image.base and image.model_server of deployment.yaml want. It is asked without a login.
    """
    from sealserve.deploy.images.registry import Reference, resolve
    from sealserve.deploy.setting_edit import write_setting

    image = Reference.parse(reference)
    digest = resolve(image, ca=None if ca is None else _existing(ca), insecure_http=insecure_http)
    pinned = image.pinned(digest)
    if write is not None:
        write_setting(Path(write[0]), write[1], pinned)
    click.echo(json.dumps({"reference": reference, "digest": digest, "pinned": pinned}) if as_json else pinned)


COMMANDS: Iterable[click.Command] = (render, build, sign, run, pin)
"""In the order in which they are used."""


def find_engine(name: Name | None, *, dry_run: bool) -> Engine:
    """The engine of that name; to show commands it need not be installed."""
    from sealserve.deploy.images.engines import Engine

    return Engine(name) if dry_run and name is not None else Engine.find(name)


def perform_all(commands: Sequence[Sequence[str]], *, dry_run: bool) -> None:
    """Run commands one after the other, or print them."""
    from sealserve.deploy.images.engines import perform

    for command in commands:
        if dry_run:
            click.echo(shlex.join(command))
        else:
            click.echo(f"+ {shlex.join(command)}", err=True)
            perform(command)


def _existing(path: Path) -> Path:
    from sealserve.files import read_file

    read_file(path)  # with an error that says what to do
    return path.absolute()
