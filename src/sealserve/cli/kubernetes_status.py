"""``sealserve k8s status``, ``logs`` and ``scale``: watching over a deployment in a cluster."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sealserve.cli.cluster_options import ClusterAccess, cluster_options, wait_timeout_option
from sealserve.cli.deployment_option import deployment_option
from sealserve.cli.failures import say
from sealserve.cli.kubernetes_display import replica_line, status_lines
from sealserve.cli.kubernetes_habits import duration, pod_name, require_file_not_follow
from sealserve.errors import InputError, UnavailableError
from sealserve.logs import printable, readable

if TYPE_CHECKING:
    from sealserve.kubernetes.live.api import Cluster
    from sealserve.kubernetes.live.following import Line
    from sealserve.kubernetes.live.replica_state import ReplicaState
    from sealserve.kubernetes.live.status import Status
    from sealserve.kubernetes.plan import Plan

_INCOMPLETE = 5  # as of what cannot be reached
_PAUSE = 2.0
_COUNT = click.IntRange(min=0, max=5000)


def _plan(file: Path) -> Plan:
    from sealserve.deploy import load_deployment
    from sealserve.kubernetes.plan import plan_for_reading

    return plan_for_reading(load_deployment(file))


@click.command(short_help="Show the replicas in a cluster, and why one does not serve.")
@deployment_option
@cluster_options
@click.option("-w", "--watch", is_flag=True, help="Go on, whenever something changes, until Ctrl-C.")
@click.option(
    "--wait",
    type=click.FloatRange(min=0, max=86_400),
    metavar="SECONDS",
    help="Wait so long for all replicas to serve, and show the status then.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; with --watch one a line.")
def status(*, file: Path, access: ClusterAccess, watch: bool, wait: float | None, as_json: bool) -> int:
    """Show the replicas in a cluster, and why one does not serve: in the key broker's own words if it refused one.

    Exit code 0 if all replicas that are wanted serve and no rollout is on its way, 5 if not. What is shown is what the
    cluster says of itself: `sealserve verify` checks evidence.
    """
    from sealserve.kubernetes.live.status import StatusReader

    plan = _plan(file)
    with access.connect(reading=True) as cluster:
        reader, until = StatusReader(cluster, plan), time.monotonic() + (wait or 0)
        shown: object = None
        while True:
            started = time.monotonic()
            now = reader.read()
            waiting = wait is not None and not now.complete and started < until
            if not waiting and (current := _comparable(now)) != shown:
                shown = current
                _show(now, plan, server=cluster.server, as_json=as_json, redraw=watch)
            if not (watch or waiting):
                return 0 if now.complete else _INCOMPLETE
            time.sleep(max(_PAUSE, 3 * (time.monotonic() - started)))


def _comparable(status: Status) -> object:
    return json.dumps(status.as_dict(), sort_keys=True)


def _show(status: Status, plan: Plan, *, server: str, as_json: bool, redraw: bool) -> None:
    if as_json:
        about = {"deployment": plan.name, "namespace": plan.namespace, "tee": plan.deployment.tee, "server": server}
        click.echo(json.dumps({**about, **status.as_dict()}))
        sys.stdout.flush()
        return
    if redraw and sys.stdout.isatty():
        click.clear()
    for line in status_lines(status, plan, server=server):
        click.echo(printable(line))  # names of pods and nodes, too, are whatever the cluster says
    if redraw and not sys.stdout.isatty():
        click.echo("")
    sys.stdout.flush()


@click.command(short_help="Print what replicas in a cluster log.")
@click.argument("pod", type=pod_name, required=False)
@deployment_option
@cluster_options
@click.option("--all", "everything", is_flag=True, help="The logs of the edge, too.")
@click.option("--follow", is_flag=True, help="Go on, also with pods that come, until Ctrl-C.")
@click.option("--tail", type=click.IntRange(min=0), default=50, show_default=True, help="Of each log, the last lines.")
@click.option(
    "--since", type=duration, metavar="TIME", help="What was said in the last so many seconds; also as 5m or 1h."
)
@click.option("-p", "--previous", is_flag=True, help="Of the containers before those that run now: why they ended.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, with the pod's name in it.")
def logs(
    *,
    pod: str | None,
    file: Path,
    access: ClusterAccess,
    everything: bool,
    follow: bool,
    tail: int,
    since: int | None,
    previous: bool,
    as_json: bool,
) -> None:
    """Print the logs of all replicas in a cluster, each line with its pod's name before it; or of POD alone.

    Lines are in the order of the nodes' clocks, with local times. POD may be any pod of the deployment. With --json
    they are as they were logged, and `jq` reads them.
    """
    from sealserve.kubernetes.live.following import PodLogs

    if follow and previous:
        raise click.UsageError("--previous logs are over: there is nothing to follow.")
    if pod is not None and everything:
        raise click.UsageError("Give POD or --all, not both.")
    require_file_not_follow(file)
    plan = _plan(file)
    with access.connect(reading=True) as cluster:
        source = PodLogs(cluster, plan, pod=pod, all_components=everything, tail=tail, since=since)
        lines = source.follow() if follow else source.read(previous=previous)
        if (follow or not lines) and (silence := source.why_silent(previous=previous, follow=follow)) is not None:
            say("note", "cyan", printable(silence))
        for line in lines:
            click.echo(_as_json(line) if as_json else _as_text(line, alone=pod is not None))
            if follow:
                sys.stdout.flush()


def _as_text(line: Line, *, alone: bool) -> str:
    # Whoever runs a node can write what it likes into a log: it must not command the terminal.
    text = readable(line.text) or printable(line.text)
    return text if alone else "\n".join(f"{printable(line.pod)} | {each}" for each in text.split("\n"))


def _as_json(line: Line) -> str:
    """What was logged, and by which pod; of other programs' lines, their text and the node's time."""
    try:
        return json.dumps({**json.loads(line.text), "pod": line.pod})
    except (ValueError, TypeError, RecursionError):  # not an object, or a deeper one than JSON is written
        return json.dumps({"time": line.time, "text": line.text, "pod": line.pod})


@click.command(short_help="Have more replicas in a cluster, or fewer.")
@click.argument("count", type=_COUNT, required=False)
@deployment_option
@cluster_options
@click.option("--replicas", type=_COUNT, metavar="COUNT", help="The same as COUNT.")
@click.option(
    "--at-a-time",
    type=click.IntRange(min=1),
    metavar="N",
    help="Start no more than N, and the next when these have their share of requests: where they start on processors "
    "that others serve on. All together if not given.",
)
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until so many serve.")
@wait_timeout_option(900, "so many serve")
def scale(
    *,
    count: int | None,
    replicas: int | None,
    file: Path,
    access: ClusterAccess,
    at_a_time: int | None,
    wait: bool,
    timeout: float,
) -> None:
    """Have COUNT replicas in a cluster, and say of each when it is attested and serves.

    A canary's number is kubernetes.canary.count in the deployment, and stays. With an autoscaler this is refused: its
    bounds are in kubernetes.autoscaling.
    """
    from sealserve.kubernetes.live.scaling import ask_for, asked_for, steps

    if (count is None) == (replicas is None):
        raise click.UsageError("Give COUNT, how many replicas there are to be; or --replicas, which is the same.")
    if at_a_time is not None and not wait:
        raise click.UsageError("--at-a-time waits until replicas serve: it does not go with --no-wait.")
    count = count if count is not None else replicas or 0
    plan, since = _plan(file), time.monotonic()
    with access.connect() as cluster:
        before = asked_for(cluster, plan)
        for number, step in enumerate(steps(before, count, at_a_time=at_a_time)):
            if number and (asked := asked_for(cluster, plan)) != before:
                raise InputError(
                    f"somebody else has asked for {asked} replicas of {plan.replica}, and {before} were asked for here",
                    hint="It was left at that.",
                )
            ask_for(cluster, plan, step)
            click.echo(f"{plan.replica}: {before} -> {step} replicas")
            if number == 0:
                _warn_of_count(plan, count, file=file)
            if wait:
                _follow(cluster, plan, step, of=count, timeout=timeout, since=since)
            before = step


def _warn_of_count(plan: Plan, count: int, *, file: Path) -> None:
    if count == 0:
        left = "none but a canary is left" if plan.canary is not None else "no replica is left: nobody answers clients"
        say("warning", "yellow", left)
    if count != plan.deployment.replicas.count:
        say(
            "note",
            "cyan",
            f"replicas.count in {file} is {plan.deployment.replicas.count}: change it too, or whoever applies what is "
            "rendered from it sets it back",
        )


def _follow(cluster: Cluster, plan: Plan, count: int, *, of: int, timeout: float, since: float) -> None:
    from sealserve.kubernetes.live.scaling import follow_scaling

    rest = "" if count == of else f"; no more were asked for, and the same command goes on to {of}"
    try:
        follow_scaling(
            cluster,
            plan,
            count,
            timeout=timeout,
            since=since,
            settled=count != of,
            on_change=_tell,
            on_advice=_advise,
        )
    except KeyboardInterrupt:
        going_on = f"{count} replicas are asked for, and the cluster goes on"
        say("note", "cyan", f"{going_on}: `sealserve k8s status` shows it{rest}.")
        raise
    except UnavailableError as error:
        raise UnavailableError(f"{error.message}{rest}", hint=error.hint) from error


def _advise(text: str) -> None:
    say("note", "cyan", text)


def _tell(replica: ReplicaState) -> None:
    click.echo(replica_line(replica))
    sys.stdout.flush()
