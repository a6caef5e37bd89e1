"""``sealserve k8s``: deployments in Kubernetes clusters."""

from __future__ import annotations

import click

from sealserve.cli.kubernetes_apply import apply, diff
from sealserve.cli.kubernetes_delete import delete
from sealserve.cli.kubernetes_dns import dns
from sealserve.cli.kubernetes_doctor import doctor
from sealserve.cli.kubernetes_habits import HabitsGroup
from sealserve.cli.kubernetes_install import install
from sealserve.cli.kubernetes_render import render, render_brokers
from sealserve.cli.kubernetes_status import logs, scale, status


@click.group(cls=HabitsGroup, short_help="Run a deployment in a Kubernetes cluster.")
def k8s() -> None:
    """Run a deployment in a Kubernetes cluster, and watch over it there."""


for command in (render, doctor, diff, apply, status, logs, scale, delete, dns, render_brokers, install):
    k8s.add_command(command)
