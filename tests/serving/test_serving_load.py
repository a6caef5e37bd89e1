"""``sealserve serve`` under load, with versions, labels and configurations changing underneath.

It runs for 120 seconds, half of it with batching, or for as many as ``SEALSERVE_LOAD_SECONDS`` says. The process's
memory goes up and down by some 100 MB meanwhile, as twelve callers and the allocators of two engines have it; so it is
compared by medians there, and leaks that are small against that are looked for where nothing else happens.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import statistics
import threading
import time
from collections import Counter

import grpc
import numpy as np
import pytest
from process_parties import (
    PREDICT,
    descriptors,
    grpc_channel,
    request_of,
    resident_bytes,
    rest_call,
    rest_connection,
    threads,
)

pytest.importorskip("tensorflow_serving.apis")
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from sealserve.serving.engines import create_engine
from sealserve.serving.model_files import directory_files

SECONDS = float(os.environ.get("SEALSERVE_LOAD_SECONDS", "120")) / 2
SIZES = (1, 3, 64, 1000, 16_384, 262_144)  # elements of 4 bytes
OFTEN = (30, 20, 20, 10, 4, 1)
# Bytes between the medians of the middle third and the last. In 450 s they were 7 MB apart, in single minutes up to 40.
MORE_MEMORY = 80 << 20
STABLE = 1000  # the version of every model that is never removed


def offset_of(version: int) -> float:
    """What tells versions apart: the answer to 0."""
    return float(version)


class Tally:
    """What callers were told."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.wrong: list[object] = []
        self.answers: Counter[tuple[str, str]] = Counter()
        self.versions: set[tuple[str, int]] = set()
        self.gone = 0

    def check(self, door: str, model: str, version: int, x, y) -> None:
        self.answers[door, model] += 1
        self.versions.add((model, version))
        if y.shape != x.shape or not np.array_equal(y, x * np.float32(0.5) + np.float32(offset_of(version))):
            self.wrong.append((door, model, version, x[:3], y[:3]))


def numbers(rng: random.Random, size: int) -> np.ndarray:
    """Exact in float32, halved and with any version added."""
    return (np.arange(size, dtype=np.float32) % 512) * 2 + rng.randrange(512)


def over_grpc(served, authority, models, seed, tally):
    rng = random.Random(seed)
    with grpc_channel(served, authority) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        while not tally.stop.is_set():
            model, x = rng.choice(models), numbers(rng, rng.choices(SIZES, OFTEN)[0])
            request = predict_pb2.PredictRequest()
            request.model_spec.name = model
            choice = rng.randrange(8)
            if choice == 0:
                request.model_spec.version.value = STABLE
            elif choice == 1:
                request.model_spec.version_label = "moving"
            elif choice == 2:
                request.model_spec.name = "absent"
            request.inputs["x"].CopyFrom(tf.make_tensor_proto(x))
            try:
                answer = stub.Predict(request, timeout=60)
            except grpc.RpcError as error:
                if choice == 2 and error.code() is grpc.StatusCode.NOT_FOUND:
                    tally.gone += 1
                else:
                    tally.wrong.append(("grpc", model, choice, error.code(), error.details()))
                continue
            version = answer.model_spec.version.value
            if choice == 2 or (choice == 0 and version != STABLE):
                tally.wrong.append(("grpc", model, choice, version))
            tally.check("grpc", model, version, x, tf.make_ndarray(answer.outputs["y"]))


def over_rest(served, authority, models, seed, tally):
    rng = random.Random(seed)
    with rest_connection(served, authority) as connection:
        while not tally.stop.is_set():
            model, x = rng.choice(models), numbers(rng, rng.choices(SIZES, OFTEN)[0])
            choice = rng.randrange(6)
            where = {0: f"/versions/{STABLE}", 1: "/labels/moving", 2: "absent"}.get(choice, "")
            try:
                status, answer = rest_call(
                    connection, f"/v1/models/{model}{where}:predict", {"instances": [0.0, *x.tolist()]}
                )
            except OSError as error:
                tally.wrong.append(("rest", model, choice, error))
                connection.close()
                continue
            if choice == 2:
                tally.gone += 1
                if status != 404:
                    tally.wrong.append(("rest", status, answer))
                continue
            if status != 200:
                tally.wrong.append(("rest", model, choice, status, answer))
                continue
            y = np.array(answer["predictions"], np.float32)
            # REST does not say which version answered: the answer to 0 does.
            version = int(y[0])
            if choice == 0 and version != STABLE:
                tally.wrong.append(("rest", model, choice, version))
            tally.check("rest", model, version, x, y[1:])


