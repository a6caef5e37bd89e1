"""Whether a cluster is fit for a deployment, and how to mend what is not."""

from __future__ import annotations

from sealserve.kubernetes.live.doctor.examination import ClusterReport, examine_cluster

__all__ = ["ClusterReport", "examine_cluster"]
