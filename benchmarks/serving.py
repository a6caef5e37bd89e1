"""What serving adds to the engine: bare OpenVINO in this process beside the same answer through the TLS server.

The server runs in a process of its own, as a replica does, on loopback. Both are asked in turns, in one run, so that a
busy machine troubles both alike: read the ratios and the differences, not the milliseconds.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import openvino
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sealserve.models.efficientnet import write_efficientnet_lite0
from sealserve.models.graph import GraphBuilder, TensorInGraph, type_attribute
from sealserve.models.writing import write_saved_model
from sealserve.secret import Secret
from sealserve.serving.core import ModelServer
from sealserve.serving.grpc_server import create_server
from sealserve.serving.model_files import MemoryFiles, directory_files
from sealserve.serving.openvino_engine import OpenVinoEngine
from sealserve.wire.tensorflow_pb2 import DataType
from sealserve.wire.tensorflow_serving_pb2 import PredictRequest, PredictResponse
from sealserve.wire.tensors import from_numpy, to_numpy

SERVER_NAME = "replica.sealserve.internal"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
PROPERTIES = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}


@dataclass(frozen=True)
class Comparison:
    """Medians in milliseconds: the floor, and what is measured against it."""

    what: str
    floor: str
    floor_ms: float
    ours: str
    ours_ms: float

    @property
    def ratio(self) -> float:
        return self.ours_ms / self.floor_ms

    @property
    def added_ms(self) -> float:
        return self.ours_ms - self.floor_ms


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(prog="benchmarks serving", description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="turns of each side (40)")
    parser.add_argument("--calls", type=int, default=5, help="calls a turn (5)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads for a request, on both sides (1)")
    options = parser.parse_args(arguments)
    comparisons = measure(options.rounds, options.calls, options.threads)
    if options.json:
        results = [{**asdict(one), "ratio": one.ratio, "added_ms": one.added_ms} for one in comparisons]
        print(json.dumps({"benchmark": "serving", "results": results}))
        return
    rows = [("", "floor", "ms", "ours", "ms", "ratio", "added ms")]
    for one in comparisons:
        figures = (f"{one.ours_ms:.2f}", f"{one.ratio:.2f}", f"{one.added_ms:+.2f}")
        rows.append((one.what, one.floor, f"{one.floor_ms:.2f}", one.ours, *figures))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.ljust(w) if i in {0, 1, 3} else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def measure(rounds: int, calls: int, threads: int) -> list[Comparison]:
    """All comparisons of this module."""
    comparisons = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        models: dict[str, tuple[Path, str, np.ndarray[Any, Any]]] = {
            "tiny (4 numbers)": (write_tiny(directory / "tiny"), "x", np.arange(4, dtype=np.float32)),
            "EfficientNet-Lite0 (150 kB image)": (
                write_efficientnet_lite0(directory / "efficientnet") / "1",
                "images",
                np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8),
            ),
        }
        with serving([version for version, _, _ in models.values()], threads) as stub:
            for index, (title, (version, alias, array)) in enumerate(models.items()):
                bare, through = bare_openvino(version, array, threads), through_server(stub, str(index), alias, array)
                if not np.allclose(bare(), through(), atol=1e-5):
                    raise SystemExit(f"{title}: the two sides give different answers")
                floor, ours = take_turns(bare, through, rounds, calls)
                comparisons.append(Comparison(f"answer, {title}", "in process", floor, "TLS server", ours))
        version = models["EfficientNet-Lite0 (150 kB image)"][0]
        floor, ours = take_turns(
            lambda: compile_model(version, threads), lambda: load_from_memory(version, threads), 3, 1
        )
        comparisons.append(Comparison("load, EfficientNet-Lite0", "from disk", floor, "through memory files", ours))
    return comparisons


def take_turns(first: Callable[[], Any], second: Callable[[], Any], rounds: int, calls: int) -> tuple[float, float]:
    """Medians of both, in milliseconds."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for call, taken in zip((first, second), times, strict=True):
            call()
            for _ in range(calls):
                start = time.perf_counter()
                call()
                taken.append((time.perf_counter() - start) * 1000)
    return statistics.median(times[0]), statistics.median(times[1])


