"""``sealserve cloud``: clouds and machines that replicas can run on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from sealserve.cli.evidence_display import Page
    from sealserve.deploy.clouds import CloudProfile
    from sealserve.deploy.clouds.profile import Instance

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def cloud() -> None:
    """Clouds and machines that replicas can run on in SGX or TDX."""


@cloud.command("list", short_help="Print the profiles that there are.")
@_json
def list_profiles(*, as_json: bool) -> None:
    """Print the profiles that there are, with SGX memory and the TDX families of the same provider."""
    from sealserve.deploy.clouds import load_profile, profile_names

    profiles = [load_profile(name) for name in profile_names()]
    if as_json:
        click.echo(json.dumps([profile.model_dump(mode="json") for profile in profiles]))
        return
    page = _page()
    for profile in profiles:
        page.title(profile.full_name)
        page.prose(profile.title, indent="  ")
        page.value("SGX memory", _epc(profile))
        page.value("TDX", ", ".join(profile.tdx.families) or "see `sealserve cloud show`")
    click.echo("\n`sealserve cloud show NAME` prints all of one.")


@cloud.command(short_help="Print all that is known of PROFILE.")
@click.argument("profile", metavar="PROFILE[:REGION]")
@_json
def show(profile: str, *, as_json: bool) -> None:
    """Print all that is known of PROFILE, where it is from, and what is not confirmed."""
    from sealserve.deploy.clouds import load_profile

    found = load_profile(profile)
    if as_json:
        click.echo(json.dumps(found.model_dump(mode="json")))
    else:
        _show(_page(), found)


@cloud.command(short_help="Print a script that prepares a machine of PROFILE.")
@click.argument("profile", metavar="PROFILE[:REGION]")
@click.option("--tee", type=click.Choice(["sgx", "tdx"]), default="sgx", show_default=True, help="What it shall run.")
@click.option("--pccs", metavar="URL", help="A PCCS of your own, in place of the profile's.")
@click.option(
    "--pccs-ca",
    type=click.Path(dir_okay=False, path_type=Path),
    help="PEM file of the authority that certified it. The machine will trust it.",
)
@click.option(
    "--qcnl", "only_qcnl", is_flag=True, help="Print the sgx_default_qcnl.conf alone, for an image or another tool."
)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="The file to write.")
def setup(
    profile: str,
    *,
    tee: Literal["sgx", "tdx"],
    pccs: str | None,
    pccs_ca: Path | None,
    only_qcnl: bool,
    output: Path | None,
) -> None:
    """Print a bash script that prepares a machine of PROFILE: signed packages, quote provider, permissions, clock.

    Nothing is run. Read it, and run it as root on that machine; it can be run again.
    """
    from sealserve.deploy.clouds import load_profile, render_qcnl, render_setup
    from sealserve.files import read_file, write_atomically

    found = load_profile(profile)
    if tee == "tdx" and (pccs or pccs_ca or only_qcnl):
        raise click.UsageError("--pccs, --pccs-ca and --qcnl are for --tee sgx: a TDX guest asks no PCCS.")
    if only_qcnl:
        text = render_qcnl(found, pccs=pccs)
    else:
        authority = None if pccs_ca is None else read_file(pccs_ca, limit=1 << 20)
        text = render_setup(found, tee=tee, pccs=pccs, pccs_ca=authority)
    if output is None:
        click.echo(text, nl=False)
    else:
        write_atomically(output, text, mode=0o644 if only_qcnl else 0o755)
        click.echo(f"wrote {output}")


def _page() -> Page:
    from rich.console import Console

    from sealserve.cli.evidence_display import Page

    return Page(Console(highlight=False))


def _epc(profile: CloudProfile) -> str:
    sizes = [instance.epc_gib for instance in profile.instances if instance.epc_gib is not None]
    if not sizes:
        return "as the BIOS says"
    return f"{sizes[0]} GiB" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)} GiB"


def _show(page: Page, profile: CloudProfile) -> None:
    page.title(profile.title)
    page.value("profile", profile.full_name)
    if profile.regions is not None:
        page.value("regions", f"{', '.join(profile.regions.names)} [{profile.regions.source}]")
    page.value("PCCS", f"{profile.pccs.url} [{profile.pccs.source}]")
    page.value("collateral in policies", f"service: {profile.collateral}")
    page.value("quote provider", profile.quote_provider)
    page.value("devices", f"{profile.devices.enclave}, {profile.devices.provision}")
    page.value("AESM", profile.devices.aesm_socket)
    page.value("kernel", profile.kernel)
    page.value("the setup script knows", ", ".join(f"{s.id} {'/'.join(s.versions)}" for s in profile.systems))
    page.value("the original ran on", profile.seed)
    if profile.instances:
        page.title("Sizes")
    for size in profile.instances:
        page.value(size.name, f"{_size(size)}, EPC {size.epc_gib} GiB [{size.source}]")
    page.title("Ports to open")
    for port in profile.ports:
        page.value(str(port.port), f"{port.purpose}; to {port.open_to}")
    _list(page, "Names", profile.hosts)
    page.title("TDX")
    tdx = profile.tdx
    if tdx.sold:
        page.value("families", f"{', '.join(tdx.families)} [{tdx.source}]")
    if tdx.where:
        page.value("where", tdx.where)
    for size in tdx.instances:
        page.value(size.name, f"{_size(size)} [{size.source}]")
    page.value("devices", "/sys/kernel/config/tsm/report, /dev/tdx_guest")
    for note in tdx.notes:
        page.prose(note, indent="  ")
    _list(page, "Notes", profile.notes)
    _list(page, "Not confirmed", profile.unconfirmed)
    page.title("Sources")
    for name, source in profile.sources.items():
        dated = "" if source.dated is None else f", of {source.dated}"
        page.value(name, f"{source.title}{dated}, read {source.read}: {source.url}")


def _size(instance: Instance) -> str:
    return f"{instance.vcpus} vCPU{'' if instance.vcpus == 1 else 's'}, {instance.memory_gib} GiB"


def _list(page: Page, title: str, lines: tuple[str, ...]) -> None:
    from rich.text import Text

    if lines:
        page.title(title)
    for line in lines:
        page.prose(line, indent="  ", first=Text("- "))
