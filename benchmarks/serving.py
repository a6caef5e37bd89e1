"""Serving, in one run: this project's server, the engines without a server, and servers from PyPI.

Every side runs in a process of its own on loopback, with the same model and cores. They are asked in turns, so that a
busy machine troubles all alike: read ratios and differences, not milliseconds. ``docs/serving-performance.md`` tells
what the figures mean. Models and peers' environments are kept in ``~/.cache/sealserve-benchmarks``.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import datetime
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from benchmarks._serving_load import Call, Target, keep_busy, one_by_one
from benchmarks._serving_models import Model, dense, ranking, resnet50, text, tiny
from benchmarks._serving_peers import PEERS, install, running
from benchmarks._serving_place import PREDICT, Place, place
from benchmarks._serving_plot import plot
from sealserve.wire.tensorflow_serving_pb2 import PredictRequest, PredictResponse
from sealserve.wire.tensors import from_numpy, to_numpy

SERVER_NAME = "replica.sealserve.internal"
BATCHING = (
    "max_batch_size { value: 64 } num_batch_threads { value: 1 } batch_timeout_micros { value: 0 } "
    "max_enqueued_batches { value: 100 }"
)
CONCURRENCIES = (1, 2, 4, 8, 16, 32, 64)
CLIENTS = ("sealserve", "sealserve, grpcio's client")
SIZES = tuple(1 << power for power in range(10, 25, 2))


@dataclass
class Results:
    """All figures. Times are milliseconds, rates are answers per second, memory is megabytes."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def add(self, part: str, model: str, side: str, **figures: float) -> None:
        """A row, printed at once."""
        self.rows.append({"part": part, "model": model, "side": side, **figures})
        said = "  ".join(f"{name} {value:,.2f}" for name, value in figures.items())
        print(f"{part:12} {model:9} {side:28} {said}", flush=True)


