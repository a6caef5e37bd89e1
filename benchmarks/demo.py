"""The figures of the demonstration, each beside its floor.

- **demonstration**: `sealserve demo` as a whole process, several times.
- **replica start**: from the start of its process to ready. Floors: reading the sealed model's file; and a bare process
  that imports OpenVINO and loads the same model from a plain directory.
- **memory**: resident, of a replica. Floor: that bare process.
- **answer**: one picture, batch 1, through client, TLS and gRPC, with and without nginx. Floor: OpenVINO in this
  process, the same model with the same number of threads.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BARE = """
import json, resource, sys, time
started = time.perf_counter()
import openvino
core = openvino.Core()
model = core.read_model(sys.argv[1])
compiled = core.compile_model(
    model, "CPU", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
)
resident = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS:"))
print(json.dumps({"seconds": time.perf_counter() - started, "resident": resident * 1024}))
"""


def median(values: list[float]) -> float:
    return statistics.median(values)


def timed(action: Callable[[], Any]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def run_demonstration(directory: Path) -> tuple[float, list[dict[str, Any]]]:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "sealserve", "demo", "--json", "--directory", str(directory)],
        capture_output=True,
        text=True,
        check=True,
    )
    return time.perf_counter() - started, [json.loads(line) for line in done.stdout.splitlines()]


def bare_process(model: Path) -> dict[str, float]:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", BARE, str(model)], capture_output=True, text=True, check=True)
    return {**json.loads(done.stdout), "process_seconds": time.perf_counter() - started}


def read_sealed(directory: Path) -> float:
    """Seconds to decrypt and check every file of the sealed model, in this process."""
    from sealserve.sealing import open_sealed_model, read_wrap_key

    with read_wrap_key(directory / "owner" / "wrap.key") as key:

        def read() -> None:
            sealed = open_sealed_model(
                directory / "platform" / "sealed", key, mount="/models/efficientnet-lite0", expected_digest=None
            )
            for file in sealed.files:
                sealed.read(file.name)

        read()
        return median([timed(read) for _ in range(5)])


async def answers(directory: Path, calls: int) -> dict[str, float]:
    """Median seconds of an answer: bare, from a replica, and through nginx; interleaved, so that noise hits all
    alike.
    """
    import numpy as np
    import openvino

    from sealserve.addresses import Address
    from sealserve.client import Client
    from sealserve.deploy.deployment import BrokerSection, Deployment, GatewaySection, ModelSection, ReplicasSection
    from sealserve.evidence import AppraisalPolicy
    from sealserve.local.cluster import run_cluster
    from sealserve.local.layout import Layout
    from sealserve.local.prepare import prepare_cluster
    from sealserve.local.state import cluster_lock

    layout = Layout(directory)
    deployment = Deployment(
        name="demo",
        model=ModelSection(name="efficientnet-lite0", path=directory / "owner" / "model"),
        replicas=ReplicasSection(count=1, threads=1),
        broker=BrokerSection(listen=Address("127.0.0.1", 0)),
        gateway=GatewaySection(listen=Address("127.0.0.1", 0)),
        state=directory,
    )
    picture = np.random.default_rng(1).integers(0, 255, (1, 224, 224, 3), np.uint8)
    compiled = openvino.compile_model(
        openvino.Core().read_model(directory / "owner" / "model" / "1"),
        "CPU",
        {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1},
    )
    request = compiled.create_infer_request()
    with cluster_lock(layout):
        prepared = await asyncio.to_thread(prepare_cluster, deployment, layout)
        async with run_cluster(prepared) as cluster:
            policy = AppraisalPolicy.load(layout.client_policy)
            addresses = {"replica": cluster.replicas[0], "gateway": cluster.gateway}
            clients = {name: Client(str(address), policy) for name, address in addresses.items()}
            cases: dict[str, Callable[[], Any]] = {"bare": lambda: request.infer({0: picture})}
            for name, client in clients.items():
                cases[name] = lambda client=client: client.predict({"images": picture}, model="efficientnet-lite0")

            def measure() -> dict[str, float]:
                seconds: dict[str, list[float]] = {name: [] for name in cases}
                for index in range(calls + 10):
                    for name, call in cases.items():
                        elapsed = timed(call)
                        if index >= 10:
                            seconds[name].append(elapsed)
                return {name: median(values) for name, values in seconds.items()}

            result = await asyncio.to_thread(measure)
            for client in clients.values():
                client.close()
            return result


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="./run bench demo", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="demonstrations (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=200, help="answers (default: %(default)s)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "demo"
        totals, starts, residents, bare = [], [], [], []
        for _ in range(options.runs):
            total, lines = run_demonstration(directory)
            totals.append(total)
            replicas = next(line for line in lines if line.get("step") == 5)["replicas"]
            starts += [replica["seconds"] for replica in replicas]
            residents += [float(replica["resident_bytes"]) for replica in replicas]
            bare.append(bare_process(directory / "owner" / "model" / "1"))
        sealed = read_sealed(directory)
        latency = asyncio.run(answers(directory, options.calls))
    bare_start = median([run["process_seconds"] for run in bare])
    bare_memory = median([float(run["resident"]) for run in bare])
    rows = [
        ("demonstration, start to end", median(totals), "s", "at most 15", None, None),
        (
            "replica, process start to ready (two at once)",
            median(starts),
            "s",
            "at most 3",
            "bare OpenVINO start",
            bare_start,
        ),
        ("", median(starts), "s", "", "reading the sealed file", sealed),
        ("replica, resident", median(residents) / 1e6, "MB", "at most 500", "bare OpenVINO process", bare_memory / 1e6),
        ("answer, from a replica", latency["replica"] * 1e3, "ms", "", "bare OpenVINO", latency["bare"] * 1e3),
        ("answer, through nginx", latency["gateway"] * 1e3, "ms", "", "bare OpenVINO", latency["bare"] * 1e3),
    ]
    if options.json:
        keys = ("figure", "value", "unit", "target", "floor", "floor_value")
        print(json.dumps([dict(zip(keys, row, strict=True)) for row in rows]))
        return 0
    print(f"{'figure':<46} {'value':>9}       target       floor")
    for figure, value, unit, target, floor, floor_value in rows:
        beside = f"{floor}: {floor_value:.3g} {unit}, ratio {value / floor_value:.2f}" if floor_value else ""
        print(f"{figure:<46} {value:>9.3g} {unit:<4}  {target:<11}  {beside}")
    return 0
