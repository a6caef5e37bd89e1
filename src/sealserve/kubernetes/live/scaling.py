"""More replicas, or fewer, by hand. A canary has the number that the deployment gives it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from sealserve.errors import ConfigurationError, InputError, UnavailableError
from sealserve.kubernetes.live.advice import advice_about, go_on_by_themselves
from sealserve.kubernetes.live.api import Cluster
from sealserve.kubernetes.live.autoscaling import autoscaler_of
from sealserve.kubernetes.live.kinds import DEPLOYMENT
from sealserve.kubernetes.live.replica_state import ReplicaState, State, creation_failure
from sealserve.kubernetes.live.reporter import Reporter
from sealserve.kubernetes.plan import Plan

_PAUSE = 1.0


def asked_for(cluster: Cluster, plan: Plan) -> int:
    """How many replicas there are to be.

    :raises InputError: the deployment is not in the cluster. :raises ConfigurationError: an autoscaler has that word.
    """
    deployment = cluster.get(DEPLOYMENT, plan.replica, namespace=plan.namespace)
    if deployment is None:
        raise InputError(
            f"there is no {plan.replica} in the namespace {plan.namespace} of {cluster.server}",
            hint="`sealserve k8s apply` brings the deployment there.",
        )
    autoscaler = autoscaler_of(cluster, plan)
    if autoscaler is not None:
        hint = "Change its bounds, kubernetes.autoscaling.min and max, and apply the deployment; or take the section "
        hint += "out first."
        if autoscaler.trouble is not None:
            hint += f"\nBeside that, {autoscaler.trouble}."
        raise ConfigurationError(
            f"an autoscaler says how many replicas there are ({autoscaler.bounds}), and would undo this", hint=hint
        )
    return int(deployment["spec"].get("replicas", 1))


def ask_for(cluster: Cluster, plan: Plan, count: int) -> None:
    """Say how many replicas there are to be."""
    cluster.patch(
        DEPLOYMENT, plan.replica, {"spec": {"replicas": count}}, namespace=plan.namespace, subresource="scale"
    )


def steps(before: int, count: int, *, at_a_time: int | None) -> list[int]:
    """Numbers of replicas to ask for one after another, so that no more than ``at_a_time`` start together."""
    return [*range(before + at_a_time, count, at_a_time), count] if at_a_time else [count]


def follow_scaling(
    cluster: Cluster,
    plan: Plan,
    count: int,
    *,
    timeout: float,
    since: float,
    settled: bool = False,
    on_change: Callable[[ReplicaState], None],
    on_advice: Callable[[str], None],
) -> None:
    """Wait until so many replicas serve, and those that leave are gone.

    :param settled: and until they have served for ``minReadySeconds``, after which every proxy has heard of them.
    :param on_change: called with each replica whose state is another than before.
    :param on_advice: called with what may help replicas that do not come up, when it is another than before.
    :param timeout: seconds. :param since: when they began, by :func:`time.monotonic`.
    :raises UnavailableError: it was not so in time.
    """
    reporter = Reporter(cluster, plan)
    known: dict[str, tuple[State, str | None]] = {}
    advised: str | None = None
    while True:
        started = time.monotonic()
        states = [each for each in reporter.states() if not each.canary]
        for each in states:
            if known.get(each.pod) != (each.state, each.reason):
                on_change(each)
        known = {each.pod: (each.state, each.reason) for each in states}
        if (advice := advice_about(plan, states)) not in (None, advised):
            advised = advice
            on_advice(advice)
        serving = sum(each.state is State.SERVING for each in states)
        done = serving == count and not any(each.state is State.LEAVING for each in states)
        if done and (not settled or _available(cluster, plan) >= count):
            return
        now = time.monotonic()
        if now > since + timeout:
            rest = ", and others still leave, or proxies have yet to hear of them" if serving == count else ""
            raise UnavailableError(
                f"{serving} of {count} replicas serve after {timeout:g} seconds{rest}",
                hint=_what_helps(cluster, plan, states),
            )
        time.sleep(max(_PAUSE, 3 * (now - started)))


def _available(cluster: Cluster, plan: Plan) -> int:
    deployment = cluster.get(DEPLOYMENT, plan.replica, namespace=plan.namespace)
    return 0 if deployment is None else int(deployment.get("status", {}).get("availableReplicas", 0))


def _what_helps(cluster: Cluster, plan: Plan, replicas: Sequence[ReplicaState]) -> str:
    deployment = cluster.get(DEPLOYMENT, plan.replica, namespace=plan.namespace)
    trouble = None if deployment is None else creation_failure(deployment)
    if trouble is None and go_on_by_themselves(replicas):
        return "They go on by themselves: `sealserve k8s status` says what they wait for."
    made = None if trouble is None else f"The cluster makes no more pods: {trouble}."
    said = "`sealserve k8s status` says what keeps the others."
    return " ".join(filter(None, (made, advice_about(plan, replicas), said)))
