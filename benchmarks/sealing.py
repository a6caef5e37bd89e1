"""Encrypting and decrypting files: speed, memory, and where the time goes.

Everything lies in memory-backed storage. Each operation runs several times, in turns with the others and in a process
of its own, after one round that is thrown away (memory that a virtual machine touches for the first time costs more
than the encryption). The best run counts, because whatever else the machine does only adds; the load is shown.

Two floors are measured beside ours: the cryptographic calls alone (a new AES-128-GCM key for every 4 KiB through the
`cryptography` library), and reading and writing alone. Gramine's tool takes its turns where it is on PATH; where it is
not, we compare with what Gramine 1.9's did at its best on two processors of this kind: 255 MB/s encrypting and 295 MB/s
decrypting, on one of them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks._sealing_worker import cpu_seconds

GRAMINE = "gramine-sgx-pf-crypt"
RECORDED = {"encrypt": 255e6, "decrypt": 295e6}
NODE = 4096


@dataclass
class Row:
    """One operation and its runs."""

    name: str
    operation: str
    source: str
    target: str
    processes: int = 1
    digest: bool = False
    runs: list[dict[str, float]] = field(default_factory=list)

    def best(self, what: str) -> float:
        return min(run[what] for run in self.runs)

    def run(self, directory: Path) -> None:
        arguments = [self.operation, str(directory / self.source), str(directory / self.target)]
        worker = [sys.executable, "-m", "benchmarks._sealing_worker", *arguments]
        self.runs.append(_json([*worker, str(self.processes), str(int(self.digest))]))


def rows() -> list[Row]:
    return [
        Row("encrypt, all processors", "encrypt", "plain", "sealed", processes=0),
        Row("encrypt, one process", "encrypt", "plain", "sealed"),
        Row("encrypt and SHA-256, all processors", "encrypt", "plain", "sealed", processes=0, digest=True),
        Row("decrypt, all processors", "decrypt", "sealed", "copy", processes=0),
        Row("decrypt, one process", "decrypt", "sealed", "copy"),
        Row("decrypt and SHA-256, all processors", "decrypt", "sealed", "copy", processes=0, digest=True),
        Row("floor: encryption calls alone, one process", "library-encrypt", "plain", "copy"),
        Row("floor: decryption calls alone, one process", "library-decrypt", "plain", "copy"),
        Row("floor: reading and writing alone, one process", "copy", "plain", "copy"),
    ]


def _json(command: list[str]) -> dict[str, float]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def openssl_speed() -> float | None:
    """AES-128-GCM at 4 KiB with one key, bytes a second, as `openssl speed` says; None without openssl."""
    program = shutil.which("openssl")
    if program is None:
        return None
    command = [program, "speed", "-elapsed", "-seconds", "2", "-bytes", str(NODE), "-evp", "aes-128-gcm"]
    output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = re.search(r"([\d.]+)k\s*$", output)
    return float(found[1]) * 1000 if found else None


def gramine_run(directory: Path, operation: str) -> dict[str, float]:
    """One run of Gramine's tool."""
    key = directory / "wrap.key"
    key.write_bytes(bytes(range(16)))
    source, target = ("plain", "gramine") if operation == "encrypt" else ("gramine", "copy")
    (directory / target).unlink(missing_ok=True)
    before, start = cpu_seconds(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [GRAMINE, operation, "-w", key, "-i", directory / source, "-o", directory / target],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wall = time.perf_counter() - start
    return {"wall": wall, "cpu": cpu_seconds(resource.RUSAGE_CHILDREN) - before, "memory": 0}


def measure(size: int, rounds: int, directory: Path) -> dict[str, Any]:
    """All rows for one size."""
    with (directory / "plain").open("wb") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))
    table = rows()
    gramine = {"encrypt": Row(GRAMINE, "encrypt", "", ""), "decrypt": Row(GRAMINE, "decrypt", "", "")}
    have_gramine = shutil.which(GRAMINE) is not None
    for number in range(rounds + 1):
        for row in table:
            row.run(directory)
            if number == 0:
                row.runs.clear()
        for operation, row in gramine.items():
            if have_gramine:
                row.runs.append(gramine_run(directory, operation))
    worker = [sys.executable, "-m", "benchmarks._sealing_worker", "random", str(directory / "sealed"), "-", "1", "0"]
    reference = {
        operation: (size / row.best("wall"), size / row.best("cpu")) if row.runs else (RECORDED[operation],) * 2
        for operation, row in gramine.items()
    }
    return {
        "size": size,
        "rows": [
            {
                "name": row.name,
                "wall_bytes_per_second": size / row.best("wall"),
                "bytes_per_cpu_second": size / row.best("cpu"),
                "microseconds_of_cpu_per_node": row.best("cpu") / size * NODE * 1e6,
                "peak_memory": max(run["memory"] for run in row.runs),
            }
            | (
                {
                    "wall_ratio_to_gramine": size / row.best("wall") / reference[row.operation][0],
                    "cpu_ratio_to_gramine": size / row.best("cpu") / reference[row.operation][1],
                }
                if row.operation in reference
                else {}
            )
            for row in table
        ],
        "random_4096_byte_reads": _json(worker),
        "gramine": {name: both[0] for name, both in reference.items()},
        "gramine_measured_here": have_gramine,
    }


