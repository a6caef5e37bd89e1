"""A deployment in the cluster as its owner and its clients see it: applied, watched by its status, and called."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.deployments import Owner
from sealserve.broker.administration import BrokerAdministration
from sealserve.broker.settings import BrokerSettings
from sealserve.client import Client
from sealserve.evidence import AppraisalPolicy
from sealserve.kubernetes.live.way_in import find_way

SERVER_NAME = "replica.sealserve.internal"
_SEALSERVE = (sys.executable, "-m", "sealserve")


def sealserve(owner: Owner, *arguments: str, codes: tuple[int, ...] = (0,)) -> str:
    """Run a command of ``sealserve k8s`` on a deployment. :returns: what it printed."""
    return ended(owner, *arguments, codes=codes).stdout


def ended(
    owner: Owner, *arguments: str, codes: tuple[int, ...], kubeconfig: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """A command of ``sealserve k8s`` on a deployment, when it has ended with one of these exit codes.

    :param kubeconfig: of whoever runs it; the administrator if not given.
    """
    options = ["-f", str(owner.file), "--kubeconfig", str(kubeconfig or owner.cluster.kubeconfig)]
    done = subprocess.run(
        [*_SEALSERVE, "k8s", *arguments, *options], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode in codes, done.stdout + done.stderr
    return done


def status(owner: Owner, *arguments: str) -> dict[str, Any]:
    """``k8s status --json``."""
    found: dict[str, Any] = json.loads(sealserve(owner, "status", "--json", *arguments, codes=(0, 5)))
    return found


def until(owner: Owner, state: str, *, saying: str = "", seconds: float = 90) -> dict[str, Any]:
    """A replica that is in that state, for a reason with those words in it."""
    deadline = time.monotonic() + seconds
    while True:
        now = status(owner)
        for replica in now["replicas"]:
            if replica["state"] == state and saying in (replica["reason"] or ""):
                return dict(replica)
        assert time.monotonic() < deadline, now
        time.sleep(0.5)


@contextlib.contextmanager
def applied(owner: Owner) -> Iterator[Path]:
    """The deployment's objects in the cluster, and none of them afterwards. Nothing is waited for."""
    output = owner.file.parent / "k8s"
    render(owner, output)
    kubectl = owner.cluster.kubectl
    try:
        kubectl("apply", "--server-side", "--validate=strict", "--kustomize", output)
        secret = ["secret", "generic", f"{owner.name}-simulated-platform", f"--from-file={owner.machine_keys}"]
        kubectl("--namespace", owner.name, "create", *secret)
        yield output
    finally:
        kubectl("delete", "--kustomize", output, "--ignore-not-found", "--timeout=100s")


def render(owner: Owner, output: Path) -> None:
    command = [*_SEALSERVE, "k8s", "render", "-f", str(owner.file), "-o", str(output)]
    subprocess.run(command, check=True, timeout=60)


@contextlib.contextmanager
def administration(owner: Owner) -> Iterator[BrokerAdministration]:
    """The key broker's store, as its owner changes it."""
    with BrokerSettings.load(owner.layout.broker_configuration).open_store() as store:
        yield BrokerAdministration(store, actor="test")


def ask_every_second(owner: Owner) -> None:
    """Have replicas ask the key broker again each second."""
    with administration(owner) as broker:
        document = broker.grant(owner.name).document
        broker.put_grant(document.model_copy(update={"refresh_seconds": 1}))


@dataclass(frozen=True)
class Answer:
    """:ivar when: monotonic, when it was asked for. :ivar value: what the model multiplies by."""

    when: float
    replica: str
    value: float


class Callers:
    """Clients with a connection each, that ask all the time, one after the other, and keep what they are answered."""

    def __init__(self, owner: Owner, *, count: int = 8, pause: float = 0.05) -> None:
        service = owner.cluster.get("service", owner.name, "--namespace", owner.name)
        port = next(port["nodePort"] for port in service["spec"]["ports"] if port["name"] == "grpc")
        self._target = f"{owner.cluster.addresses.node}:{port}"
        self._policy = AppraisalPolicy.load(owner.layout.client_policy)
        self._model = status_model(owner)
        self._pause = pause
        self.answers: list[Answer] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(count)]

    def _call(self) -> None:
        with Client(self._target, self._policy, server_name=SERVER_NAME) as client:
            while not self._stop.wait(self._pause):
                when = time.monotonic()
                try:
                    answer = client.predict({"x": np.ones(1, np.float32)}, model=self._model)
                except Exception as error:  # noqa: BLE001 - every failure is one
                    self.failures.append(repr(error))
                else:
                    self.answers.append(Answer(when, answer.replica, float(answer.outputs["y"][0])))

    def until(self, value: float, *, seconds: float = 60) -> None:
        """Return when everybody who asks is answered with ``value``."""
        deadline = time.monotonic() + seconds
        while {answer.value for answer in self.answers[-50:]} != {value}:
            assert time.monotonic() < deadline, (self.answers[-5:], self.failures)
            time.sleep(0.1)

    def by_replica(self, since: float, to: float) -> Counter[str]:
        """How many answers each replica gave to what was asked in that time."""
        return Counter(answer.replica for answer in list(self.answers) if since <= answer.when < to)

    def __enter__(self) -> Callers:
        # Replicas serve before every proxy of the edge has heard of them. `apply` waits for that; kubectl does not.
        assert find_way([self._target], SERVER_NAME).address == self._target
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def status_model(owner: Owner) -> str:
    """Name of the model that the deployment serves."""
    with administration(owner) as broker:
        return broker.grant(owner.name).document.model.name
