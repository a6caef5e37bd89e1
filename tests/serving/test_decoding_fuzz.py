"""Whatever comes as a tensor, in protobuf or JSON, becomes an array or an error that its sender is told.

The long run takes 30 seconds, or as many as ``SEALSERVE_FUZZ_SECONDS`` says; half for each of the two.
"""

from __future__ import annotations

import json
import os
import random
import time

import numpy as np
import pytest
from google.protobuf.message import DecodeError

from sealserve.serving.errors import RequestError
from sealserve.serving.rest.predict_request import read_predict
from sealserve.wire.skim import SkimError, skim
from sealserve.wire.tensorflow_pb2 import DataType, TensorProto
from sealserve.wire.tensors import TensorError, from_numpy, to_numpy

SECONDS = float(os.environ.get("SEALSERVE_FUZZ_SECONDS", "30"))
TYPES = [number for number in DataType.values() if number < 30]
SIZES = (0, 1, 2, 3, 255, 1 << 20, (1 << 31) - 1, 1 << 31, 1 << 62, (1 << 63) - 1, -1, -(1 << 63))
ATOMS = (
    *("0", "-0", "1", "-1", "1.5", "1e38", "1e39", "1e400", "-1e-400", "NaN", "Infinity", "-Infinity"),
    *("9223372036854775807", "9223372036854775808", "18446744073709551615", "9" * 400, "01", "1.", "-"),
    *("true", "false", "null", '"a"', '"\\ud800"', '"é"', '{"b64": "YQ=="}', '{"b64": "?"}', '{"b64": 1}', "{}", "[]"),
)


def some_tensor(rng: random.Random) -> bytes:
    dtype = rng.choice([np.float32, np.int64, np.uint8, np.bool_, np.complex64, np.float16, object])
    shape = [rng.randrange(4) for _ in range(rng.randrange(4))]
    array = np.full(shape, b"text") if dtype is object else np.ones(shape, dtype)
    tensor = from_numpy(array, typed_values=rng.random() < 0.5)
    if rng.random() < 0.5:
        tensor.dtype = rng.choice(TYPES)
    for _ in range(rng.choice([0, 0, 1, 2, 70])):
        tensor.tensor_shape.dim.add(size=rng.choice(SIZES))
    data = bytearray(tensor.SerializeToString())
    for _ in range(rng.choice([0, 0, 1, 3, 10])):
        if data:
            match rng.randrange(3):
                case 0:
                    data[rng.randrange(len(data))] = rng.randrange(256)
                case 1:
                    del data[rng.randrange(len(data)) :]
                case _:
                    data[rng.randrange(len(data)) : 0] = rng.randbytes(rng.randrange(8))
    return bytes(data)


def some_value(rng: random.Random, depth: int) -> str:
    if depth == 0 or rng.random() < 0.2:
        return rng.choice(ATOMS)
    if rng.random() < 0.15:
        return "{" + ", ".join(f'"{rng.choice("xyz")}": {some_value(rng, depth - 1)}' for _ in range(2)) + "}"
    one = some_value(rng, depth - 1)
    count = rng.choice([1, 2, 3, 300])  # the last are long enough to be read as arrays
    items = [one] * (count if len(one) * count <= 200_000 else 1)  # a body is cut to half of that
    if rng.random() < 0.3:
        items[rng.randrange(len(items))] = some_value(rng, depth - 1)
    return "[" + ", ".join(items) + "]"


def some_body(rng: random.Random) -> bytes:
    if rng.random() < 0.02:
        nested = rng.choice([31, 33, 63, 64, 65, 200, 5000])
        value = "[" * nested + rng.choice(["1", *ATOMS]) + "]" * nested
    else:
        value = some_value(rng, rng.randrange(4))
    body = bytearray(f'{{"{rng.choice(["instances", "inputs"])}": {value[:100_000]}}}'.encode())
    for _ in range(rng.choice([0, 0, 0, 1, 3])):
        body[rng.randrange(len(body))] = rng.choice(b'[]{},:"\\0e-.\xff ')
    return bytes(body)


def look_at_protobuf(rng: random.Random) -> None:
    data = some_tensor(rng)
    try:
        skim(data, TensorProto, max_bytes=1 << 20)
        tensor = TensorProto.FromString(data)
        array = to_numpy(tensor, max_bytes=1 << 20)
    except (SkimError, DecodeError, TensorError):
        return
    assert list(array.shape) == [dim.size for dim in tensor.tensor_shape.dim]
    held = array.base.nbytes if isinstance(array.base, np.ndarray) else 0
    assert held <= max(len(data) * 8, 1 << 20)


def look_at_json(rng: random.Random) -> None:
    body = some_body(rng)
    types = dict.fromkeys(rng.choice(["x", "xy"]), rng.choice(TYPES))
    try:
        read = read_predict(body, lambda _: types)
    except RequestError as error:
        said = error.message
    except Exception as error:
        raise AssertionError(f"{types}: {body[:300]!r}, {len(body)} bytes") from error
    else:
        assert set(read.inputs) <= set(types)
        return
    assert len(said) < 4096, said[:200]
    json.dumps(said)


@pytest.mark.parametrize("look", [look_at_protobuf, look_at_json])
def test_what_is_made_up_is_an_array_or_an_error(look):
    rng = random.Random(7)
    for _ in range(2000):
        look(rng)


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize("look", [look_at_protobuf, look_at_json])
def test_what_is_made_up_for_a_long_time_is_an_array_or_an_error(look):
    seed = random.randrange(1 << 32)
    rng, until, rounds = random.Random(seed), time.monotonic() + SECONDS / 2, 0
    try:
        while time.monotonic() < until:
            look(rng)
            rounds += 1
    finally:
        print(f"{look.__name__}: seed {seed}, {rounds} rounds")  # noqa: T201 - with pytest -s