def show(result: dict[str, Any]) -> None:
    """Print one size's results for people."""
    print(f"\n{result['size'] >> 20} MiB")
    print(f"  {'':<46} {'GB/s':>6} {'x':>5}   {'GB/CPU s':>8} {'x':>5}   {'us/node':>7}  {'MB above':>8}")
    for row in result["rows"]:
        ratios = [
            f"{row[name]:.1f}" if name in row else "" for name in ("wall_ratio_to_gramine", "cpu_ratio_to_gramine")
        ]
        print(
            f"  {row['name']:<46} {row['wall_bytes_per_second'] / 1e9:>6.2f} {ratios[0]:>5}   "
            f"{row['bytes_per_cpu_second'] / 1e9:>8.2f} {ratios[1]:>5}   {row['microseconds_of_cpu_per_node']:>7.2f}  "
            f"{row['peak_memory'] / 1e6:>8.1f}"
        )
    source = "measured beside" if result["gramine_measured_here"] else "recorded elsewhere"
    speeds = ", ".join(f"{name} {speed / 1e6:.0f} MB/s" for name, speed in result["gramine"].items())
    print(f"  x: to Gramine's tool ({source}: {speeds})")
    reads = result["random_4096_byte_reads"]
    print(
        f"  random 4 KiB reads: open and first {reads['open_and_first_ms']:.2f} ms, then median "
        f"{reads['median_ms']:.3f} ms, slowest {reads['slowest_ms']:.3f} ms"
    )
    by_name = {row["name"]: row["microseconds_of_cpu_per_node"] for row in result["rows"]}
    names = list(by_name)
    for ours, floor in ((names[1], names[6]), (names[4], names[7])):
        rest = by_name[ours] - by_name[floor] - by_name[names[8]]
        print(
            f"  {ours}: {by_name[ours]:.2f} us of CPU for a node of 4 KiB = {by_name[floor]:.2f} in the library's "
            f"calls + {by_name[names[8]]:.2f} reading and writing + {rest:.2f} all else"
        )


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks sealing", description=__doc__)
    parser.add_argument("--mib", type=int, nargs="+", default=[256, 4096], help="sizes in MiB (default: 256 4096)")
    parser.add_argument("--rounds", type=int, default=3, help="counted runs of each operation (default: 3)")
    parser.add_argument("--directory", type=Path, default=Path("/dev/shm"), help="where the files go")  # noqa: S108
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    results = []
    load = os.getloadavg()[0]
    speed = openssl_speed()
    for mib in options.mib:
        free = shutil.disk_usage(options.directory).free
        if free < 3.2 * (mib << 20):
            print(f"skipping {mib} MiB: {options.directory} has only {free >> 20} MiB free", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory(dir=options.directory, prefix="sealserve-benchmark-") as name:
            results.append(measure(mib << 20, options.rounds, Path(name)))
    linear = None
    if len(results) > 1:
        per_byte = [1 / result["rows"][0]["wall_bytes_per_second"] for result in results]
        linear = per_byte[-1] / per_byte[0]
    report = {
        "benchmark": "sealing",
        "processors": len(os.sched_getaffinity(0)),
        "load_before": load,
        "openssl_speed_aes_128_gcm": speed,
        "time_per_byte_largest_to_smallest": linear,
        "results": results,
    }
    if options.json:
        print(json.dumps(report))
        return 0
    print(f"{report['processors']} processors, load before the start {load:.1f}, best of {options.rounds} runs")
    if speed:
        print(f"openssl speed, AES-128-GCM, 4 KiB, one key, one processor: {speed / 1e9:.2f} GB/s")
    for result in results:
        show(result)
    if linear:
        print(f"\ntime for a byte, largest to smallest file: {linear:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
