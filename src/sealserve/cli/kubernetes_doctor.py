"""``sealserve k8s doctor``: whether a cluster is fit for a deployment."""

from __future__ import annotations

import json
from pathlib import Path

import click

from sealserve.cli.cluster_options import ClusterAccess, cluster_options, json_option, model_size_option
from sealserve.cli.deployment_option import deployment_option
from sealserve.cli.failures import say


@click.command(short_help="Say whether a cluster is fit for a deployment.")
@deployment_option
@cluster_options
@click.option("--probe", is_flag=True, help="Start a pod for some seconds, which looks for the key broker.")
@model_size_option
@json_option
def doctor(
    *,
    file: Path,
    probe: bool,
    model_size: int | None,
    as_json: bool,
    access: ClusterAccess,
) -> int:
    """Say whether a cluster is fit for a deployment, and how to mend what is not.

    It looks at versions, permissions, nodes, SGX, the edge, policies, DNS and storage, and changes nothing. With
    --probe a pod like a replica's looks for the key broker, from where replicas will; it is removed again. The exit
    code is 6 if replicas cannot run there.
    """
    from sealserve.cli.findings_display import show_findings
    from sealserve.errors import MachineError
    from sealserve.kubernetes.live.doctor import examine_cluster
    from sealserve.kubernetes.rendering import plan_deployment

    def on_progress(text: str) -> None:
        if not as_json:
            say("note", "cyan", text)

    plan = plan_deployment(file, model_size=model_size)
    with access.connect(reading=True) as cluster:
        report = examine_cluster(cluster, plan, probe=probe, on_progress=on_progress)
    if as_json:
        click.echo(json.dumps(report.as_dict()))
    else:
        show_findings(report.findings)
    return 0 if report.ready else MachineError.exit_code
