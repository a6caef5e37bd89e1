"""What the commands of ``sealserve k8s`` that work on a cluster share: which one, and how it is reached."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
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
    """Options that say which cluster; the command gets ``access``, a :class:`ClusterAccess`."""

    @functools.wraps(command)
    def with_access(
        *, kubeconfig: Path | None, context: str | None, insecure_skip_tls_verify: bool, **options: Any
    ) -> Any:
        return command(access=ClusterAccess(kubeconfig, context, insecure_skip_tls_verify), **options)

    options = (
        click.option(
            "--kubeconfig",
            type=click.Path(dir_okay=False, path_type=Path),
            help="How to reach the cluster; KUBECONFIG or ~/.kube/config if not given.",
        ),
        click.option("--context", metavar="NAME", help="One of the kubeconfig's contexts; the current one otherwise."),
        click.option(
            "--insecure-skip-tls-verify",
            is_flag=True,
            help="Go on though the kubeconfig says not to check who answers as the API server.",
        ),
    )
    for option in reversed(options):
        with_access = option(with_access)
    return with_access


_FIRST_PATIENCE = 5.0


@dataclass(frozen=True)
class ClusterAccess:
    """How a command reaches its cluster. :ivar insecure: even where nobody checks who answers."""

    kubeconfig: Path | None
    context: str | None
    insecure: bool

    def connect(self, *, reading: bool = False) -> Cluster:
        """A connection; when the API server has to be waited for, that is said on standard error.

        Nothing is sent yet.

        :param reading: whether the command only reads, and its user would rather know soon that there is no such
            server.
        :raises KubeconfigError: there is no kubeconfig, no such context in it, or its credentials cannot be had.
        :raises UncheckedServerError: nobody would check who answers.
        """
        import urllib3

        from sealserve.kubernetes.live.api import Cluster

        def on_wait(reason: str) -> None:
            say("note", "cyan", f"waiting for the API server, at most a minute: {reason}")

        patience = {"first_patience": _FIRST_PATIENCE} if reading else {}
        cluster = Cluster.connect(self.kubeconfig, self.context, insecure=self.insecure, on_wait=on_wait, **patience)
        if cluster.unchecked is not None:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # said once here, not for each request
            say("warning", "yellow", cluster.unchecked)
        return cluster
