"""``sealserve up``: prepare a cluster, run it until a signal comes, leave nothing behind."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

from sealserve.deploy import load_deployment
from sealserve.local.account import Account
from sealserve.local.cluster import LocalCluster
from sealserve.local.layout import Layout
from sealserve.local.leftovers import end_leftovers, remove_partials
from sealserve.local.ownership import claim
from sealserve.local.prepare import PreparedCluster, Progress, prepare_cluster
from sealserve.local.state import cluster_lock
from sealserve.notify import notify


def run_up(file: Path, *, account_for: Callable[[Layout], Account], progress: Progress | None = None) -> None:
    """Run the deployment of ``file`` until SIGINT, SIGTERM or SIGHUP; a second signal kills what has not stopped yet.

    Tells systemd, or who else gave a NOTIFY_SOCKET, when the cluster is ready.

    :raises SealserveError: the deployment is not usable, or a process refused to start.
    :raises KeyboardInterrupt: the signal came before the cluster was ready.
    """
    deployment = load_deployment(file)
    layout = Layout(deployment.state)
    claimed = claim(layout.root, "cluster")
    with cluster_lock(layout):
        try:
            end_leftovers(layout)
            remove_partials(layout)
            layout.make()
            account = account_for(layout)
            account.tell("cluster-starting", deployment=deployment.name, directory=str(layout.root))
            with account.failures():
                prepared = prepare_cluster(
                    deployment,
                    layout,
                    progress=progress,
                    on_step=lambda text, seconds: account.tell("step", text=text, seconds=round(seconds, 3)),
                )
        except BaseException:
            claimed.discard()
            raise
        # From here on everything is whole, and the logs say what happens: it stays.
        try:
            with account.failures():
                asyncio.run(_serve(prepared, file.absolute(), account))
        finally:
            # A second Ctrl-C ends the first one's cleaning up: this is what is left of it.
            end_leftovers(layout)
            remove_partials(layout)


async def _serve(prepared: PreparedCluster, file: Path, account: Account) -> None:
    cluster = LocalCluster(prepared, listener=account.hear, file=file)
    stop = asyncio.Event()
    _on_signals(stop, cluster, account)
    starting, stopped = asyncio.create_task(cluster.start()), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            raise KeyboardInterrupt
        await starting
        account.tell("cluster-ready", seconds=account.seconds, file=str(file), **describe(cluster))
        notify(READY=1, STATUS=f"serving on {cluster.gateway}")
        await stopped
        notify(STOPPING=1)
    finally:
        starting.cancel()
        stopped.cancel()
        await cluster.stop()
        account.tell("cluster-stopped")


def describe(cluster: LocalCluster) -> dict[str, object]:
    """What somebody needs in order to call a cluster."""
    deployment = cluster.deployment
    return {
        "gateway": str(cluster.gateway),
        "rest": None if cluster.rest is None else str(cluster.rest),
        "policy": str(cluster.prepared.layout.client_policy),
        "server_name": deployment.tls.server_name,
        "tls": deployment.tls.mode,
        "model": deployment.model.name,
        "model_version": cluster.prepared.model.version,
        "measurement": cluster.prepared.enclave.mrenclave.hex(),
    }


def _on_signals(stop: asyncio.Event, cluster: LocalCluster, account: Account) -> None:
    def handle(number: signal.Signals) -> None:
        if stop.is_set():
            cluster.supervisor.kill()
        else:
            account.tell("cluster-stopping", reason=number.name)
            stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # nohup(1) has SIGHUP ignored: it stays so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, handle, number)
