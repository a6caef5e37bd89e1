"""``sealserve k8s render-brokers``: key brokers in a cluster."""

from __future__ import annotations

import json
from pathlib import Path

import click

from sealserve.cli.deployment_option import deployment_option
from sealserve.cli.failures import say
from sealserve.logs import printable


@click.command("render-brokers", short_help="Write the key brokers' objects as YAML.")
@deployment_option
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path, readable=False),
    default=Path("k8s-brokers"),
    show_default=True,
    help="Directory to write.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def render_brokers(*, file: Path, output: Path, as_json: bool) -> None:
    """Write YAML files and a kustomization.yaml for key brokers over PostgreSQL, from `kubernetes.brokers`.

    They belong to the owner of the keys: into a cluster, or at least a namespace, that nobody else rules. There is no
    secret in the files; the commands that make the Secrets are printed.
    """
    from sealserve.kubernetes.broker_rendering import render_key_brokers

    rendered = render_key_brokers(file, output)
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
