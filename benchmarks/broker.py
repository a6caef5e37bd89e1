"""The key broker's figures, each beside its floor.

- **attestations**: handshake, evidence, decision, durable audit record, secret; of a broker of two worker processes,
  asked by another process over version 2 and version 1. Floor, measured in between: as many processes that do a TLS 1.3
  handshake with a client certificate (P-256), as bare as pyOpenSSL does it, and one verification of a quote by
  dcap-qvl, asked by the same generator, which makes a quote for each where the enclave of that version does. The
  generator takes its part of the two processors from both, so processor time of the servers alone is compared, too.
- **storm**: 1,000 replicas that start together, beside 500 peers that are slow or silent. Nobody is refused for load.
- **slow peers**: how long an attestation takes with them and without.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

from ._broker_place import MostMemory, Process, broker, make_files

KINDS = ("floor 2", "version 2", "floor 1", "version 1")


@contextmanager
def bare_server(directory: Path, processes: int) -> Iterator[Process]:
    popen = subprocess.Popen(
        [sys.executable, "-m", "benchmarks._broker_floor", str(directory), str(processes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Process(popen.pid, int(popen.stdout.readline()))  # type: ignore[union-attr]
    finally:
        popen.communicate()


def attest(directory: Path, server: Process, kind: str, count: int, at_once: int) -> dict[str, float]:
    """Attestations a second, and milliseconds of processor time of both sides for each."""
    told = {
        "platform": str(directory / "platform"),
        "port": server.port,
        "kind": kind,
        "count": count,
        "at_once": at_once,
    }
    popen = subprocess.Popen(
        [sys.executable, "-m", "benchmarks._broker_load", json.dumps(told)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    popen.stdout.readline()  # type: ignore[union-attr]
    before = server.cpu
    result = json.loads(popen.communicate("\n")[0])
    if len(result["seconds"]) != count:
        raise RuntimeError(f"{count - len(result['seconds'])} of {count} got no answer ({kind})")
    return {
        "rate": count / result["took"],
        "cpu": (server.cpu - before) / count * 1e3,
        "client_cpu": result["cpu"] / count * 1e3,
    }


def storm(directory: Path, server: Process, *, replicas: int, slow: int, at_once: int) -> dict[str, Any]:
    told = {"directory": str(directory), "port": server.port, "replicas": replicas, "slow": slow, "at_once": at_once}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks._broker_storm", json.dumps(told)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def pieces(directory: Path) -> dict[str, float]:
    """Milliseconds of processor time of the floor's parts, the server's side alone, in memory."""
    from OpenSSL import SSL

    from sealserve.evidence import SimulatedAttester
    from sealserve.ratls import create_identity

    from ._broker_floor import Floor
    from ._broker_place import ENCLAVE

    floor = Floor(directory)
    identity = create_identity(SimulatedAttester(directory / "platform", ENCLAVE))
    client_settings = SSL.Context(SSL.TLS_CLIENT_METHOD)
    client_settings.use_certificate(identity.certificate)
    client_settings.use_privatekey(identity.private_key)

    def handshake() -> float:
        client, server = SSL.Connection(client_settings, None), SSL.Connection(floor.context, None)
        client.set_connect_state()
        server.set_accept_state()
        used = 0.0
        for _ in range(3):
            _step(client, server)
            started = time.thread_time()
            _step(server, client)
            used += time.thread_time() - started
        return used

    def verify() -> float:
        started = time.thread_time()
        floor.verify()
        return time.thread_time() - started

    return {
        "handshake": median(handshake() for _ in range(200)) * 1e3,
        "verification": median(verify() for _ in range(200)) * 1e3,
    }


def _step(speaker: Any, listener: Any) -> None:
    """One side's turn in a handshake in memory."""
    from OpenSSL import SSL

    with suppress(SSL.WantReadError):
        speaker.do_handshake()
    with suppress(SSL.WantReadError):
        listener.bio_write(speaker.bio_read(1 << 16))


def percentile(seconds: list[float], part: float) -> float:
    return seconds[min(len(seconds) - 1, int(len(seconds) * part))] * 1e3


Row = tuple[str, float, str, str, str | None, float | None]


def measure(options: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        settings = make_files(directory, workers=options.workers)
        parts = pieces(directory)
        found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
        with bare_server(directory, options.workers) as floor, broker(settings, log=directory / "log") as server:
            for _ in range(options.rounds):
                for kind in KINDS:
                    asked = floor if kind.startswith("floor") else server
                    found[kind].append(attest(directory, asked, kind, options.count, options.at_once))
            alone = storm(directory, server, replicas=options.count, slow=0, at_once=4)
            beside = storm(directory, server, replicas=options.count, slow=options.slow, at_once=4)
        with broker(settings, log=directory / "log") as server:
            before = server.cpu
            with MostMemory(server) as most:
                together = storm(
                    directory, server, replicas=options.replicas, slow=options.slow, at_once=options.replicas
                )
            storm_cpu = server.cpu - before
    values = {kind: {what: median(run[what] for run in runs) for what in runs[0]} for kind, runs in found.items()}
    for kind in ("version 2", "version 1"):
        bare = values[kind.replace("version", "floor")]
        rate, cpu = values[kind]["rate"], values[kind]["cpu"]
        rows += [
            (f"attestations, {kind}", rate, "/s", "ratio >= 0.70", "bare server", bare["rate"]),
            (f"processor time of one, {kind}", cpu, "ms", "", "bare server", bare["cpu"]),
        ]
    rows += [
        ("  in it: handshake, the server's side, in memory", parts["handshake"], "ms", "", None, None),
        ("  in it: verification of the quote", parts["verification"], "ms", "", None, None),
        ("  the generator's own, version 2", values["version 2"]["client_cpu"], "ms", "", None, None),
        ("an attestation, median", percentile(beside["seconds"], 0.5), "ms", "", "no slow peers",
         percentile(alone["seconds"], 0.5)),
        ("an attestation, 99th percentile", percentile(beside["seconds"], 0.99), "ms", "", "no slow peers",
         percentile(alone["seconds"], 0.99)),
        ("storm: served", together["served"], "", f"{options.replicas}", None, None),
        ("storm: attempts cut off by the broker", together["cut"], "", "0", None, None),
        ("storm: attempts that took 10 s", together["late"], "", "0", None, None),
        ("storm: until the last one is served", together["took"], "s", "", None, None),
        ("storm: processor time of one", storm_cpu / options.replicas * 1e3, "ms", "", "bare server", bare["cpu"]),
        ("storm: most memory of the broker", most.bytes / 1e6, "MB", "< 300", None, None),
    ]  # fmt: skip
    return rows


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="./run bench broker", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="attestations of one round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, interleaved (default: %(default)s)")
    parser.add_argument("--at-once", type=int, default=64, help="attestations under way (default: %(default)s)")
    parser.add_argument("--replicas", type=int, default=1000, help="in the storm (default: %(default)s)")
    parser.add_argument("--slow", type=int, default=500, help="slow or silent peers (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes of the broker (default: %(default)s)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    rows = measure(options)
    if options.json:
        keys = ("figure", "value", "unit", "target", "floor", "floor_value")
        print(json.dumps([dict(zip(keys, row, strict=True)) for row in rows]))
        return 0
    print(f"{'figure':<50} {'value':>9}       target          floor")
    for figure, value, unit, target, name, floor_value in rows:
        beside = f"{name}: {floor_value:.3g} {unit}, ratio {value / floor_value:.2f}" if floor_value else ""
        print(f"{figure:<50} {value:>9.4g} {unit:<4}  {target:<14}  {beside}")
    return 0
