"""Receipts at the client: checked at once, and the answer is withheld where one is missing or wrong."""

from __future__ import annotations

import base64
import hashlib
import time
from datetime import UTC, datetime

import pytest
from client_parties import DIGEST, SECRET_INPUT, write_policy
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from receipt_parties import PREDICT, Signing, changing

from sealserve.client import Client, InsecureClient, OwnerCertificates
from sealserve.client.errors import ModelNotAcceptedError, ReceiptMismatchError, ReceiptMissingError
from sealserve.client.headers import read_metadata_value
from sealserve.client.protocols import UnaryCall
from sealserve.client.receipts import MOST_SKEW
from sealserve.client.rest.request import RestRequest
from sealserve.enclave.receipts import ReceiptKey
from sealserve.errors import EvidenceError, InputError, TrustError
from sealserve.ratls.receipts import ReceiptMalformedError, ReceiptSignatureError, encode_public_key, read
from sealserve.wire.tensorflow_serving_pb2 import PredictRequest
from sealserve.wire.tensors import from_numpy

pytestmark = pytest.mark.usefixtures("both_clients")
INPUTS = {"images": SECRET_INPUT}


@pytest.fixture
def signing(replica):
    return Signing(replica)


@pytest.fixture
def client(replica, signing, policy):
    with Client(replica.target, policy) as client:
        yield client


def message() -> bytes:
    request = PredictRequest()
    request.model_spec.name = "classifier"
    request.inputs["images"].CopyFrom(from_numpy(SECRET_INPUT))
    return request.SerializeToString()


def test_a_receipt_comes_with_the_answer_and_says_what_was_sent_and_received(client, signing, replica):
    answer = client.predict(INPUTS, model="classifier", receipt=True)
    receipt = answer.receipt
    assert receipt.statement.request == hashlib.sha256(replica.inputs[0]).digest()
    assert receipt.statement.answer == hashlib.sha256(bytes(receipt.answer)).digest()
    assert (receipt.statement.model, receipt.statement.version, receipt.statement.digest) == ("classifier", 3, DIGEST)
    assert receipt.data == signing.given[0]
    assert receipt.replica.claims.receipt_key == signing.key.public_key
    assert abs((receipt.at - datetime.now(UTC)).total_seconds()) < 60
    assert b"".join(receipt.request) == replica.inputs[0]


def test_no_log_shows_the_input(client):
    answer = client.predict(INPUTS, model="classifier", receipt=True)
    assert b"PATIENT" in b"".join(answer.receipt.request)
    assert "PATIENT" not in repr(answer.receipt)
    assert "PATIENT" not in repr(UnaryCall(PREDICT, [b"PATIENT"], 1)) + repr(RestRequest("POST", "/", [b"PATIENT"]))


def test_no_receipt_is_asked_for_unless_one_is_wanted(client, signing):
    assert client.predict(INPUTS, model="classifier").receipt is None
    assert signing.given == []


def test_each_call_has_a_nonce_of_its_own(client, signing):
    for _ in range(3):
        client.predict(INPUTS, model="classifier", receipt=True)
    nonces = {statement.nonce for statement in signing.statements}
    assert [len(nonce) for nonce in nonces] == [32, 32, 32]


def test_any_method_can_have_a_receipt(client, signing):
    reply = client.call(PREDICT, message(), receipt=True)
    assert reply.receipt.statement.request == hashlib.sha256(message()).digest()
    assert bytes(reply.receipt.answer) == bytes(reply.message)
    assert client.call(PREDICT, message()).receipt is None


@pytest.mark.parametrize("change", [changing(model="other"), changing(version=4)])
def test_a_receipt_of_any_method_is_for_the_model_that_the_answer_names(client, signing, change):
    signing.change = change
    with pytest.raises(ReceiptMismatchError):
        client.call(PREDICT, message(), receipt=True)


def test_a_status_in_the_place_of_an_answer_has_no_receipt_and_is_no_error_of_ours(client):
    other = PredictRequest()
    other.model_spec.name = "other"
    reply = client.call(PREDICT, other.SerializeToString(), receipt=True)
    assert (reply.status, reply.receipt) == (5, None)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"method": "/tensorflow.serving.PredictionService/Classify"}, "method"),
        ({"request": bytes(32)}, "request"),
        ({"answer": bytes(32)}, "answer"),
        ({"nonce": bytes(32)}, "nonce"),
        ({"nonce": bytes(16)}, "nonce"),
        ({"tls_key": bytes(32)}, "TLS key"),
        ({"model": "other"}, "model"),
        ({"version": 4}, "model and version"),
        pytest.param({"time": int((time.time() - MOST_SKEW - 3600) * 1000)}, "clock", id="too early"),
        pytest.param({"time": int((time.time() + MOST_SKEW + 3600) * 1000)}, "clock", id="too late"),
        ({"time": 0}, "clock"),
        ({"time": (1 << 43) - 1}, "clock"),
    ],
    ids=str,
)
def test_a_receipt_for_something_else_withholds_the_answer(client, signing, change, what):
    signing.change = changing(**change)
    with pytest.raises(ReceiptMismatchError, match=what):
        client.predict(INPUTS, model="classifier", receipt=True)


def test_a_missing_receipt_withholds_the_answer(client, signing):
    signing.tamper = lambda _: None
    with pytest.raises(ReceiptMissingError, match="without one"):
        client.predict(INPUTS, model="classifier", receipt=True)
    with pytest.raises(ReceiptMissingError):
        client.call(PREDICT, message(), receipt=True)
    assert client.predict(INPUTS, model="classifier").outputs


