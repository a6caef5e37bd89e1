"""Whether the namespace is there whose Prometheus may ask replicas for metrics."""

from __future__ import annotations

from sealserve.kubernetes.live.api import Cluster
from sealserve.kubernetes.live.kinds import NAMESPACE
from sealserve.kubernetes.plan import Plan


def shut_out(cluster: Cluster, plan: Plan) -> str | None:
    """What is wrong with ``kubernetes.monitoring.namespace``: the NetworkPolicy lets nobody else in.

    :returns: None if it is there, or no metrics are asked for. :raises ForbiddenError: it may not be looked for.
    """
    wanted = plan.section.monitoring
    if wanted is None or cluster.get(NAMESPACE, wanted.namespace) is not None:
        return None
    return f"kubernetes.monitoring.namespace: there is no namespace {wanted.namespace}, so that nobody gets metrics"
