"""``sealserve k8s``: deployments in Kubernetes clusters."""

from __future__ import annotations

import json
from pathlib import Path

import click

from sealserve.cli.deployment_option import deployment_option
from sealserve.cli.failures import say
from sealserve.cli.kubernetes_apply import apply, diff
from sealserve.cli.kubernetes_brokers import render_brokers
from sealserve.cli.kubernetes_delete import delete
from sealserve.cli.kubernetes_dns import dns
from sealserve.cli.kubernetes_doctor import doctor
from sealserve.cli.kubernetes_install import install
from sealserve.cli.kubernetes_status import logs, scale, status
from sealserve.logs import printable


@click.group(short_help="Run a deployment in a Kubernetes cluster.")
def k8s() -> None:
    """Describe a deployment to a Kubernetes cluster, and run it there."""


for command in (doctor, diff, apply, status, logs, scale, delete, dns, render_brokers, install):
    k8s.add_command(command)


@k8s.command(short_help="Write a deployment's objects as YAML.")
@deployment_option
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path, readable=False),
    default=Path("k8s"),
    show_default=True,
    help="Directory to write.",
)
@click.option("--model-size", type=click.IntRange(min=1), metavar="BYTES", help="Size of the model, if it is not here.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def render(*, file: Path, output: Path, model_size: int | None, as_json: bool) -> None:
    """Write YAML files and a kustomization.yaml, from the section `kubernetes` of the deployment.

    `kubectl apply -k`, Argo CD and Flux take the directory as it is. The same deployment gives the same bytes; there
    is no secret in them. A directory that an earlier rendering wrote is replaced, any other is left alone.
    """
    from sealserve.kubernetes import render_kubernetes

    rendered = render_kubernetes(file, output, model_size=model_size)
    if as_json:
        told = {
            "directory": str(rendered.directory),
            "namespace": rendered.namespace,
            "files": rendered.files,
            "warnings": rendered.warnings,
            "steps": rendered.steps,
        }
        click.echo(json.dumps(told))
        return
    for warning in rendered.warnings:
        say("warning", "yellow", warning)
    click.echo(printable(f"wrote {len(rendered.files)} files into {output}. Next:"))
    for step in rendered.steps:
        click.echo(printable(f"  {step}"))
