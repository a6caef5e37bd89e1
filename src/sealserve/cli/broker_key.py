"""``sealserve broker key`` and ``sealserve broker seal``: keys in the broker's store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sealserve.cli.broker_options import JSON, SETTINGS, Target, actor, administration, opened_store, show, target
from sealserve.cli.progress import progress_bar

if TYPE_CHECKING:
    from sealserve.broker.store import KeyVersion

_FORCE = click.option("--force", is_flag=True, help="Even if a grant needs the version: its enclaves are refused then.")


@click.group()
def key() -> None:
    """Named keys and their versions."""


@key.command()
@click.argument("name")
@target
@JSON
def create(name: str, target: Target, as_json: bool) -> None:
    """Make the key NAME, version 1, with a random value."""
    with administration(target) as administrator:
        _show(administrator.create_key(name), as_json=as_json)


@key.command()
@click.argument("name")
@target
@JSON
def rotate(name: str, target: Target, as_json: bool) -> None:
    """Make the next version of the key NAME. Enclaves get it when a grant is switched to it."""
    with administration(target) as administrator:
        _show(administrator.rotate_key(name), as_json=as_json)


@key.command("import", short_help="Take a wrap key from a file as the next version.")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--version", type=click.IntRange(min=1), help="Its number; the next one if not given.")
@target
@JSON
def import_(name: str, file: Path, version: int | None, target: Target, as_json: bool) -> None:
    """Take the wrap key in FILE (16 raw bytes, mode 0600) over as the next version of NAME. FILE is left as it is."""
    from sealserve.sealing import read_wrap_key

    with administration(target) as administrator, read_wrap_key(file) as value:
        _show(administrator.import_key(name, value, version=version), as_json=as_json)


@key.command("import-tls", short_help="Take a TLS private key from a file.")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--version", type=click.IntRange(min=1), help="Its number; the next one if not given.")
@target
@JSON
def import_tls(name: str, file: Path, version: int | None, target: Target, as_json: bool) -> None:
    """Take the TLS private key in FILE (PEM, mode 0600) over as the next version of NAME. A grant gives it out in its
    section tls.
    """
    from sealserve.files import read_secret_file

    with administration(target) as administrator, read_secret_file(file) as value:
        _show(administrator.import_key(name, value, version=version, kind="tls"), as_json=as_json)


@key.command(short_help="End the use of a version, after a grace period.")
@click.argument("name")
@click.argument("version", type=click.IntRange(min=1))
@click.option(
    "--grace-hours", type=click.FloatRange(min=0), default=168.0, show_default=True, help="How long it lasts."
)
@_FORCE
@target
@JSON
def retire(name: str, version: int, *, grace_hours: float, force: bool, target: Target, as_json: bool) -> None:
    """End the use of a VERSION: after the grace period it is not released any more."""
    from datetime import timedelta

    with administration(target) as administrator:
        grace = timedelta(hours=grace_hours)
        _show(administrator.retire_key(name, version, grace=grace, force=force), as_json=as_json)


@key.command()
@click.argument("name")
@click.argument("version", type=click.IntRange(min=1))
@click.option("--yes", "confirmation", default="", metavar="NAME", help="The name again, to confirm.")
@_FORCE
@target
@JSON
def destroy(name: str, version: int, *, confirmation: str, force: bool, target: Target, as_json: bool) -> None:
    """Delete the value of a VERSION for ever. Models that are sealed under it alone are lost."""
    with administration(target) as administrator:
        _show(administrator.destroy_key(name, version, confirmation=confirmation, force=force), as_json=as_json)


@key.command("list")
@target
@JSON
def list_(target: Target, as_json: bool) -> None:
    """All versions of all keys."""
    with administration(target) as administrator:
        versions = administrator.key_versions()
    text = "\n".join(_line(version) for version in versions) or "there are no keys"
    show([version.as_dict() for version in versions], text, as_json=as_json)


@click.command(short_help="Seal a model under a key of the store.")
@click.argument("model_dir", type=click.Path(path_type=Path))
@click.argument("out_dir", type=click.Path(path_type=Path))
@click.option("--key", "name", required=True, metavar="NAME", help="The key's name in the store.")
@click.option("--version", type=click.IntRange(min=1), help="Its version; the latest active one if not given.")
@click.option("--mount", required=True, help="The path at which the enclave will see OUT_DIR.")
@click.option("--replace", is_flag=True, help="Replace a sealed model in OUT_DIR.")
@SETTINGS
@JSON
def seal(
    model_dir: Path,
    out_dir: Path,
    *,
    name: str,
    version: int | None,
    mount: str,
    replace: bool,
    path: Path,
    as_json: bool,
) -> None:
    """Seal MODEL_DIR into OUT_DIR under a key of the store, which touches no disk on the way.

    It needs the store itself: keys' values do not leave a broker over HTTPS.
    """
    from sealserve.broker.administration import BrokerAdministration
    from sealserve.sealing import seal_model

    with opened_store(path) as store:
        used, value = BrokerAdministration(store, actor=actor()).key_value(name, version, purpose="seal")
    with value, progress_bar("sealing") as progress:
        model = seal_model(model_dir, out_dir, value, mount=mount, replace=replace, progress=progress)
    digest = model.digest.hex()
    show(
        {"key": used.name, "key_version": used.version, "digest": digest, "mount": model.mount},
        f"sealed into {out_dir} under version {used.version} of the key {used.name}\nmodel digest: {digest}",
        as_json=as_json,
    )


def _show(version: KeyVersion, *, as_json: bool) -> None:
    show(version.as_dict(), _line(version), as_json=as_json)


def _line(version: KeyVersion) -> str:
    end = version.destroyed or version.retires
    return f"{version.name} version {version.version}: {version.state()}" + (
        f", {end:%Y-%m-%d %H:%M:%S} UTC" if end else ""
    )