def wait_until_loaded(served, models, version):
    """A label may stand for what answers only."""
    until, wanted = time.monotonic() + 60, {(model, version) for model in models}
    while wanted - {
        (entry["model"], entry["version"]) for entry in served.events() if entry.get("event") == "model-version-loaded"
    }:
        assert time.monotonic() < until, served.log.read_text()[-3000:]
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 240)
@pytest.mark.parametrize("batched", [False, True])
def test_no_answer_is_wrong_and_nothing_is_lost_while_everything_changes(  # noqa: PLR0917 - fixtures
    start, tmp_path, add_version, write_models, write_ssl_config, authority, batched
):
    bases = {name: tmp_path / name for name in ("first", "second", "flow")}
    for base in bases.values():
        add_version(base, STABLE, offset_of(STABLE))
        add_version(base, STABLE + 1, offset_of(STABLE + 1))
    every = "model_version_policy { all {} }"

    def configure(label, *more):
        labelled = f'{every} version_labels {{ key: "moving" value: {label} }}'
        models = {name: (base, labelled) for name, base in bases.items()}
        return write_models(**models, **dict(more))

    batching = tmp_path / "batching.cfg"
    batching.write_text("max_batch_size { value: 300000 } batch_timeout_micros { value: 1000 }")
    served = start(
        f"--model_config_file={configure(STABLE)}",
        f"--ssl_config_file={write_ssl_config()}",
        "--host=127.0.0.1",
        "--model_engine=flow=tensorflow",
        "--allow_version_labels_for_unavailable_models",  # none is there when it starts
        *(("--enable_batching", f"--batching_parameters_file={batching}") if batched else ()),
    )
    pid, tally = served.process.pid, Tally()
    callers = [
        threading.Thread(
            target=call, args=(served, authority, list(bases), seed, tally), name=f"{call.__name__}-{seed}"
        )
        for call, seed in itertools.product((over_grpc, over_rest), range(6))
    ]
    for caller in callers:
        caller.start()
    began, marks, versions, reloads = time.monotonic(), [], itertools.count(STABLE + 2), 0
    try:
        while (passed := time.monotonic() - began) < SECONDS:
            version = next(versions)
            for base in bases.values():
                add_version(base, version, offset_of(version))
            wait_until_loaded(served, bases, version)
            # The label moves between what stays and the newest, which goes only after it has moved back.
            more = [("extra", (bases["first"], "model_version_policy { specific { versions: 1000 } }"))]
            reloads += 1
            configure(STABLE if reloads % 2 else version, *(more if reloads % 2 else ()))
            served.signal(signal.SIGHUP)
            served.wait_for("configuration-reloaded", times=reloads)
            if reloads % 2:  # the label is at STABLE
                for base in bases.values():
                    for old in range(max(STABLE + 1, version - 2), version):
                        shutil.rmtree(base / str(old), ignore_errors=True)
            if passed > SECONDS / 3:
                marks.append((resident_bytes(pid), descriptors(pid), threads(pid)))
            assert not tally.wrong, tally.wrong[:5]
    finally:
        tally.stop.set()
        for caller in callers:
            caller.join()
    print(dict(tally.answers), "refused as asked:", tally.gone, "versions:", len(tally.versions), "reloads:", reloads)  # noqa: T201 - with pytest -s
    print("resident, descriptors, threads:", *marks[:: max(1, len(marks) // 10)])  # noqa: T201 - with pytest -s
    assert not tally.wrong, tally.wrong[:5]
    assert {model for _, model in tally.answers} == set(bases)
    assert len(tally.versions) > 2 * len(bases), "versions were not swapped under the callers"
    middle, last = (
        statistics.median(resident for resident, *_ in part)
        for part in (marks[: len(marks) // 2], marks[len(marks) // 2 :])
    )
    assert last - middle < MORE_MEMORY
    assert marks[-1][1] - marks[0][1] < 32
    assert marks[-1][2] - marks[0][2] < 32
    assert served.stop() == 0
    assert "Traceback" not in served.log.read_text()


@pytest.mark.parametrize("name", ["openvino", "tensorflow"])
def test_versions_that_come_and_go_leave_no_memory(half_plus_two, name):
    engine = create_engine(name)
    x, resident = np.zeros(16, np.float32), []
    for number in range(101):
        with directory_files(half_plus_two) as files:
            loaded = engine.load(files)
        loaded.predict("serving_default", {"x": x})
        loaded.close()
        del loaded
        if number in {20, 60, 100}:
            resident.append(resident_bytes(os.getpid()))
    # Whatever the first loads leave for later ones: a leak would be there in both halves. It was 40 KB or less.
    assert min(resident[1] - resident[0], resident[2] - resident[1]) < 1 << 20


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("door", ["grpc", "rest"])
@pytest.mark.parametrize("batched", [False, True])
def test_requests_leave_no_memory(start, tmp_path, add_version, write_ssl_config, authority, door, batched):  # noqa: PLR0917 - fixtures
    add_version(tmp_path / "half", 1, 2)
    served = start(
        f"--model_base_path={tmp_path / 'half'}",
        "--model_name=half",
        f"--ssl_config_file={write_ssl_config()}",
        "--host=127.0.0.1",
        *(["--enable_batching"] if batched else []),
    )
    x, resident = np.arange(1000, dtype=np.float32), []
    body = {"instances": x.tolist()}
    with grpc_channel(served, authority) as channel, rest_connection(served, authority) as connection:
        predict = channel.unary_unary(PREDICT)

        def ask():
            if door == "grpc":
                predict(request_of("half", x))
            else:
                assert rest_call(connection, "/v1/models/half:predict", body)[0] == 200

        for number in range(4501):
            ask()
            if number in {1500, 3000, 4500}:
                resident.append(resident_bytes(served.process.pid))
    print(door, batched, resident)  # noqa: T201 - with pytest -s
    assert min(resident[1] - resident[0], resident[2] - resident[1]) < 2 << 20
