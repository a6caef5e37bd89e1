"""What to do about replicas that wait, told once for all of them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable

from sealserve.kubernetes.live.replica_state import ReplicaState, State
from sealserve.kubernetes.plan import Plan


def broker_advice(plan: Plan, replicas: Iterable[ReplicaState]) -> str | None:
    """Where to look, if a replica waits for a key broker; None if none does."""
    if not any(each.state is State.WAITING_FOR_BROKER for each in replicas):
        return None
    if plan.keys_namespace is not None:
        return f"Are the key brokers running? In their owner's cluster: `kubectl -n {plan.keys_namespace} get pods`"
    settings = plan.deployment.state / "owner" / "broker.yaml"
    shorter = shlex.quote(min(str(settings), os.path.relpath(settings), key=len))
    return f"Is the key broker running? On its owner's machine: `sealserve broker run -f {shorter}`"
