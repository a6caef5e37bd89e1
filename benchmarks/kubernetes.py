"""A real Kubernetes: how quickly replicas come, what callers notice of changes, and how a fleet grows.

- **render**: `sealserve k8s render`, beside `kubectl kustomize` of what it wrote.
- **apply**: of three simulated replicas, from the command to the first verified answer, images being on the node;
  beside `kubectl apply -k` and `kubectl rollout status` of the same files, to the same answer.
- **changes**: a rolling update of three replicas and scaling 1, 4, 1, and 4 again one by one, under verified requests
  at a constant rate: those that failed, the 99th percentile beside that of the steady state, and how even traffic is
  ten seconds after more came. Beside scaling up: what three pods cost that start, and do nothing.
- **fleet**: 50 to 500 replicas on nodes that kwok plays, each attested by the real broker: seconds, processor time of
  the broker, and requests of ours to the API server, for each replica.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from sealserve.client import Client
from sealserve.errors import UnavailableError
from sealserve.evidence import AppraisalPolicy

from ._kubernetes_load import Rate, failures, percentile, running, unevenness
from ._kubernetes_place import NAME, Place, place, say, wait_for

_CALLERS, _RATE = 32, 64.0
_STEADY, _SETTLED, _COUNTED = 20.0, 10.0, 10.0
_INPUT = {"x": np.array([1, 2, 3], np.float32)}


def _policy(here: Place) -> AppraisalPolicy:
    return AppraisalPolicy.load(here.owner.layout.client_policy)


def _first_answer(here: Place) -> None:
    """As soon as there is one: a client that finds nobody asks again."""
    deadline = time.monotonic() + 60
    with Client(here.target, _policy(here)) as client:
        while True:
            try:
                answer = client.predict(_INPUT, model="doubling", timeout=60)
            except UnavailableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                break
    assert list(answer.outputs["y"]) == [2.0, 4.0, 6.0]


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def render(here: Place, *, runs: int) -> list[dict[str, Any]]:
    output = str(here.directory / "k8s")
    ours = median(_seconds(lambda: here.sealserve("k8s", "render", "-o", output)) for _ in range(runs))
    peer = median(_seconds(lambda: here.cluster.kubectl("kustomize", output)) for _ in range(runs))
    return [{"part": "render", "seconds": ours, "kubectl kustomize": peer, "ratio": ours / peer}]


def apply(here: Place, *, runs: int) -> list[dict[str, Any]]:
    def by_us() -> None:
        here.sealserve("k8s", "apply")
        _first_answer(here)

    output = str(here.directory / "k8s")

    def by_kubectl() -> None:
        kubectl = here.cluster.kubectl
        kubectl("apply", "--kustomize", output)
        secret = f"{NAME}-simulated-platform"
        kubectl("--namespace", NAME, "create", "secret", "generic", secret, f"--from-file={here.owner.machine_keys}")
        for part in ("replica", "edge"):
            kubectl("--namespace", NAME, "rollout", "status", f"deployment/{NAME}-{part}", "--timeout=120s")
        _first_answer(here)

    def clean() -> None:
        here.sealserve("k8s", "delete", "--yes")

    ours, peers = [], []
    for _ in range(runs):
        ours.append(_seconds(by_us))
        clean()
        here.sealserve("k8s", "render", "-o", output)
        peers.append(_seconds(by_kubectl))
        here.cluster.kubectl("delete", "--kustomize", output)
    ours.append(_seconds(by_us))
    return [{"part": "apply", "seconds": ours, "kubectl": peers, "ratio": median(ours) / median(peers)}]


def changes(here: Place) -> list[dict[str, Any]]:
    rows = []
    rate = Rate(here.target, here.owner.layout.client_policy, "doubling", _INPUT, _CALLERS, _RATE)
    with running(rate) as load:
        time.sleep(5)

        def steady() -> float:
            began = time.monotonic()
            time.sleep(_STEADY)
            return percentile(load.outcomes(began, time.monotonic()), 0.99)

        def change(part: str, work: Callable[[], object], *, replicas: int | None = None) -> None:
            before = steady()
            began = time.monotonic()
            work()
            took = time.monotonic() - began
            done = time.monotonic()
            time.sleep(_SETTLED + _COUNTED)
            during = load.outcomes(began, done + _SETTLED)
            row: dict[str, Any] = {
                "part": part,
                "seconds": took,
                "requests": len(during),
                "failed": dict(failures(during)),
                "p99 steady ms": 1000 * before,
                "p99 ms": 1000 * percentile(during, 0.99),
                "ratio": percentile(during, 0.99) / before,
            }
            if replicas:
                counted = load.outcomes(done + _SETTLED, done + _SETTLED + _COUNTED)
                row["unevenness"] = unevenness(counted, replicas)
            rows.append(row)
            say(json.dumps(row))

        def roll() -> None:
            kubectl = here.cluster.kubectl
            kubectl("--namespace", NAME, "rollout", "restart", f"deployment/{NAME}-replica")
            kubectl(
                "--namespace", NAME, "rollout", "status", f"deployment/{NAME}-replica", "--timeout=300s", timeout=320
            )

        change("rolling update of three", roll, replicas=3)
        change("scale 3 to 1", lambda: here.sealserve("k8s", "scale", "1"))
        change("three pods that sleep", here.start_sleepers)
        here.cluster.kubectl("delete", "deployment/sleepers", "--wait")
        change("scale 1 to 4", lambda: here.sealserve("k8s", "scale", "4"), replicas=4)
        change("scale 4 to 1", lambda: here.sealserve("k8s", "scale", "1"))
        slowly = ("k8s", "scale", "4", "--at-a-time", "1")
        change("scale 1 to 4, one at a time", lambda: here.sealserve(*slowly), replicas=4)
    return rows


def fleet(sizes: list[int]) -> list[dict[str, Any]]:
    from ._kubernetes_fleet import Fleet, write_stages

    rows = []
    with place(replicas=1) as here:
        cluster = here.cluster
        here.hide_edge()
        cluster.kubectl("cordon", "--selector=type!=kwok")
        cluster.add_fake_nodes(50, configuration=write_stages(here.directory / "stages.yaml"))
        broker = f"{cluster.addresses.host}:{here.broker.port}"
        for size in sizes:
            here.count(size)
            everyone = Fleet(cluster.kubeconfig, here.owner.layout, broker=broker, name=NAME)
            before, cpu = time.monotonic(), here.broker.cpu
            with everyone.running():
                told = json.loads(here.sealserve("k8s", "apply", "--json", "--timeout", "600"))
                took = time.monotonic() - before
            row = {
                "part": "fleet",
                "replicas": size,
                "seconds": took,
                "attested": len(everyone.attested),
                "seconds of attestations": max(everyone.attested) - before,
                "broker cpu ms each": 1000 * (here.broker.cpu - cpu) / size,
                "api requests": told.get("requests", 0),
                "api requests each": told.get("requests", 0) / size,
            }
            rows.append(row)
            say(json.dumps(row))
            here.sealserve("k8s", "delete", "--yes", "--keep-namespace")
            wait_for(lambda: not cluster.get("--namespace", NAME, "pods")["items"], seconds=120, what="no more pods")
    return rows


def _plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.6))
    sizes = [row["replicas"] for row in rows]
    shown = (
        ("milliseconds to ready, for each replica", [1000 * row["seconds"] / row["replicas"] for row in rows]),
        ("broker's processor time, ms each", [row["broker cpu ms each"] for row in rows]),
        ("our requests to the API server, each", [row["api requests each"] for row in rows]),
    )
    for axis, (label, values) in zip(axes, shown, strict=True):
        axis.plot(sizes, values, marker="o")
        axis.set_xlabel("replicas")
        axis.set_title(label, fontsize=10)
        axis.set_ylim(bottom=0)
        axis.grid(visible=True, alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="./run bench kubernetes", description=__doc__)
    parser.add_argument("parts", nargs="*", help="render, apply, changes, fleet; all if none is named")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--sizes", default="50,100,200,500", help="of the fleet")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the fleet")
    told = parser.parse_args(argv)
    parts = told.parts or ["render", "apply", "changes", "fleet"]
    rows: list[dict[str, Any]] = []
    if set(parts) & {"render", "apply", "changes"}:
        with place(replicas=3) as here:
            if "render" in parts:
                rows += render(here, runs=told.runs)
            if "apply" in parts:
                rows += apply(here, runs=told.runs)
            elif "changes" in parts:
                here.sealserve("k8s", "apply")
            if "changes" in parts:
                rows += changes(here)
    if "fleet" in parts:
        of_fleet = fleet([int(size) for size in told.sizes.split(",")])
        rows += of_fleet
        if told.plot:
            _plot(of_fleet, told.plot)
    for row in rows:
        print(json.dumps(row))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
