"""What came of ``k8s apply``, for people and for scripts."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sealserve.cli.rollout_display import Account, rollout_lines
from sealserve.logs import printable

if TYPE_CHECKING:
    from sealserve.kubernetes.live.policy_check import Measurements, Verdict
    from sealserve.kubernetes.live.rollout import Rollout, Snapshot
    from sealserve.kubernetes.live.way_in import WayIn
    from sealserve.kubernetes.plan import Plan

_MOST_SHOWN = 4


def replicas_of(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Its replicas, for scripts."""
    return [
        {
            "pod": each.pod,
            "node": each.node,
            "state": str(each.state),
            "attested": each.ready,
            "reason": each.reason,
            "restarts": each.restarts,
            "current": snapshot.is_current(each),
            "canary": each.canary,
        }
        for each in snapshot.replicas
    ]


def warn_of_broker(plan: Plan, rollout: Rollout, snapshot: Snapshot, *, account: Account) -> None:
    """Say that nobody has tried where the broker is now, if that was changed and no replica has attested since."""
    moved = any(
        change["kind"] in {"Service", "EndpointSlice"}
        and change["name"] == plan.broker_service
        and change["what"] in {"created", "changed"}
        for change in account.changes
    )
    if moved and rollout.nothing_new(snapshot):
        account.warning(
            f"whether pods reach the key broker at {plan.section.broker} was not tried: no replica has attested since "
            "that was changed. `sealserve k8s doctor --probe` tries it"
        )


def ways_in(plan: Plan, snapshot: Snapshot, *, account: Account) -> dict[str, WayIn]:
    """Whether clients come through the edge, by the doors' names. If not, it is a warning: replicas are ready."""
    from sealserve.kubernetes.live.way_in import find_way

    ways: dict[str, WayIn] = {}
    for name, addresses in snapshot.edge.doors.items():
        way = ways[name] = find_way(addresses, plan.deployment.tls.server_name)
        if not way.tried:
            break  # nor will the others be reached
        if way.address is None:
            account.warning(f"no TLS connection comes about through the edge ({way.reason})")
    return ways


def outcome_of(
    plan: Plan, snapshot: Snapshot, measurements: Measurements, verdict: Verdict | None, ways: Mapping[str, WayIn]
) -> dict[str, Any]:
    """All of it, for scripts."""
    return {
        "deployment": plan.name,
        "namespace": plan.namespace,
        "policy": "skipped" if verdict is None else verdict.answer,
        "measurements": {name: None if isinstance(found, str) else vars(found) for name, found in measurements.items()},
        "wanted": snapshot.wanted,
        "serving": snapshot.serving,
        "waits": snapshot.waits,
        "edge": {
            "ready": snapshot.edge.ready,
            "reason": snapshot.edge.reason,
            "addresses": {name: list(where) for name, where in snapshot.edge.doors.items()},
            "ways": {name: vars(way) for name, way in ways.items()},
        },
    }


def show_outcome(snapshot: Snapshot, ways: Mapping[str, WayIn], *, file: Path) -> None:
    """What was reached, and where clients connect."""
    canaries = f", {snapshot.canaries} of them canary" if snapshot.canaries else ""
    click.echo(f"{snapshot.serving} of {snapshot.wanted} replicas are attested and serve{canaries}")
    if sys.stderr.isatty():  # in a pipe there was a line for each already
        for _, line in rollout_lines(snapshot):
            click.echo(f"  {line}")
    if snapshot.edge.reason:
        click.echo(printable(snapshot.edge.reason))
    for name, addresses in snapshot.edge.doors.items():
        more = f" and {len(addresses) - _MOST_SHOWN} more" if addresses[_MOST_SHOWN:] else ""
        protocol = "gRPC" if name == "grpc" else "REST"
        click.echo(printable(f"{protocol}: {', '.join(addresses[:_MOST_SHOWN])}{more}"))
    for tried in ways.values():
        if not tried.tried:
            click.echo(printable(f"whether clients come through was not tried: {tried.reason}"))
    if grpc := snapshot.edge.doors.get("grpc"):
        way = ways.get("grpc")
        address = (None if way is None else way.address) or grpc[0]
        click.echo(printable(f"  sealserve verify {shlex.quote(address)} -f {shlex.quote(str(file))}"))
