"""``sealserve image push``, ``save`` and ``model``: images on their way to a cluster."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sealserve.cli.deployment_option import deployment_option
from sealserve.cli.image_build import context_option, dry_run_option, engine_option, find_engine, perform_all
from sealserve.cli.progress import progress_bar
from sealserve.errors import InputError, MachineError
from sealserve.logs import printable

if TYPE_CHECKING:
    from sealserve.deploy.images.engines import Name
    from sealserve.deploy.images.oci_archive import Image
    from sealserve.deploy.images.registry import Reference

_file = click.Path(dir_okay=False, path_type=Path, readable=False)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_to = click.option("--to", metavar="NAME[:TAG]", help="Another name than the one that it has.")

# What an image is for → the setting of deployment.yaml that names it.
_SETTINGS = {
    "replica": "kubernetes.image",
    "simulated": "kubernetes.image",
    "model": "kubernetes.sealed_model.image",
    "broker": "kubernetes.brokers.image",
}


def _write(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option(
            "--setting", metavar="NAME", help="With --write: another setting, such as kubernetes.canary.image."
        ),
        click.option(
            "--write", "deployment", type=_file, metavar="FILE", help="Put name and digest into this deployment.yaml."
        ),
    ):
        command = option(command)
    return command


@click.command(short_help="Put an image into a registry.")
@context_option
@engine_option
@click.option("--archive", type=_file, help="An archive of `image save` or `image model`, in the place of a build.")
@_to
@_write
@click.option("--ca", type=_file, help="Authorities that may certify the registry, PEM; the system's if not given.")
@click.option("--insecure-http", is_flag=True, help="Without TLS: whoever is between reads password and image.")
@dry_run_option
@_json
def push(
    *,
    directory: Path,
    engine_name: Name | None,
    archive: Path | None,
    to: str | None,
    deployment: Path | None,
    setting: str | None,
    ca: Path | None,
    insecure_http: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Put the image that was built, a replica's when it is signed, into the registry in its name, and print the
    digest that the registry has.

    Logins are those of `docker login` and `podman login`. What the registry has already is not sent again.
    """
    from sealserve.deploy.images.pushing import push as push_image
    from sealserve.files import read_file

    if ca is not None:
        read_file(ca)  # with an error that says what to do
    if dry_run and archive is None:
        _say_what_is_run(directory, engine_name, to)
        return
    with _image(directory, engine_name, archive, to) as (image, reference, kind):
        _require_registry(reference)
        if dry_run:
            click.echo(printable(f"would push {reference.pinned(image.digest)}"))
            return
        with progress_bar("  sending the image") as progress:
            digest = push_image(image, reference, ca=ca, insecure_http=insecure_http, progress=progress)
    _tell(reference, digest, kind, _place(kind, deployment, setting), as_json=as_json, more={"size": image.size})


@click.command(short_help="Save an image for clusters without a registry.")
@context_option
@engine_option
@click.option("-o", "--output", type=_file, required=True, help="The file to write.")
@_to
@_write
@_json
def save(
    *,
    directory: Path,
    engine_name: Name | None,
    output: Path,
    to: str | None,
    deployment: Path | None,
    setting: str | None,
    as_json: bool,
) -> None:
    """Save the image that was built as an OCI archive, and print name and digest that pods have to name.

    A cluster takes it without a registry: `kind load image-archive FILE`, `minikube image load FILE`,
    `k3s ctr images import FILE`, `ctr -n k8s.io images import FILE`, on every node.
    """
    from sealserve.deploy.images.oci_archive import write_archive

    with _image(directory, engine_name, None, to) as (image, reference, kind):
        write_archive(image, reference, output, kind=kind)
    _tell(reference, image.digest, kind, _place(kind, deployment, setting), as_json=as_json, more={"file": str(output)})


