"""What checking costs the data owner: our clients beside a bare grpcio stub, on the same server.

The server runs in a process of its own and answers at once, so that what is left is transport. All sides are asked in
turns, in one run, so that a busy machine troubles all alike: read the differences, not the milliseconds. The bare stub
is given the server's certificate and checks nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import multiprocessing
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from sealserve.addresses import Address
from sealserve.client import DEFAULT_SERVER_NAME, Client
from sealserve.client.aio import AsyncClient
from sealserve.client.bench import Plan, measure, measure_verification
from sealserve.client.endpoint import Endpoint
from sealserve.client.with_grpcio import verified_channel
from sealserve.client.with_grpcio.proxy import Proxy
from sealserve.enclave.receipts import ReceiptKey
from sealserve.evidence import AppraisalPolicy, SimulatedAttester, SimulatedEnclave, create_simulated_platform
from sealserve.logs import configure
from sealserve.ratls import client_report_data, create_identity
from sealserve.serving.in_use import LoadedVersion
from sealserve.serving.receipts import wish_of
from sealserve.wire import attestation_pb2
from sealserve.wire.tensorflow_serving_pb2 import PredictRequest, PredictResponse
from sealserve.wire.tensors import from_numpy, to_numpy

PREDICT = "/tensorflow.serving.PredictionService/Predict"
ENCLAVE = SimulatedEnclave(mrenclave=bytes(range(32)), mrsigner=bytes(32))
SIZES = {"16 bytes": (1, 16), "150 kB": (1, 224, 224, 3), "9.6 MB": (64, 224, 224, 3)}
BARE = "bare stub"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(prog="benchmarks client", description=__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="turns of each side (60)")
    parser.add_argument("--calls", type=int, default=5, help="calls a turn (5)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    configure(json_lines=False, level=logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        results = run(Path(name), options.rounds, options.calls)
    if options.json:
        print(json.dumps({"benchmark": "client"} | results))
        return
    print(f"{'a call, median ms (added to the bare stub)':<44}" + "".join(f"{size:>22}" for size in SIZES))
    for side in results["calls"]["150 kB"]:
        cells = [results["calls"][size][side] for size in SIZES]
        shown = [f"{c:.2f} ({c - results['calls'][s][BARE]:+.2f})" for c, s in zip(cells, SIZES, strict=True)]
        print(f"{side:<44}" + "".join(f"{cell:>22}" for cell in shown))
    print("verification of a replica:", ", ".join(f"{k} {v}" for k, v in results["verification"].items()))
    print("one process of `bench` at most:", ", ".join(f"{k} {v}" for k, v in results["limit"].items()))


def run(directory: Path, rounds: int, calls: int) -> dict[str, Any]:
    """All figures of this module."""
    create_simulated_platform(directory / "platform")
    file = directory / "policy.yaml"
    file.write_text(
        f"tee: simulated\ntrust_root: {directory}/platform/root.pem\ncollateral: {directory}/platform/collateral.json\n"
        f"enclaves:\n  - mrenclave: {ENCLAVE.mrenclave.hex()}\ninsecure_accept_simulated_platform: true\n"
    )
    policy = AppraisalPolicy.load(file)
    with ExitStack() as stack:
        target, certificate = stack.enter_context(in_a_process(serve, str(directory)))
        sides = stack.enter_context(make_sides(target, certificate, policy, file))
        results: dict[str, Any] = {"calls": {}}
        for size, shape in SIZES.items():
            array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
            turns = max(rounds // 6, 3) if array.nbytes > 1 << 20 else rounds
            results["calls"][size] = take_turns(sides, array, turns, calls)
        endpoint = Endpoint.attested(target, None, None)
        results["verification"] = measure_verification(endpoint, policy, times=20).as_dict()
        results["limit"] = asyncio.run(limit(target, policy))
        return results


def take_turns(sides: dict[str, Callable[[Any], Any]], array: Any, rounds: int, calls: int) -> dict[str, float]:
    """Medians in milliseconds."""
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, call in sides.items():
            call(array)
            for _ in range(calls):
                start = time.perf_counter()
                call(array)
                times[side].append((time.perf_counter() - start) * 1000)
    return {side: round(statistics.median(taken), 3) for side, taken in times.items()}


async def limit(target: str, policy: AppraisalPolicy) -> dict[str, Any]:
    """The highest rate that one process of the load generator reaches with a tiny input, eight at a time."""
    async with AsyncClient(target, policy) as client:
        inputs = {"x": np.zeros((1, 16), np.uint8)}
        await measure(client, inputs, Plan(8, count=100), model="classifier", batch=1)
        outcome = await measure(client, inputs, Plan(8, seconds=2.0), model="classifier", batch=1)
    found = outcome.as_dict()
    return {name: found[name] for name in ("requests_per_second", "client_cpu_ms_per_request")}


@contextmanager
def make_sides(
    target: str, certificate: bytes, policy: AppraisalPolicy, policy_file: Path
) -> Iterator[dict[str, Callable[[Any], Any]]]:
    """The ways of asking, by name."""
    options = [("grpc.ssl_target_name_override", DEFAULT_SERVER_NAME), *LARGE]
    credentials = grpc.ssl_channel_credentials(certificate)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> AsyncClient:
        return AsyncClient(target, policy)

    def run_in_loop(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(60)

    own = run_in_loop(start())
    with (
        in_a_process(serve_proxy, target, str(policy_file)) as address,
        grpc.secure_channel(target, credentials, options) as bare,
        grpc.insecure_channel(address, LARGE) as local,
        verified_channel(target, policy) as verified,
        Client(target, policy) as client,
    ):
        yield {
            BARE: by_stub(bare),
            "Client": lambda array: client.predict({"x": array}, model="classifier").outputs["y"],
            "Client, with a receipt": lambda array: client.predict(
                {"x": array}, model="classifier", receipt=True
            ).outputs["y"],
            "verified channel under a stub": by_stub(verified),
            "AsyncClient, asked from another thread": lambda array: run_in_loop(
                own.predict({"x": array}, model="classifier")
            ),
            "`sealserve proxy` under a stub": by_stub(local),
        }
    run_in_loop(own.close())
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


LARGE = [("grpc.max_send_message_length", 64 << 20), ("grpc.max_receive_message_length", 64 << 20)]


def by_stub(channel: grpc.Channel) -> Callable[[Any], Any]:
    """An answer as a stub's user gets it: message built, sent, answered, read."""
    stub = channel.unary_unary(PREDICT)

    def call(array: Any) -> Any:
        request = PredictRequest()
        request.model_spec.name = "classifier"
        request.inputs["x"].CopyFrom(from_numpy(array))
        return to_numpy(PredictResponse.FromString(stub(request.SerializeToString(), timeout=30)).outputs["y"])

    return call


