"""Every kind of rendering, as the real API server takes it: no field that it does not know, and not one warning."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes_cases import CASES, objects_in, of_kind, render

from cluster.cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

_OF_OTHERS = ("gateway.networking.k8s.io/", "k8s.nginx.org/", "monitoring.coreos.com/", "keda.sh/")
"""Kinds that an edge's controller, Prometheus' operator or KEDA bring along."""


@pytest.fixture(params=CASES)
def objects(request: pytest.FixtureRequest, kubernetes_cluster: Cluster, tmp_path: Path) -> Iterator[list[Any]]:
    """The objects of one kind of rendering, whose namespace is there."""
    rendered = objects_in(render(tmp_path, CASES[request.param]))
    namespace = of_kind(rendered, "Namespace")[0]
    kubernetes_cluster.apply([namespace])
    yield [found for found in rendered if not found["apiVersion"].startswith(_OF_OTHERS)]
    kubernetes_cluster.kubectl("delete", "namespace", namespace["metadata"]["name"])


def test_the_api_server_takes_every_field_without_a_warning(kubernetes_cluster: Cluster, objects: list[Any]) -> None:
    manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    strict = ["--server-side", "--dry-run=server", "--validate=strict", "--warnings-as-errors"]
    answer = kubernetes_cluster.kubectl("apply", *strict, "--filename=-", stdin=manifest)
    assert len(answer.splitlines()) == len(objects)