def compile_model(version: Path, threads: int) -> Any:
    """The floor of loading."""
    core = openvino.Core()
    return core.compile_model(core.read_model(version), "CPU", {**PROPERTIES, "INFERENCE_NUM_THREADS": threads})


def load_from_memory(version: Path, threads: int) -> Any:
    """Loading as a replica does once the plaintext is there."""
    with MemoryFiles() as files:
        with files.add("saved_model.pb") as file:
            file.write((version / "saved_model.pb").read_bytes())
        return OpenVinoEngine(threads=threads).load(files)


def bare_openvino(version: Path, array: np.ndarray[Any, Any], threads: int) -> Callable[[], Any]:
    """The floor of an answer."""
    request = compile_model(version, threads).create_infer_request()
    return lambda: np.array(request.infer([array], share_inputs=True, share_outputs=True)[0])


def through_server(
    stub: Callable[[bytes], bytes], name: str, alias: str, array: np.ndarray[Any, Any]
) -> Callable[[], Any]:
    """An answer as a caller gets it: message built, sent, answered, read."""

    def call() -> Any:
        request = PredictRequest()
        request.model_spec.name = name
        request.inputs[alias].CopyFrom(from_numpy(array))
        response = PredictResponse.FromString(stub(request.SerializeToString()))
        return to_numpy(next(iter(response.outputs.values())))

    return call


@contextmanager
def serving(versions: Sequence[Path], threads: int) -> Iterator[Callable[[bytes], bytes]]:
    """A server in a process of its own, with the models named by their place in the sequence."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, [str(version) for version in versions], threads), daemon=True)
    process.start()
    try:
        port, certificate = ours.recv()
        options = [("grpc.ssl_target_name_override", SERVER_NAME)]
        with grpc.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(certificate), options) as channel:
            yield channel.unary_unary(PREDICT)
    finally:
        ours.close()
        process.join(10)
        process.terminate()


def serve(connection: Connection, versions: Sequence[str], threads: int) -> None:
    """The server's process: runs until the other end of ``connection`` closes."""
    engine, core = OpenVinoEngine(threads=threads), ModelServer()
    for index, version in enumerate(versions):
        with directory_files(Path(version)) as files:
            core.add_model(str(index), 1, engine.load(files))
    key, certificate = make_certificate()
    server, port = create_server(core, address="127.0.0.1:0", private_key_pem=key, certificate_pem=certificate)
    server.start()
    connection.send((port, certificate))
    connection.poll(None)
    server.stop(0)


def make_certificate() -> tuple[Secret, bytes]:
    """A key of the kind that replicas have (EC P-384), and its certificate, as PEM."""
    key = ec.generate_private_key(ec.SECP384R1())
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
    secret = Secret(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return secret, certificate.public_bytes(Encoding.PEM)


def write_tiny(base: Path) -> Path:
    """``y = x / 2 + 2``, whose answer costs next to nothing."""
    graph, number = GraphBuilder(), type_attribute(DataType.DT_FLOAT)
    x = graph.placeholder("x", DataType.DT_FLOAT, [-1])
    half = graph.node("Mul", "half", [x, graph.constant("scale", np.array(0.5, np.float32))], T=number)
    graph.node("Add", "y", [half, graph.constant("offset", np.array(2, np.float32))], T=number)
    tensors = {name: TensorInGraph(f"{name}:0", DataType.DT_FLOAT, (-1,)) for name in "xy"}
    message = graph.saved_model({"x": tensors["x"]}, {"y": tensors["y"]}, signature="serving_default")
    return write_saved_model(base, 1, message)


if __name__ == "__main__":
    main()
