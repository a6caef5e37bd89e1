"""Receipts of the server: for messages as they travel, for the version that answered, only where they are asked for."""

from __future__ import annotations

import threading

import grpc
import numpy as np
import pytest
from example_models import example, examples_input, sorting_model

from sealserve.serving import open_inference
from sealserve.serving.answering import note, watched
from sealserve.serving.core import ModelServer
from sealserve.serving.receipts import NONCE, RECEIPT, Exchange
from sealserve.wire import tensorflow_serving_pb2 as serving_pb2
from sealserve.wire.open_inference_pb2 import ModelInferRequest
from sealserve.wire.tensors import from_numpy

PREDICT = "/tensorflow.serving.PredictionService/Predict"
SERVICE = PREDICT.rpartition("/")[0]
DIGEST = b"d" * 32
NONCE_BYTES = b"n" * 16


class Signer:
    """Keeps what it was asked to sign."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []

    def sign(self, exchange: Exchange) -> bytes:
        self.exchanges.append(exchange)
        return b"receipt %d" % len(self.exchanges)


class Echo:
    """A model that answers with its number, when it may."""

    platform = "test"

    def __init__(self, number: int) -> None:
        self.number = number
        self.signatures, self.signature_definitions = {}, {}
        self.asked, self.may_answer = threading.Event(), threading.Event()
        self.may_answer.set()

    def predict(self, *_, **__):
        self.asked.set()
        assert self.may_answer.wait(10)
        return {"y": np.array(self.number)}

    def close(self) -> None:
        pass


@pytest.fixture
def core() -> ModelServer:
    core = ModelServer()
    core.replace("m", 3, Echo(1), digest=DIGEST)
    return core


@pytest.fixture
def signer() -> Signer:
    return Signer()


@pytest.fixture
def server(serve, core, signer):
    return serve(core, receipts=signer)


def request(number: float = 1.0) -> bytes:
    message = serving_pb2.PredictRequest()
    message.model_spec.name = "m"
    message.inputs["x"].CopyFrom(from_numpy(np.array([number], np.float32)))
    return message.SerializeToString()


def ask(server, data: bytes, *metadata, path: str = PREDICT):
    """The answer as it came, and the receipt."""
    answer, call = server.channel.unary_unary(path).with_call(data, metadata=metadata, timeout=20)
    return answer, dict(call.trailing_metadata()).get(RECEIPT)


def refused(server, data: bytes, *metadata, path: str = PREDICT) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        ask(server, data, *metadata, path=path)
    assert RECEIPT not in dict(caught.value.trailing_metadata())
    return caught.value.code().name, caught.value.details()


def test_the_messages_are_those_on_the_wire(server, signer):
    # An unknown field: whoever parsed this and wrote it again would sign something else.
    data = request() + b"\xfa\x3f\x03abc"
    answer, receipt = ask(server, data, (NONCE, NONCE_BYTES))
    assert receipt == b"receipt 1"
    assert signer.exchanges == [Exchange(PREDICT, data, answer, "m", 3, DIGEST, NONCE_BYTES)]


def test_without_the_metadata_nothing_is_signed(server, signer):
    assert ask(server, request())[1] is None
    assert ask(server, request(), ("sealserve-receipt", "please"))[1] is None
    assert signer.exchanges == []


def test_a_server_without_an_enclave_refuses_and_does_not_answer_silently_without(serve, core):
    plain = serve(core)
    code, text = refused(plain, request(), (NONCE, NONCE_BYTES))
    assert code == "FAILED_PRECONDITION"
    assert "no receipts" in text
    assert not core.models["m"][3].asked.is_set(), "the model ran for an answer that is not given"
    assert ask(plain, request())[0]


@pytest.mark.parametrize("size", [0, 1, 15, 65, 4000])
def test_a_nonce_of_another_size_is_refused(server, signer, size):
    code, text = refused(server, request(), (NONCE, bytes(size)))
    assert code == "INVALID_ARGUMENT"
    assert "16 to 64" in text
    assert signer.exchanges == []


@pytest.mark.parametrize("size", [16, 64])
def test_the_bounds_of_a_nonce_are_accepted(server, signer, size):
    assert ask(server, request(), (NONCE, b"x" * size))[1]
    assert signer.exchanges[0].nonce == b"x" * size


def test_two_nonces_are_refused(server, signer):
    assert refused(server, request(), (NONCE, NONCE_BYTES), (NONCE, b"o" * 16))[0] == "INVALID_ARGUMENT"
    assert signer.exchanges == []


def test_a_model_of_no_known_digest_gives_none(serve, signer):
    core = ModelServer()
    core.add_model("m", 1, Echo(1))
    code, text = refused(serve(core, receipts=signer), request(), (NONCE, NONCE_BYTES))
    assert (code, signer.exchanges) == ("FAILED_PRECONDITION", [])
    assert "no digest" in text


def test_answers_that_no_model_gives_have_no_receipt(server, signer):
    code, _ = refused(server, b"", (NONCE, NONCE_BYTES), path="/grpc.health.v1.Health/Check")
    assert code == "FAILED_PRECONDITION"
    assert signer.exchanges == []


def test_errors_have_no_receipt(server, signer):
    wrong = serving_pb2.PredictRequest()
    wrong.model_spec.name = "another"
    assert refused(server, wrong.SerializeToString(), (NONCE, NONCE_BYTES))[0] == "NOT_FOUND"
    assert refused(server, b"\xff\xff", (NONCE, NONCE_BYTES))[0] == "INVALID_ARGUMENT"
    assert signer.exchanges == []
    # And what failed leaves nothing behind for the next request of the thread.
    for _ in range(20):
        ask(server, request(), (NONCE, NONCE_BYTES))
    assert len(signer.exchanges) == 20


def test_the_digest_is_of_the_model_that_answered_although_another_came_meanwhile(server, core, signer):
    slow = core.models["m"][3]
    slow.may_answer.clear()
    got = []
    asking = threading.Thread(target=lambda: got.append(ask(server, request(), (NONCE, NONCE_BYTES))))
    asking.start()
    assert slow.asked.wait(10)
    core.replace("m", 3, Echo(2), digest=b"e" * 32)  # under the same name and version
    newer, _ = ask(server, request(), (NONCE, NONCE_BYTES))
    slow.may_answer.set()
    asking.join(10)
    digests = {exchange.answer: exchange.digest for exchange in signer.exchanges}
    assert digests == {newer: b"e" * 32, got[0][0]: DIGEST}
    assert newer != got[0][0]


def test_methods_that_take_examples_have_receipts(serve, signer):
    core = ModelServer()
    core.replace("m", 1, sorting_model(), digest=DIGEST)
    server = serve(core, receipts=signer)
    classify, regress = serving_pb2.ClassificationRequest(), serving_pb2.RegressionRequest()
    several = serving_pb2.MultiInferenceRequest()
    for message, signature in ((classify, "classify"), (regress, "regress")):
        message.model_spec.name, message.model_spec.signature_name = "m", signature
    task = several.tasks.add(method_name="tensorflow/serving/classify")
    task.model_spec.name, task.model_spec.signature_name = "m", "classify"
    for name, message in (("Classify", classify), ("Regress", regress), ("MultiInference", several)):
        examples_input(message.input, example(x=2.0))
        data = message.SerializeToString()
        answer, receipt = ask(server, data, (NONCE, NONCE_BYTES), path=f"{SERVICE}/{name}")
        assert receipt
        assert signer.exchanges[-1] == Exchange(f"{SERVICE}/{name}", data, answer, "m", 1, DIGEST, NONCE_BYTES)


def test_other_threads_and_later_requests_are_not_watched():
    with watched() as used:
        note("m", None)  # type: ignore[arg-type]
        other = threading.Thread(target=note, args=("other", None))
        other.start()
        other.join()
    note("later", None)  # type: ignore[arg-type]
    assert used == [("m", None)]


def test_the_open_inference_protocol_has_receipts(serve, core, signer):
    server = serve(core, receipts=signer, extra_services=[open_inference.service(core, max_bytes=1 << 20)])
    path = "/inference.GRPCInferenceService/ModelInfer"
    data = ModelInferRequest(model_name="m").SerializeToString()
    answer, receipt = ask(server, data, (NONCE, NONCE_BYTES), path=path)
    assert receipt
    assert signer.exchanges == [Exchange(path, data, answer, "m", 3, DIGEST, NONCE_BYTES)]
