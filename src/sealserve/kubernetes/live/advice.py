"""What to do about replicas that do not come up by themselves, told once for all of them."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Sequence

from sealserve.kubernetes.live.replica_state import ReplicaState, State
from sealserve.kubernetes.plan import Plan
from sealserve.kubernetes.tee import platform_secret, tls_secret

_MISSING_SECRET = re.compile(r'secret "([^"]+)" not found')
_SHORT_OF = re.compile(r"Insufficient ([\w./-]+)")
_TROUBLE = re.compile("[A-Z][A-Za-z]+: |started again after: ")
"""How a reason begins that is an event's warning, or the end before this beginning; others tell of steps."""
_ON_THEIR_WAY = frozenset({State.PENDING, State.PULLING, State.STARTING})
_FINE = frozenset({State.SERVING, State.LEAVING})


def advice_about(plan: Plan, replicas: Iterable[ReplicaState]) -> str | None:
    """What may help, in sentences, each of them once; None if nothing is known of that kind."""
    states = list(replicas)
    return (
        " ".join(filter(None, (_about_brokers(plan, states), _about_secrets(plan, states), _about_room(states))))
        or None
    )


def go_on_by_themselves(replicas: Iterable[ReplicaState]) -> bool:
    """Whether nothing is known that keeps one of them from serving, or leaving, in a while."""
    return all(
        each.state in _FINE or (each.state in _ON_THEIR_WAY and _TROUBLE.match(each.reason or "") is None)
        for each in replicas
    )


def _about_brokers(plan: Plan, replicas: Sequence[ReplicaState]) -> str | None:
    if not any(each.state is State.WAITING_FOR_BROKER for each in replicas):
        return None
    if plan.section.broker is not None:
        where = f"{plan.section.broker} (kubernetes.broker in deployment.yaml)"
    else:
        where = f"{', '.join(map(str, plan.brokers))} (image.brokers in deployment.yaml)"
    address = f"Pods look for it at {where}, which may be wrong: `sealserve k8s doctor --probe` tries it from a pod."
    if plan.keys_namespace is not None:
        running = "Are the key brokers running? In their owner's cluster"
        return f"{running}: `kubectl -n {plan.keys_namespace} get pods`. {address}"
    settings = plan.deployment.state / "owner" / "broker.yaml"
    shorter = shlex.quote(min(str(settings), os.path.relpath(settings), key=len))
    running = "Is the key broker running? On its owner's machine"
    return f"{running}: `sealserve broker run -f {shorter}`. {address}"


def _about_secrets(plan: Plan, replicas: Sequence[ReplicaState]) -> str | None:
    missing = {name for each in replicas for name in _MISSING_SECRET.findall(each.reason or "")}
    ours = sorted(missing & {platform_secret(plan), tls_secret(plan)})
    return f"`sealserve k8s apply` makes the Secret {ours[0]}: replicas wait for it until then." if ours else None


def _about_room(replicas: Sequence[ReplicaState]) -> str | None:
    unplaced = [each for each in replicas if each.state is State.UNSCHEDULABLE]
    short = {name.rstrip(".") for each in unplaced for name in _SHORT_OF.findall(each.reason or "")}
    if not short:
        return None
    return (
        f"No node has as much {', '.join(sorted(short))} left as a replica asks for: ask for less "
        "(kubernetes.resources), take other pods away, or add nodes. `sealserve k8s doctor` says how many replicas fit."
    )
