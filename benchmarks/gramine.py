"""What Gramine costs: `sealserve serve` under gramine-direct beside itself without, on sealed models.

The same Python, the same files, in turns, in one run: read the differences, not the milliseconds. Direct mode has
Gramine's own costs (its system calls, files and threads) and none of SGX's (entering and leaving the enclave, encrypted
memory, loading all of it at start).
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import grpc

from benchmarks._gramine_place import Machine, Started, reason_to_skip, run, started
from benchmarks._serving_models import Model, dense, resnet50, tiny
from benchmarks._serving_place import PREDICT
from sealserve.deploy.images.layout import SEALED_DIRECTORY
from sealserve.files import write_atomically
from sealserve.wire.tensorflow_serving_pb2 import PredictRequest
from sealserve.wire.tensors import from_numpy

OUTSIDE, INSIDE = "without Gramine", "gramine-direct"
EVENTS = ("server-listening", "server-ready")
Table = dict[str, dict[str, float]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table, or JSON; say why and measure nothing where there is no Gramine."""
    parser = argparse.ArgumentParser(prog="benchmarks gramine", description=__doc__)
    parser.add_argument("--starts", type=int, default=5, help="starts of each side (5)")
    parser.add_argument("--rounds", type=int, default=30, help="turns of each side (30)")
    parser.add_argument("--calls", type=int, default=10, help="calls a turn (10)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    if reason := reason_to_skip():
        print(f"skipped: {reason}", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as name:
        results = measure(Path(name), options.starts, options.rounds, options.calls)
    if options.json:
        print(json.dumps({"benchmark": "gramine"} | results))
        return
    for title, table in results.items():
        print(f"{title:<32}{OUTSIDE:>18}{INSIDE:>18}{'ratio':>8}")
        for row, cells in table.items():
            outside, inside = cells[OUTSIDE], cells[INSIDE]
            print(f"  {row:<30}{outside:>18.2f}{inside:>18.2f}{inside / outside:>8.2f}")


def measure(directory: Path, starts: int, rounds: int, calls: int) -> dict[str, Table]:
    """All figures, by table, row and side."""
    machine = Machine.prepare(directory)
    models = [tiny(), resnet50() or dense()]
    sealed = _seal(directory / "sealed", models)
    seconds: Table = {"nothing (python -c pass)": _empty(machine, sealed, starts)}
    milliseconds: Table = {}
    megabytes: Table = {}
    for model in models:
        sides = [_Side(machine, name, model.name, sealed) for name in (OUTSIDE, INSIDE)]
        seconds |= {f"{event}, {model.name}": row for event, row in _starts(sides, starts).items()}
        with ExitStack() as stack:
            running = {side.name: stack.enter_context(side.start()) for side in sides}
            callers = {side.name: stack.enter_context(_Caller(side.port, model)) for side in sides}
            milliseconds[f"a request, {model.name}"] = _in_turns(callers, rounds, calls)
            megabytes[f"memory, {model.name}"] = {name: _resident(one) for name, one in running.items()}
    return {"seconds until": seconds, "median milliseconds": milliseconds, "megabytes": megabytes}


def _seal(directory: Path, models: Sequence[Model]) -> Path:
    directory.mkdir()
    key = directory / "key"
    write_atomically(key, os.urandom(16), mode=0o600)
    for model in models:
        source, target = model.directory.parent, directory / model.name
        mount = f"/models/{model.name}"
        run(sys.executable, "-m", "sealserve", "seal", source, target, "--key", key, "--mount", mount)
    return directory


def _empty(machine: Machine, sealed: Path, starts: int) -> dict[str, float]:
    program = ["-P", "-s", "-c", "pass"]
    commands = {OUTSIDE: machine.outside(program), INSIDE: machine.inside("empty", program, sealed)}
    taken: dict[str, list[float]] = {side: [] for side in commands}
    for _ in range(starts):
        for side, (command, environment) in commands.items():
            begin = time.monotonic()
            subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)
            taken[side].append(time.monotonic() - begin)
    return {side: statistics.median(times) for side, times in taken.items()}


class _Side:
    """One way of running the server, on one model."""

    def __init__(self, machine: Machine, name: str, model: str, sealed: Path) -> None:
        self.name, self.port = name, _free_port()
        seen = str(sealed) if name == OUTSIDE else SEALED_DIRECTORY
        flags = [f"--port={self.port}", f"--model_name={model}", f"--model_base_path={seen}/{model}"]
        arguments = ["-P", "-s", "-m", "sealserve", "serve", "--json_logs", *flags, f"--key_file={seen}/key"]
        self._command = (
            machine.outside(arguments) if name == OUTSIDE else machine.inside(f"serve-{model}", arguments, sealed)
        )
        self._log = machine.directory / f"{name}-{model}.log"

    @contextmanager
    def start(self) -> Iterator[Started]:
        with started(*self._command, self._log) as server:
            server.wait_for("server-ready")
            yield server


def _starts(sides: Sequence[_Side], starts: int) -> Table:
    taken: dict[str, dict[str, list[float]]] = {event: {side.name: [] for side in sides} for event in EVENTS}
    for _ in range(starts):
        for side in sides:
            with side.start() as server:
                for event, times in taken.items():
                    times[side.name].append(server.seconds[event])
    return {event: {side: statistics.median(times[side]) for side in times} for event, times in taken.items()}


class _Caller:
    """Asks the same thing again and again, over one connection."""

    def __init__(self, port: int, model: Model) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.max_receive_message_length", -1)])
        self._call = self._channel.unary_unary(PREDICT)
        request = PredictRequest()
        request.model_spec.name = model.name
        request.inputs[model.input].CopyFrom(from_numpy(model.array))
        self._request = request.SerializeToString()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def __call__(self) -> float:
        """Milliseconds of one request."""
        begin = time.perf_counter()
        self._call(self._request, timeout=60, wait_for_ready=True)
        return (time.perf_counter() - begin) * 1000


def _in_turns(callers: dict[str, _Caller], rounds: int, calls: int) -> dict[str, float]:
    taken: dict[str, list[float]] = {side: [] for side in callers}
    for _ in range(rounds):
        for side, call in callers.items():
            call()
            taken[side] += [call() for _ in range(calls)]
    return {side: statistics.median(times) for side, times in taken.items()}


def _resident(server: Started) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024 / 1e6


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