class Bench:
    """One run."""

    def __init__(self, options: argparse.Namespace, directory: Path) -> None:
        self.results = Results()
        self._options = options
        self._directory = directory
        key, self._certificate = make_certificate()
        self._tls = {"key": base64.b64encode(key).decode(), "certificate": self._certificate.decode()}

    def latency(self, model: Model) -> None:
        """One call after the other: engines, the bare server, and this project's, in turns."""
        array = self._directory / f"{model.name}.npy"
        np.save(array, model.array)
        engine = {"directory": str(model.directory), "array": str(array), "threads": self._options.threads}
        message = predict_request(model)
        with contextlib.ExitStack() as stack:
            bare = {"OpenVINO in process": stack.enter_context(place("openvino", **engine))}
            try:
                bare["TensorFlow in process"] = stack.enter_context(place("tensorflow", **engine))
            except RuntimeError:
                self.results.missing.append("TensorFlow")
            ours, target = self._start(stack, [model])
            floor = Target(stack.enter_context(place("echo", **self._tls)).said["port"], self._certificate, PREDICT)
            sides: dict[str, Callable[[int], list[float]]] = {name: one.ask for name, one in bare.items()}
            for name, where in (("sealserve", target), ("grpcio echo", floor)):
                light, usual = Call(where, SERVER_NAME), self._stub(stack, where)
                stack.callback(light.close)
                sides[name] = lambda count, call=light: one_by_one(call, message, count)
                sides[f"{name}, grpcio's client"] = lambda count, call=usual: one_by_one(call, message, count)
            answer = to_numpy(
                next(iter(PredictResponse.FromString(Call(target, SERVER_NAME)(message)).outputs.values()))
            )
            for name, one in bare.items():
                if not np.allclose(answer.ravel()[:8], one.said["first"], atol=1e-4):
                    raise SystemExit(f"{model.name}: {name} gives another answer")
            taken = take_turns(sides, self._options.rounds, 20 if model.name == "tiny" else 3)
            base = statistics.median(taken["OpenVINO in process"])
            for name, times in taken.items():
                median = statistics.median(times)
                added = {} if name.endswith("in process") else {"added": (median - base) * 1000}
                rate = len(times) / sum(times)
                self.results.add("latency", model.name, name, median=median * 1000, rate=rate, **added)
            for name, one in {**bare, "sealserve": ours}.items():
                peak, now = one.memory_bytes()
                self.results.add("start", model.name, name, seconds=one.seconds, peak_mb=peak / 1e6, after_mb=now / 1e6)

    def concurrency(self, model: Model) -> None:
        """Answers per second against callers at once, with and without batches, in turns."""
        with contextlib.ExitStack() as stack:
            sides = {
                "sealserve": self._start(stack, [model])[1],
                "sealserve, batching": self._start(stack, [model], BATCHING)[1],
            }
            for callers in CONCURRENCIES:
                self._load("concurrency", model, sides, predict_request(model), callers)

    def peers(self, model: Model) -> None:
        """Answers per second of servers from PyPI, each beside this project's."""
        for peer in PEERS:
            python = install(peer)
            if python is None:
                self.results.missing.append(f"{peer.name} (cannot be installed)")
                continue
            try:
                with contextlib.ExitStack() as stack:
                    ours = self._start(stack, [model])[1]
                    theirs = stack.enter_context(running(peer, python, model))
                    for callers in (1, 16):
                        self._load("peers", model, {"sealserve": ours}, predict_request(model), callers)
                        self._load("peers", model, {peer.name: theirs}, peer.message(model), callers)
            except RuntimeError as error:
                self.results.missing.append(f"{peer.name} ({error})")

    def sizes(self) -> None:
        """A call against the size of its request: the server, and grpcio's echo of the same bytes."""
        model = tiny()
        with contextlib.ExitStack() as stack:
            _, ours = self._start(stack, [model])
            echo = Target(stack.enter_context(place("echo", **self._tls)).said["port"], self._certificate, PREDICT)
            calls = {"sealserve": Call(ours, SERVER_NAME), "grpcio echo": Call(echo, SERVER_NAME)}
            for size in SIZES:
                message = predict_request(Model(model.name, model.directory, "x", np.ones(size // 4, np.float32)))
                sides = {
                    name: (lambda count, call=call, message=message: one_by_one(call, message, count))
                    for name, call in calls.items()
                }
                for name, times in take_turns(sides, max(3, self._options.rounds // 4), 3).items():
                    self.results.add("size", model.name, name, bytes=size, median=statistics.median(times) * 1000)
            for call in calls.values():
                call.close()

    def _load(self, part: str, model: Model, sides: dict[str, Target], message: bytes, callers: int) -> None:
        loads: dict[str, list[float]] = {side: [] for side in sides}
        rates: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(self._options.load_rounds):
            for side, target in sides.items():
                load = keep_busy(target, SERVER_NAME, message, callers, self._options.seconds)
                loads[side] += load.seconds
                rates[side].append(load.rate)
        for side, times in loads.items():
            rate, median = statistics.median(rates[side]), statistics.median(times) * 1000
            p99 = sorted(times)[len(times) * 99 // 100] * 1000
            self.results.add(part, model.name, side, callers=callers, rate=rate, median=median, p99=p99)

    def _start(
        self, stack: contextlib.ExitStack, models: Sequence[Model], batching: str | None = None
    ) -> tuple[Place, Target]:
        where = {model.name: str(model.directory) for model in models}
        task = {"models": where, "threads": self._options.threads, "batching": batching, **self._tls}
        started = stack.enter_context(place("serve", **task))
        return started, Target(started.said["port"], self._certificate, PREDICT)

    def _stub(self, stack: contextlib.ExitStack, target: Target) -> Callable[[bytes], bytes]:
        options = [("grpc.ssl_target_name_override", SERVER_NAME), ("grpc.max_receive_message_length", -1)]
        credentials = grpc.ssl_channel_credentials(self._certificate)
        channel = stack.enter_context(grpc.secure_channel(f"127.0.0.1:{target.port}", credentials, options))
        stub: Callable[[bytes], bytes] = channel.unary_unary(target.path)
        return stub


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure; print rows as they come, and a JSON file and plots if asked."""
    parser = argparse.ArgumentParser(prog="benchmarks serving", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="turns of each side, one call after the other (20)")
    parser.add_argument("--load-rounds", type=int, default=1, help="turns of each side under load (1)")
    parser.add_argument("--seconds", type=float, default=1.5, help="of a turn under load (1.5)")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads of each engine (all)")
    parser.add_argument("--only", choices=["latency", "concurrency", "peers", "size"], help="one part alone")
    parser.add_argument("--output", type=Path, help="directory for serving.json and the plots")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(options, Path(name))
        if options.only in {None, "latency"}:
            bench.latency(tiny())
            if (resnet := resnet50()) is not None:
                bench.latency(resnet)
        if options.only in {None, "concurrency"}:
            for model in (tiny(), dense(), ranking(), text()):
                if model is not None:
                    bench.concurrency(model)
        if options.only in {None, "peers"}:
            bench.peers(tiny())
        if options.only in {None, "size"}:
            bench.sizes()
    for line in bench.results.missing:
        print(f"missing: {line}")
    for verdict in verdicts(bench.results.rows):
        print(verdict)
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        document = {"benchmark": "serving", **asdict(bench.results)}
        (options.output / "serving.json").write_text(json.dumps(document, indent=1))
        plot(bench.results.rows, options.output)


def verdicts(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The targets, as far as they were measured. Of the two clients, the quicker one shows what the server takes."""

    def find(part: str, model: str, side: str, name: str) -> float | None:
        values = [row[name] for row in rows if (row["part"], row["model"], row["side"]) == (part, model, side)]
        return max(values) if values else None

    found = []

    def say(what: str, ours: float | None, other: float | None, target: str) -> None:
        if ours is not None and other:
            found.append(f"{what}: {ours / other:.2f} times (target {target})")

    for model, target in (("tiny", "0.4"), ("resnet50", "1.5")):
        both = [find("latency", model, side, "added") for side in CLIENTS]
        if added := [one for one in both if one is not None]:
            found.append(f"added median latency, {model}: {min(added):.2f} ms (target at most {target})")
    ours = max((find("latency", "resnet50", side, "rate") or 0 for side in CLIENTS), default=0) or None
    say("ResNet-50 throughput to OpenVINO's", ours, find("latency", "resnet50", "OpenVINO in process", "rate"), "0.95")
    tensorflow = "TensorFlow in process"
    say("ResNet-50 throughput to TensorFlow's", ours, find("latency", "resnet50", tensorflow, "rate"), "1.4")
    for name, what in (("seconds", "start"), ("peak_mb", "memory")):
        other = find("start", "resnet50", tensorflow, name)
        say(f"ResNet-50 {what} to TensorFlow's", find("start", "resnet50", "sealserve", name), other, "at most 0.5")
    best = max((find("peers", "tiny", peer.name, "rate") or 0 for peer in PEERS), default=0)
    say("tiny model, rate to the best peer's", find("peers", "tiny", "sealserve", "rate"), best, "1.5")
    for model in ("tiny", "dense", "ranking", "text"):
        batched, plain = "sealserve, batching", "sealserve"
        best = find("concurrency", model, batched, "rate"), find("concurrency", model, plain, "rate")
        say(f"batching on to off, {model}, best rate to best rate", *best, "none")
        most = [row for row in rows if row.get("callers") == CONCURRENCIES[-1]]
        rates = [
            next((r["rate"] for r in most if (r["model"], r["side"]) == (model, s)), None) for s in (batched, plain)
        ]
        say(f"batching on to off, {model}, {CONCURRENCIES[-1]} callers", *rates, "3")
    return found


def take_turns(sides: dict[str, Callable[[int], list[float]]], rounds: int, calls: int) -> dict[str, list[float]]:
    """Seconds of each call of each side."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            side(1)
            taken[name] += side(calls)
    return taken


def predict_request(model: Model) -> bytes:
    """The message for the method ``Predict``."""
    request = PredictRequest()
    request.model_spec.name = model.name
    request.inputs[model.input].CopyFrom(from_numpy(model.array))
    return request.SerializeToString()


def make_certificate() -> tuple[bytes, bytes]:
    """A key of the kind that replicas have (EC P-256), and its certificate, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "benchmark")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem, certificate.public_bytes(Encoding.PEM)


if __name__ == "__main__":
    main()
