"""A deployment in a server of its own, and what was told about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fake_api_server import FakeApiServer
from kubernetes_cases import CASES, MODEL_SIZE, write_deployment

from sealserve.kubernetes.live.api import Cluster
from sealserve.kubernetes.live.applying import Change, Told, apply_objects
from sealserve.kubernetes.plan import Plan
from sealserve.kubernetes.rendering import objects_by_file, plan_deployment
from sealserve.kubernetes.yaml_text import Object


class Case:
    """The deployment ``nginx-simulated``, until another is asked for."""

    def __init__(self, directory: Path, cluster: Cluster, server: FakeApiServer) -> None:
        self.directory, self.cluster, self.server = directory, cluster, server
        self.changes: list[Change] = []
        self.warnings: list[str] = []
        self.told = Told(self.changes.append, self.warnings.append)
        self.plan, self.objects = self.deployment("nginx-simulated")

    def deployment(self, case: str, **section: Any) -> tuple[Plan, list[Object]]:
        """A plan and its objects. :param section: what is different in the section ``kubernetes``."""
        changes = {**CASES[case], "kubernetes": {**CASES[case]["kubernetes"], **section}}
        plan = plan_deployment(write_deployment(self.directory, changes), model_size=MODEL_SIZE)
        return plan, [thing for things in objects_by_file(plan).values() for thing in things]

    def apply(self, objects: list[Object] | None = None, *, force: bool = False) -> list[Object]:
        """Apply; the server's log and what was told begin anew."""
        self.changes.clear()
        self.warnings.clear()
        self.server.log.clear()
        return apply_objects(self.cluster, objects or self.objects, told=self.told, force=force)
