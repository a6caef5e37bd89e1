"""A client over REST and a real replica process: evidence, then inputs, on one connection."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from replica_parties import Place, answer

from sealserve.client import Client, RequestRefusedError, attest
from sealserve.client.aio import AsyncClient
from sealserve.client.report import examine
from sealserve.client.rest.tensors import infer_request
from sealserve.errors import InputError
from sealserve.evidence import AppraisalPolicy

EVIDENCE = "/v1/attestation:evidence"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, AppraisalPolicy]]:
    """The target of REST, that of gRPC, and a policy."""
    place = Place(tmp_path_factory.mktemp("rest") / "place")
    with place.broker(), place.replica("--rest-listen", "127.0.0.1:0") as process:
        ready = process.until("replica-ready")
        yield f"https://127.0.0.1:{ready['rest_port']}", f"127.0.0.1:{ready['port']}", place.client_policy()
        assert process.stop() == 0


def test_rest_and_grpc_end_in_the_same_attested_key(running: tuple[str, str, AppraisalPolicy]) -> None:
    rest, grpc, policy = running
    first, second = attest(rest, policy), attest(grpc, policy)
    assert first.spki_digest == second.spki_digest
    assert first.claims == second.claims
    assert first.nonce != second.nonce
    assert examine(rest, policy).accepted


def test_inputs_and_outputs_are_those_of_the_model(running: tuple[str, str, AppraisalPolicy]) -> None:
    rest, _, policy = running
    with Client(rest, policy) as client:
        assert answer(client) == 2.0
        x = np.array([np.nan, np.inf, -np.inf, 1.5], np.float32)
        found = client.predict({"x": x}, model="m", version=1)
        np.testing.assert_array_equal(found.outputs["y"], 2 * x)
        assert found.model_version == 1
        large = np.arange(1 << 20, dtype=np.float32)
        np.testing.assert_array_equal(client.predict({"x": large}, model="m").outputs["y"], 2 * large)
        signature = client.metadata("m").signature("serving_default")
        assert str(signature.inputs["x"]) == "x: float ?"
        with pytest.raises(RequestRefusedError):
            client.predict({"x": x}, model="other")
        with pytest.raises(RequestRefusedError):
            client.predict({"x": x}, model="m", signature="other")


def test_inputs_under_gzip_are_the_same_and_are_not_sent_so_over_grpc(
    running: tuple[str, str, AppraisalPolicy],
) -> None:
    rest, grpc, policy = running
    sparse = np.zeros(1 << 20, np.float32)
    sparse[::1000] = np.arange(len(sparse[::1000]))
    request = infer_request({"x": sparse}, model="m", signature="", version=None, outputs=(), max_reply=1)
    assert sum(map(len, request.compressed().body)) < sparse.nbytes // 20
    with Client(rest, policy) as client:
        np.testing.assert_array_equal(client.predict({"x": sparse}, model="m", compress=True).outputs["y"], 2 * sparse)

    async def ask() -> np.ndarray:
        async with AsyncClient(rest, policy) as asking:
            return (await asking.predict({"x": sparse}, model="m", compress=True)).outputs["y"]

    np.testing.assert_array_equal(asyncio.run(ask()), 2 * sparse)
    with Client(grpc, policy) as client, pytest.raises(InputError, match="not compressed"):
        client.predict({"x": sparse}, model="m", compress=True)


def test_plain_requests_are_answered_with_the_version_that_answered(
    running: tuple[str, str, AppraisalPolicy],
) -> None:
    rest, _, policy = running
    with Client(rest, policy) as client:
        reply = client.request("POST", "/v1/models/m:predict", b'{"instances": [1, NaN]}')
        assert reply.status == 200
        assert reply.header("sealserve-model-version") == "1"
        assert reply.body.startswith(b'{"predictions":[2.0,NaN')
        assert client.request("GET", "/readyz").body == b"ok\n"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"{}", 400),
        (b"\xff", 400),
        (b'{"nonce": 1}', 400),
        (b'{"nonce": "AAAA"}', 400),
        (b'{"nonce": "!!!"}', 400),
        (b"[" * 8000, 400),
        (json.dumps({"nonce": base64.b64encode(bytes(33)).decode()}).encode(), 400),
        (b'{"nonce": "' + b"A" * 8192 + b'"}', 413),
        (json.dumps({"nonce": base64.b64encode(bytes(32)).decode()}).encode(), 200),
    ],
)
def test_what_is_no_question_is_refused(body: bytes, status: int, running: tuple[str, str, AppraisalPolicy]) -> None:
    rest, _, policy = running
    with Client(rest, policy) as client:
        reply = client.request("POST", EVIDENCE, body)
        assert reply.status == status
        assert set(reply.json()) == ({"quote", "claims"} if status == 200 else {"error"})
        if status == 400:
            assert client.request("GET", EVIDENCE).status == 405


def test_asyncio_does_the_same(running: tuple[str, str, AppraisalPolicy], tmp_path: Path) -> None:
    rest, _, policy = running

    async def ask() -> list[float]:
        async with AsyncClient(rest, policy, max_connections=3) as client:
            x = np.ones(1, np.float32)
            answers = await asyncio.gather(*(client.predict({"x": i * x}, model="m") for i in range(10)))
            return [float(one.outputs["y"][0]) for one in answers]

    assert asyncio.run(ask()) == [2.0 * i for i in range(10)]