@contextmanager
def in_a_process(target: Callable[..., None], *arguments: str) -> Iterator[Any]:
    """Runs ``target(connection, *arguments)`` in a process of its own; gives what it sends first."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.close()
        process.join(10)
        process.terminate()


def serve_proxy(connection: Connection, target: str, policy: str) -> None:
    """The proxy's process: runs until the other end of ``connection`` closes."""

    async def run_proxy() -> None:
        async with AsyncClient(target, AppraisalPolicy.load(Path(policy))) as client:
            proxy = Proxy(client)
            address = proxy.listen(Address("127.0.0.1", 0))
            await proxy.start()
            connection.send(str(address))
            await asyncio.to_thread(connection.poll, None)
            await proxy.stop(0)
            proxy.close()

    configure(json_lines=False, level=logging.ERROR)
    asyncio.run(run_proxy())


class Unused:
    """In the place of a model, which this server has not."""

    def close(self) -> None:
        """Nothing to let go of."""


def serve(connection: Connection, directory: str) -> None:
    """The server's process: runs until the other end of ``connection`` closes."""
    attester = SimulatedAttester(Path(directory) / "platform", ENCLAVE)
    identity = create_identity(attester, server_names=[DEFAULT_SERVER_NAME])
    answer = PredictResponse()
    answer.model_spec.name = "classifier"
    answer.outputs["y"].CopyFrom(from_numpy(np.zeros((1, 1000), np.float32)))
    reply = answer.SerializeToString()

    receipts = ReceiptKey(identity.spki_digest)
    claims = attestation_pb2.Claims(receipt_key=receipts.public_key).SerializeToString()
    used = [("classifier", LoadedVersion(0, Unused(), digest=bytes(32)))]

    def predict(request: bytes, context: grpc.ServicerContext) -> bytes:
        if (wish := wish_of(context, receipts, PREDICT)) is not None:
            wish.grant(request, reply, used, context)
        return reply

    def evidence(request: bytes, _: grpc.ServicerContext) -> bytes:
        nonce = attestation_pb2.EvidenceRequest.FromString(request).nonce
        quote = attester.quote(client_report_data(nonce, identity.spki_digest, claims))
        return attestation_pb2.EvidenceResponse(quote=quote, claims=claims).SerializeToString()

    methods = {
        "tensorflow.serving.PredictionService": {"Predict": predict},
        "sealserve.v1.Attestation": {"GetEvidence": evidence},
    }
    server = grpc.server(ThreadPoolExecutor(8), options=LARGE)
    for service, named in methods.items():
        handlers = {name: grpc.unary_unary_rpc_method_handler(method) for name, method in named.items()}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    pair = (bytes(identity.private_key_pem().reveal()), identity.certificate_pem())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    connection.send((f"127.0.0.1:{port}", identity.certificate_pem()))
    connection.poll(None)
    server.stop(0)


if __name__ == "__main__":
    main()