@click.command(short_help="Make an image of the sealed model.")
@deployment_option
@click.option("-o", "--output", type=_file, required=True, help="The file to write.")
@_to
@_write
@_json
def model(
    *, file: Path, output: Path, to: str | None, deployment: Path | None, setting: str | None, as_json: bool
) -> None:
    """Save the sealed model as an OCI archive with nothing else in it, for kubernetes.sealed_model.image.

    No container engine is needed, and the same sealed model gives the same digest. `image push --archive FILE` puts
    it into a registry; clusters take it as they take what `image save` wrote.
    """
    from sealserve.deploy import load_deployment
    from sealserve.deploy.images.context import image_name
    from sealserve.deploy.images.model_image import model_image
    from sealserve.deploy.images.oci_archive import working_directory, write_archive
    from sealserve.deploy.images.registry import Reference

    loaded = load_deployment(file)
    reference = Reference.parse(to or image_name(loaded, "model"))
    with working_directory() as work:
        image = model_image(loaded.state / "platform" / "sealed", work)
        write_archive(image, reference, output, kind="model")
    _tell(
        reference,
        image.digest,
        "model",
        _place("model", deployment, setting),
        as_json=as_json,
        more={"file": str(output)},
    )


@contextmanager
def _image(
    directory: Path, engine_name: Name | None, archive: Path | None, to: str | None
) -> Iterator[tuple[Image, Reference, str]]:
    """The image, what it shall be called, and what it is for."""
    from sealserve.deploy.images.context import Context
    from sealserve.deploy.images.oci_archive import read_archive, working_directory
    from sealserve.deploy.images.registry import Reference

    with working_directory() as work:
        if archive is None:
            context = Context.load(directory)
            archive = work / "saved.tar"
            look, save_it = find_engine(engine_name, dry_run=False).save(context, archive)
            try:
                perform_all([look], dry_run=False)
            except MachineError as error:
                raise InputError(
                    f"{look[0]} has no image {context.image}; what it said is above",
                    hint="`sealserve image build` makes it, and a replica's for SGX `sealserve image sign`.",
                ) from error
            perform_all([save_it], dry_run=False)
            image = read_archive(archive, work)
            name, kind = context.image, str(context.kind)
        else:
            image = read_archive(archive, work)
            if image.kind is None or image.name is None:
                raise InputError(f"{archive} was not written by `sealserve image save` or `sealserve image model`")
            name, kind = image.name.partition("@")[0], image.kind
        yield image, Reference.parse(to or name), kind


def _say_what_is_run(directory: Path, engine_name: Name | None, to: str | None) -> None:
    from sealserve.deploy.images.context import Context
    from sealserve.deploy.images.registry import Reference

    context = Context.load(directory)
    _require_registry(reference := Reference.parse(to or context.image))
    for command in find_engine(engine_name, dry_run=True).save(context, Path("saved.tar")):
        click.echo(shlex.join(command))
    click.echo(printable(f"and push it to {reference.full}:{reference.tag}"))


def _require_registry(reference: Reference) -> None:
    if reference.full.startswith("docker.io/library/"):
        raise InputError(
            f"{reference.given} names no registry to push to",
            hint="Give image.name one (registry.example/team/classifier:1) and render it again, or use --to.",
        )


def _place(kind: str, deployment: Path | None, setting: str | None) -> tuple[Path | None, str | None]:
    """The file that gets name and digest, and the setting."""
    if setting is not None and deployment is None:
        raise click.UsageError("--setting goes with --write.")
    setting = setting or _SETTINGS.get(kind)
    if deployment is not None and setting is None:
        raise click.UsageError(f"No setting names the image of a {kind}: say which one with --setting.")
    return deployment, setting


def _tell(
    reference: Reference,
    digest: str,
    kind: str,
    place: tuple[Path | None, str | None],
    *,
    as_json: bool,
    more: dict[str, Any],
) -> None:
    """Say which line a deployment wants, and put it there if that was asked for."""
    from sealserve.deploy.setting_edit import as_yaml, write_setting

    pinned = reference.pinned(digest)
    deployment, setting = place
    written = None if deployment is None or setting is None else write_setting(deployment, setting, pinned)
    if as_json:
        told = {"image": pinned, "digest": digest, "kind": kind, "setting": setting, "written": written, **more}
        click.echo(json.dumps(told))
        return
    click.echo(pinned)
    if setting is None:
        return
    if written is None:
        click.echo(printable(f"for deployment.yaml: {as_yaml(setting, pinned)}"), err=True)
    else:
        click.echo(
            printable(f"{setting} of {deployment} {'names it now' if written else 'named it already'}"), err=True
        )
