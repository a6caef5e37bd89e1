"""How a deployment's state in a cluster is shown to people."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sealserve.logs import printable

if TYPE_CHECKING:
    from sealserve.kubernetes.live.replica_state import ReplicaState
    from sealserve.kubernetes.live.status import Status
    from sealserve.kubernetes.plan import Plan

_LEAST_FOR_REASON = 24
_TOLD_ONCE = frozenset({"image-unavailable", "unschedulable"})


def status_lines(status: Status, plan: Plan, *, server: str) -> Iterator[str]:
    """The whole status, as wide as the terminal is; a pipe gets whole lines."""
    from sealserve.kubernetes.live.advice import advice_about

    width = terminal_width()
    deployment = plan.deployment
    yield f"{plan.name} in the namespace {plan.namespace} of {server}"
    if deployment.tee == "simulated":
        yield "SIMULATED: these replicas protect nothing from the cluster that they run in."
    if status.wanted is None:
        yield f"There is no Deployment {plan.replica} here: `sealserve k8s apply` makes it."
        return
    scaler = "" if status.autoscaler is None else f" (autoscaler {status.autoscaler})"
    new, old = status.serving - status.old_serving, from_before(status.old_serving)
    yield f"{new} of {status.wanted} replicas serve{old}{scaler}"
    if status.scaling is not None:
        yield from _folded(f"scaling   {printable(status.scaling)}", width)
    if status.canaries is not None:
        yield f"canary: {status.canaries_serving} of {status.canaries} serve"
    if status.rollout is not None:
        yield f"rollout: {status.rollout}"
    if status.trouble is not None:
        yield from _folded(f"no new pods: {printable(status.trouble)}", width)
    yield ""
    yield from replica_table(status, width)
    yield ""
    if (advice := advice_about(plan, status.replicas)) is not None:
        yield from _folded(printable(advice), width, indent=0)
        yield ""
    if status.edge is not None:
        doors = "; ".join(f"{name} {', '.join(addresses)}" for name, addresses in status.edge.doors.items())
        state = "ready" if status.edge.ready else "not ready"
        words = ": ".join(filter(None, (state, status.edge.reason)))
        yield from _folded(
            f"edge      {plan.section.edge.kind} {printable('; '.join(filter(None, (words, doors))))}", width
        )
    for address, behind in status.broker.items():
        yield from _folded(f"broker    {address}{'' if behind is None else f' -> {printable(behind)}'}", width)
    yield from _folded(f"policies  {status.policies}", width)


def replica_table(status: Status, width: int | None) -> Iterator[str]:
    """A table of the replicas; on narrow terminals, some lines for each."""
    if not status.replicas:
        yield "no replicas"
        return
    with_track, with_model = any(each.canary for each in status.replicas), bool(status.models)
    heads = (
        *("REPLICA", "NODE", "STATE"),
        *(["TRACK"] if with_track else []),
        *(["MODEL"] if with_model else []),
        *("RESTARTS", "SINCE"),
    )
    rows = [heads, *(_row(each, status, with_track=with_track, with_model=with_model) for each in status.replicas)]
    reasons = [
        "the same" if is_told_before(each, status.replicas) else printable(each.reason or "")
        for each in status.replicas
    ]
    reasons = ["REASON" if any(reasons) else "", *reasons]
    columns = [max(map(len, column)) for column in zip(*rows, strict=True)]
    used = sum(columns) + 2 * len(columns)
    if width is not None and used + _LEAST_FOR_REASON > width and (used > width or any(reasons[1:])):
        for row, reason in zip(rows[1:], reasons[1:], strict=True):
            name, node, state, *others = row
            yield name
            yield from _folded(f"  {state}, on {node}, {', '.join(_named(heads[3:], others))}", width, indent=2)
            if reason:
                yield from _folded(f"  {reason}", width, indent=2)
        return
    for row, reason in zip(rows, reasons, strict=True):
        line = "".join(cell.ljust(column + 2) for cell, column in zip(row, columns, strict=True))
        yield from _folded(f"{line}{reason}".rstrip(), width, indent=used)


def terminal_width() -> int | None:
    """Columns of the terminal; None where there is none."""
    if not (sys.stdout.isatty() or os.environ.get("COLUMNS")):
        return None
    return shutil.get_terminal_size().columns


def track_of(replica: ReplicaState) -> str:
    """Which of a deployment's replicas it is one of."""
    return "canary" if replica.canary else "stable"


def from_before(serving: int) -> str:
    """The end of a line about new replicas. :param serving: how many of those from before a rollout serve."""
    return f"; {serving} from before {'serves' if serving == 1 else 'serve'}" if serving else ""


def is_told_before(replica: ReplicaState, replicas: Iterable[ReplicaState]) -> bool:
    """Whether one of the replicas before this one gets no image or no node either, for the same reason, which is
    long."""
    for each in replicas:
        if each is replica:
            return False
        if each.state == replica.state and replica.state in _TOLD_ONCE and each.reason == replica.reason:
            return True
    return False


def replica_line(each: ReplicaState, *, old: bool = False, told: bool = False) -> str:
    """A replica in one line. :param old: it is from before the rollout. :param told: without its reason."""
    state = "attested, serving" if each.state == "serving" else str(each.state)
    marks = ("old, " if old else "") + ("canary, " if each.canary else "")
    reason = f": {each.reason}" if each.reason and not told else ""
    return printable(f"{each.pod}  {marks}{state}{reason}")


def _row(replica: ReplicaState, status: Status, *, with_track: bool, with_model: bool) -> tuple[str, ...]:
    from sealserve.kubernetes.live.templates import is_old

    track = [track_of(replica)] if with_track else []
    model = [printable(status.models.get(replica.pod, "-"))] if with_model else []
    node = printable(replica.node or "-")
    return (
        printable(replica.pod),
        node,
        f"old, {replica.state}" if is_old(replica, status.templates) else str(replica.state),
        *track,
        *model,
        str(replica.restarts),
        _age(replica.since),
    )


def _named(heads: tuple[str, ...], cells: list[str]) -> Iterator[str]:
    for head, cell in zip(heads, cells, strict=True):
        yield f"{head.lower()} {cell}"


def _age(since: datetime | None) -> str:
    if since is None:
        return "-"
    seconds = max(0, int((datetime.now(UTC) - since).total_seconds()))
    for size, unit, smaller, small in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            rest = seconds % size // smaller
            return f"{seconds // size} {unit}" + (f" {rest} {small}" if rest else "")
    return f"{seconds} s"


def _folded(line: str, width: int | None, *, indent: int = 10) -> list[str]:
    if width is None or len(line) <= width:
        return [line]
    # The first piece keeps its columns.
    head, tail = line[:indent], line[indent:]
    pieces = textwrap.wrap(tail, max(width - indent, 10), break_long_words=False, break_on_hyphens=False)
    return [head + pieces[0], *(" " * indent + piece for piece in pieces[1:])] if pieces else [line]
