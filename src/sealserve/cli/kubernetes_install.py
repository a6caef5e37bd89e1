"""``sealserve k8s install``: one machine becomes a cluster."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from sealserve.cli.failures import say
from sealserve.errors import InputError, MachineError
from sealserve.logs import printable

if TYPE_CHECKING:
    from sealserve.kubernetes.machine.host import Host


@click.command(short_help="Make this machine a cluster.")
@click.option("--sgx", "sgx_plugin", metavar="IMAGE", help="Image of Intel's SGX device plugin, pinned by digest.")
@click.option("--undo", "take_back", is_flag=True, help="Take back everything that was installed.")
@click.option("--dry-run", is_flag=True, help="Show every step and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def install(*, sgx_plugin: str | None, take_back: bool, dry_run: bool, yes: bool) -> None:
    """Make this machine a Kubernetes cluster of one node: kubeadm, containerd, a network that enforces policies.

    Every step is shown first. Packages come from signed repositories, whose keys are pinned. It can be run again: it
    goes on where it stopped, and changes nothing once it is done. --undo takes back what it installed, and leaves
    what was there before.
    """
    from sealserve.kubernetes.machine.host import Host

    host = Host()
    if os.geteuid() != 0 and not dry_run:
        raise MachineError("this needs root", hint='Run it as: sudo "$(command -v sealserve)" k8s install')
    if take_back:
        if sgx_plugin is not None:
            raise click.UsageError("--undo takes back everything: it goes with no --sgx.")
        _undo(host, dry_run=dry_run, yes=yes)
        return
    _install(host, sgx_plugin, dry_run=dry_run, yes=yes)


def _install(host: Host, sgx_plugin: str | None, *, dry_run: bool, yes: bool) -> None:
    from sealserve.deploy.image_section import is_pinned
    from sealserve.kubernetes.machine import installing, pins, recipe
    from sealserve.kubernetes.machine.checks import notes

    if sgx_plugin is not None:
        try:
            is_pinned(sgx_plugin)
        except ValueError as error:
            raise InputError(f"--sgx: {error}") from None
    choices, hindrances = installing.planned(host, sgx_plugin=sgx_plugin)
    if dry_run or not yes:
        for number, step in enumerate(recipe.steps(choices), 1):
            click.echo(click.style(f"{number}. {step.title}", bold=True))
            for line in step.shown():
                click.echo(printable(f"   {line}"))
    for note in notes(host):
        say("note", "cyan", note)
    if hindrances and dry_run:
        for hindrance in hindrances:
            say("error", "red", hindrance)
        return
    if hindrances:
        raise MachineError("\n".join(hindrances), hint="Nothing was changed.")
    if dry_run:
        return
    if not yes:
        click.confirm("Do all of this", abort=True)
    changed = installing.install(host, choices, say=lambda title: click.secho(f"== {title}", err=True, bold=True))
    click.echo("the cluster runs" if changed else "all of it is done already: nothing was changed")
    if choices.kubeconfig.endswith("sealserve.config"):
        click.echo(f"export KUBECONFIG={choices.kubeconfig}   # ~/.kube/config was there, and leads elsewhere")
    click.echo(f"kubectl get nodes   # Kubernetes {pins.KUBERNETES_MINOR}")


def _undo(host: Host, *, dry_run: bool, yes: bool) -> None:
    from sealserve.kubernetes.machine import installing, recipe

    if not installing.is_begun(host):
        click.echo("nothing was installed here by `sealserve k8s install`")
        return
    choices, _ = installing.planned(host)
    if dry_run or not yes:
        click.echo("taken back, in this order:")
        for step in reversed(recipe.steps(choices)):
            click.echo(printable(f"  {step.title}"))
    if dry_run:
        return
    if not yes:
        click.confirm("The cluster and everything in it are deleted. Go on", abort=True)
    kept = installing.undo(host, say=lambda title: click.secho(f"== {title}", err=True, bold=True))
    for line in kept:
        say("note", "cyan", line)
    click.echo("taken back. What else a cluster left in the kernel goes at the next start of the machine.")