def test_a_replica_that_names_no_key_gives_no_receipt_that_counts(replica, policy):
    Signing(replica, named=False)
    with Client(replica.target, policy) as client, pytest.raises(ReceiptMissingError, match="names no key"):
        client.predict(INPUTS, model="classifier", receipt=True)


def test_a_key_without_evidence_signs_nothing_that_counts(client, signing):
    honest, forger = signing.key, ReceiptKey(signing.replica.identity.spki_digest)
    client.verify()  # the claims name the honest key
    signing.key = forger
    with pytest.raises(ReceiptSignatureError, match="another key"):
        client.predict(INPUTS, model="classifier", receipt=True)
    forger._key_id = honest._key_id  # and under the name of the honest one
    with pytest.raises(ReceiptSignatureError, match="signature"):
        client.predict(INPUTS, model="classifier", receipt=True)


@pytest.mark.parametrize(
    "public", [b"garbage", encode_public_key(ec.generate_private_key(ec.SECP384R1()).public_key())]
)
def test_claims_with_a_key_that_is_none_are_refused_when_a_receipt_comes(client, signing, public):
    signing.name_key(public)
    with pytest.raises(ReceiptSignatureError):
        client.predict(INPUTS, model="classifier", receipt=True)


def test_the_receipt_of_another_replica_is_refused(replica, second_replica, policy):
    first, second = Signing(replica), Signing(second_replica)
    with Client(second_replica.target, policy) as client:
        client.predict(INPUTS, model="classifier", receipt=True)
    first.tamper = lambda _: second.given[-1]
    with Client(replica.target, policy) as client, pytest.raises(ReceiptSignatureError):
        client.predict(INPUTS, model="classifier", receipt=True)


def test_an_old_receipt_for_the_same_request_is_refused(client, signing):
    client.predict(INPUTS, model="classifier", receipt=True)
    signing.tamper = lambda _: signing.given[0]
    with pytest.raises(ReceiptMismatchError, match="nonce"):
        client.predict(INPUTS, model="classifier", receipt=True)


def test_the_policy_says_which_model_may_have_answered(replica, signing, platform, tmp_path):
    listed = write_policy(tmp_path / "listed.yaml", platform, f"models: ['{DIGEST.hex()}']\n")
    with Client(replica.target, listed) as client:
        assert client.predict(INPUTS, model="classifier", receipt=True).receipt
        # The evidence names the model that is accepted, under this name and version; another one answered.
        signing.change = changing(digest=bytes(32))
        with pytest.raises(ModelNotAcceptedError, match=bytes(32).hex()):
            client.predict(INPUTS, model="classifier", receipt=True)


def test_a_refusal_closes_the_connection_and_the_client_goes_on(client, signing):
    signing.change = changing(nonce=bytes(32))
    with pytest.raises(TrustError):
        client.predict(INPUTS, model="classifier", receipt=True)
    signing.change = changing()
    assert client.predict(INPUTS, model="classifier", receipt=True).receipt


def test_a_client_without_evidence_asks_for_no_receipt(replica, owner):
    with (
        InsecureClient(replica.target, OwnerCertificates()) as client,
        pytest.raises(InputError, match="without evidence"),
    ):
        client.predict(INPUTS, model="classifier", receipt=True)
    assert replica.inputs == []


def test_a_server_without_receipts_says_so(replica, policy):
    import grpc

    def refuse(request, context):
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this server gives no receipts")

    replica.predict = refuse
    with Client(replica.target, policy) as client, pytest.raises(Exception, match="gives no receipts"):
        client.predict(INPUTS, model="classifier", receipt=True)


def test_a_large_input_is_hashed_as_it_was_sent(client, replica):
    import numpy as np

    large = np.random.default_rng(1).integers(0, 256, (1, 3 << 20), dtype=np.uint8)
    receipt = client.predict({"images": large}, model="classifier", receipt=True).receipt
    assert receipt.statement.request == hashlib.sha256(replica.inputs[-1]).digest()
    large[0, 0] ^= 1
    with pytest.raises(InputError, match="not what they were"):
        receipt.as_dict(messages=True)


def test_binary_metadata_arrives_as_it_was_sent_in_base64_or_raw(client, replica):
    values = [b"", b"\0", b"\0abc", bytes(range(256)), b"AAAA"]

    def predict(request, context):
        context.set_trailing_metadata(tuple((f"x{number}-bin", value) for number, value in enumerate(values)))
        return replica.honest_predict(request, context)

    replica.predict = predict
    reply = client.call(PREDICT, message())
    assert dict(reply.trailing_metadata) == {f"x{number}-bin": value for number, value in enumerate(values)}
    # A server that does not know gRPC's setting for raw values sends them in base64.
    for value in values:
        assert read_metadata_value("x-bin", base64.b64encode(value).rstrip(b"=")) == value
        assert read_metadata_value("x-bin", b"\0" + value) == value


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(noise=st.binary(min_size=1, max_size=600))
def test_arbitrary_bytes_in_the_place_of_a_receipt_are_refused(client, signing, noise):
    signing.tamper = lambda _: noise
    with pytest.raises(ReceiptMalformedError):
        client.predict(INPUTS, model="classifier", receipt=True)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_withholds_the_answer(client, signing, where, bit):
    def flip(receipt: bytes) -> bytes:
        damaged = bytearray(receipt)
        damaged[int(where * len(damaged))] ^= 1 << bit
        return bytes(damaged)

    signing.tamper = flip
    with pytest.raises(EvidenceError):
        client.predict(INPUTS, model="classifier", receipt=True)
    assert read(flip(signing.given[-1])).statement == signing.statements[-1]
