"""``sealserve k8s render`` and ``render-brokers``: a deployment's objects as files, and those of its key brokers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sealserve.cli.cluster_options import json_option, model_size_option
from sealserve.cli.deployment_option import deployment_option
from sealserve.cli.failures import say
from sealserve.logs import printable

if TYPE_CHECKING:
    from sealserve.kubernetes import Rendered


def _output_option(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        "-o",
        "--output",
        type=click.Path(file_okay=False, path_type=Path, readable=False),
        default=Path(default),
        show_default=True,
        help="Directory to write.",
    )


@click.command(short_help="Write a deployment's objects as YAML.")
@deployment_option
@_output_option("k8s")
@model_size_option
@json_option
def render(*, file: Path, output: Path, model_size: int | None, as_json: bool) -> None:
    """Write YAML files and a kustomization.yaml, from the section `kubernetes` of the deployment.

    `kubectl apply -k`, Argo CD and Flux take the directory as it is. The same deployment gives the same bytes; there
    is no secret in them. A directory that an earlier rendering wrote is replaced, any other is left alone.
    """
    from sealserve.kubernetes import render_kubernetes

    _show(render_kubernetes(file, output, model_size=model_size), as_json=as_json)


@click.command("render-brokers", short_help="Write the key brokers' objects as YAML.")
@deployment_option
@_output_option("k8s-brokers")
@json_option
def render_brokers(*, file: Path, output: Path, as_json: bool) -> None:
    """Write YAML files and a kustomization.yaml for key brokers over PostgreSQL, from `kubernetes.brokers`.

    They belong to the owner of the keys: into a cluster, or at least a namespace, that nobody else rules. There is no
    secret in the files; the commands that make the Secrets are printed.
    """
    from sealserve.kubernetes.broker_rendering import render_key_brokers

    _show(render_key_brokers(file, output), as_json=as_json)


def _show(rendered: Rendered, *, as_json: bool) -> None:
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
    click.echo(printable(f"wrote {len(rendered.files)} files into {rendered.directory}. Next:"))
    for step in rendered.steps:
        click.echo(printable(f"  {step}"))
