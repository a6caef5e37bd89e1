"""What the kubelets of a fleet would do: for each pod that comes to a node that kwok plays, a real attestation.

Each pod gets an identity of its own (a key and a certificate with evidence), asks the real broker for its grant
as a replica does, and only then is told to kwok as one that is ready. All of it runs in one process beside the broker,
which misses the processors that it takes.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from sealserve.broker.client import request_grant
from sealserve.enclave.measured import measured_settings
from sealserve.evidence import SimulatedAttester, measure_simulated_enclave
from sealserve.kubernetes.live.api import Cluster
from sealserve.kubernetes.live.kinds import POD
from sealserve.local.layout import Layout
from sealserve.ratls import create_identity

ATTESTED = "sealserve.dev/benchmark-attested"
_AT_ONCE = 32

# What kwok does with pods, in the place of its own stages: replicas are ready when they are attested.
# https://kwok.sigs.k8s.io/docs/user/stages-configuration/
_READY = """\
{{ $now := Now }}
conditions:
{{ range $type := list "Initialized" "ContainersReady" "Ready" }}
- {type: {{ $type }}, status: "True", lastTransitionTime: {{ $now | Quote }}}
{{ end }}
containerStatuses:
{{ range .spec.containers }}
- {name: {{ .name | Quote }}, image: {{ .image | Quote }}, ready: true, restartCount: 0,
   state: {running: {startedAt: {{ $now | Quote }}}}}
{{ end }}
hostIP: {{ NodeIPWith .spec.nodeName | Quote }}
podIP: {{ PodIPWith .spec.nodeName false .metadata.uid .metadata.name .metadata.namespace | Quote }}
phase: Running
startTime: {{ $now | Quote }}
"""


def write_stages(path: Path) -> Path:
    """kwok's configuration."""

    def stage(name: str, expressions: list[dict[str, Any]], following: dict[str, Any]) -> dict[str, Any]:
        return {
            "apiVersion": "kwok.x-k8s.io/v1alpha1",
            "kind": "Stage",
            "metadata": {"name": name},
            "spec": {
                "resourceRef": {"apiGroup": "v1", "kind": "Pod"},
                "selector": {"matchExpressions": expressions},
                "next": following,
            },
        }

    lives = {"key": ".metadata.deletionTimestamp", "operator": "DoesNotExist"}
    attested = {"key": f'.metadata.annotations["{ATTESTED}"]', "operator": "Exists"}
    new = {"key": ".status.podIP", "operator": "DoesNotExist"}
    component = '.metadata.labels["app.kubernetes.io/component"]'
    other = {"key": component, "operator": "NotIn", "values": ["replica"]}
    leaves = {"key": ".metadata.deletionTimestamp", "operator": "Exists"}
    documents = [
        stage("pod-ready", [lives, attested, new], {"statusTemplate": _READY}),
        stage("other-pod-ready", [lives, other, new], {"statusTemplate": _READY}),
        stage("pod-delete", [leaves], {"finalizers": {"empty": True}, "delete": True}),
    ]
    path.write_text(yaml.safe_dump_all(documents))
    return path


class Fleet:
    """:param broker: ``host:port``. :param name: of the deployment, and of its namespace."""

    def __init__(self, kubeconfig: Path, layout: Layout, *, broker: str, name: str) -> None:
        self._api = Cluster.connect(kubeconfig)
        self._broker = broker
        self._name = name
        self._authority = layout.authority.read_bytes()
        enclave = measure_simulated_enclave(measured_settings(deployment=name, broker_ca=self._authority))
        self._attester = SimulatedAttester(layout.simulated_platform, enclave)
        self._seen: set[str] = set()
        self._ends = threading.Event()
        self._loop = asyncio.new_event_loop()
        self.attested: list[float] = []
        """When each attestation was done, by :func:`time.monotonic`."""

    @contextmanager
    def running(self) -> Iterator[Fleet]:
        threads = [threading.Thread(target=work, daemon=True) for work in (self._loop.run_forever, self._watch)]
        self._gate = asyncio.Semaphore(_AT_ONCE)
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._ends.set()
            threads[1].join()
            self._loop.call_soon_threadsafe(self._loop.stop)
            threads[0].join()

    def _watch(self) -> None:
        labels = {"app.kubernetes.io/component": "replica"}
        while not self._ends.is_set():
            for what, pod in self._api.watch(POD, namespace=self._name, labels=labels, seconds=2):
                uid = pod["metadata"]["uid"]
                if what != "DELETED" and pod["spec"].get("nodeName") and uid not in self._seen:
                    self._seen.add(uid)
                    asyncio.run_coroutine_threadsafe(self._attest(pod["metadata"]["name"]), self._loop)

    async def _attest(self, pod: str) -> None:
        async with self._gate:
            identity = await asyncio.to_thread(create_identity, self._attester)
            grant = await request_grant(
                [self._broker],
                ca_pem=self._authority,
                identity=identity,
                attester=self._attester,
                deployment=self._name,
                timeout=120,
            )
            grant.wipe()
            self.attested.append(time.monotonic())
            change = {"metadata": {"annotations": {ATTESTED: "true"}}}
            await asyncio.to_thread(self._api.patch, POD, pod, change, namespace=self._name)
