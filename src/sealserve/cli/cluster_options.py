"""What the commands of ``sealserve k8s`` that work on a cluster share: which one, and how it is reached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sealserve.cli.failures import say

if TYPE_CHECKING:
    from sealserve.kubernetes.live.api import Cluster


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
model_size_option = click.option(
    "--model-size", type=click.IntRange(min=1), metavar="BYTES", help="Size of the model, if it is not here."
)


def wait_timeout_option(seconds: float, until: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--timeout``. :param seconds: if it is not given. :param until: when nothing is waited for any more."""
    return click.option(
        "--timeout",
        type=click.FloatRange(min=0, max=86_400),
        metavar="SECONDS",
        default=seconds,
        show_default=True,
        help=f"How long to wait until {until}.",
    )


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say which cluster; the command gets ``kubeconfig`` and ``context``, for :func:`connect`."""
    options = (
        click.option(
            "--kubeconfig",
            type=click.Path(dir_okay=False, path_type=Path),
            help="How to reach the cluster; KUBECONFIG or ~/.kube/config if not given.",
        ),
        click.option("--context", metavar="NAME", help="One of the kubeconfig's contexts; the current one otherwise."),
    )
    for option in reversed(options):
        command = option(command)
    return command


_FIRST_PATIENCE = 5.0


def connect(kubeconfig: Path | None, context: str | None, *, reading: bool = False) -> Cluster:
    """A connection to that cluster; when its API server has to be waited for, that is said on standard error.

    Nothing is sent yet.

    :param reading: whether the command only reads, and its user would rather know soon that there is no such server.
    :raises KubeconfigError: there is no kubeconfig, no such context in it, or its credentials cannot be had.
    """
    import urllib3

    from sealserve.kubernetes.live.api import Cluster

    def on_wait(reason: str) -> None:
        say("note", "cyan", f"waiting for the API server, at most a minute: {reason}")

    patience = {"first_patience": _FIRST_PATIENCE} if reading else {}
    cluster = Cluster.connect(kubeconfig, context, on_wait=on_wait, **patience)
    if not cluster.verified:
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # said once here, not for each request
        say(
            "warning",
            "yellow",
            f"the kubeconfig says not to check who answers as {cluster.server} (insecure-skip-tls-verify)",
        )
    return cluster
