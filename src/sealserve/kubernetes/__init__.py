"""Kubernetes: what a deployment is in a cluster, rendered from ``deployment.yaml``."""

from __future__ import annotations

from sealserve.kubernetes.rendering import Rendered, render_kubernetes

__all__ = ["Rendered", "render_kubernetes"]
