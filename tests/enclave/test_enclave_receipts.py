"""Receipts from the replica's own parts to the client's: the key in the claims signs what really answered."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sealserve.client import Client
from sealserve.client.errors import ModelNotAcceptedError
from sealserve.client.receipt_files import read_receipt_file
from sealserve.client.receipt_report import judge_receipt
from sealserve.enclave.attestation import AttestationService
from sealserve.enclave.receipts import ReceiptKey
from sealserve.evidence import AppraisalPolicy, SimulatedAttester, SimulatedEnclave, create_simulated_platform
from sealserve.models.saved_model import Signature
from sealserve.ratls import create_identity
from sealserve.ratls.receipts import key_id, read
from sealserve.serving.core import ModelServer
from sealserve.serving.grpc_server import create_server
from sealserve.serving.receipts import Exchange
from sealserve.wire.attestation_pb2 import ServedModel

ENCLAVE = SimulatedEnclave(mrenclave=bytes(range(32)), mrsigner=bytes(32))
OLD, NEW = b"o" * 32, b"n" * 32


class Echo:
    platform = "test"

    def __init__(self, number: int) -> None:
        self.number = number
        self.signatures: dict[str, Signature] = {}
        self.signature_definitions: dict[str, object] = {}
        self.asked, self.may_answer = threading.Event(), threading.Event()
        self.may_answer.set()

    def predict(self, *_: object, **__: object) -> dict[str, np.ndarray]:
        self.asked.set()
        assert self.may_answer.wait(10)
        return {"y": np.array(self.number)}

    def close(self) -> None:
        pass


class Parties:
    """A replica as :mod:`sealserve.enclave.life` puts it together, with a model that waits when told to."""

    def __init__(self, directory: Path) -> None:
        create_simulated_platform(directory)
        attester = SimulatedAttester(directory, ENCLAVE)
        self.directory = directory
        self.identity = create_identity(attester)
        self.core = ModelServer()
        self.old = Echo(1)
        self.core.replace("m", 1, self.old, digest=OLD)  # type: ignore[arg-type]
        self.receipts = ReceiptKey(self.identity.spki_digest)
        self.attestation = AttestationService(
            self.identity.spki_digest,
            attester,
            replica="replica-1",
            models=self.claims(OLD),
            receipt_key=self.receipts.public_key,
        )
        with self.identity.private_key_pem() as key:
            self.server, port = create_server(
                self.core,
                address="127.0.0.1:0",
                private_key_pem=key,
                certificate_pem=self.identity.certificate_pem(),
                extra_services=[self.attestation.service()],
                receipts=self.receipts,
            )
        self.server.start()
        self.target = f"127.0.0.1:{port}"

    def claims(self, *digests: bytes) -> list[ServedModel]:
        return [ServedModel(name="m", version=1, digest=digest) for digest in digests]

    def policy(self, *digests: bytes) -> AppraisalPolicy:
        path = self.directory.parent / "policy.yaml"
        path.write_text(
            f"tee: simulated\ntrust_root: {self.directory}/root.pem\ncollateral: {self.directory}/collateral.json\n"
            f"enclaves:\n  - mrenclave: {ENCLAVE.mrenclave.hex()}\ninsecure_accept_simulated_platform: true\n"
            + (f"models: {[digest.hex() for digest in digests]}\n" if digests else "")
        )
        return AppraisalPolicy.load(path)


@pytest.fixture
def parties(tmp_path: Path) -> Iterator[Parties]:
    made = Parties(tmp_path / "platform")
    yield made
    made.old.may_answer.set()
    made.server.stop(0)


def test_a_receipt_of_a_replica_is_proof_later(parties: Parties, tmp_path: Path) -> None:
    with Client(parties.target, parties.policy(OLD)) as client:
        answer = client.predict({"x": np.zeros(4, np.float32)}, model="m", receipt=True)
    assert answer.receipt is not None
    assert answer.receipt.statement.tls_key == parties.identity.spki_digest
    answer.receipt.save(tmp_path / "receipt.json", messages=True)
    report = judge_receipt(read_receipt_file(tmp_path / "receipt.json"), parties.policy(OLD))
    assert report.accepted, report.error
    assert {c.name for c in report.checks if c.ok} >= {"request", "answer", "receipt-key", "measurement"}
    assert not judge_receipt(read_receipt_file(tmp_path / "receipt.json"), parties.policy(NEW)).accepted


def test_over_an_exchange_the_receipt_names_the_model_that_answered(parties: Parties) -> None:
    """The model is exchanged under its name and version while a request works: claims cannot tell the two apart."""
    answers = {}

    def ask(name: str) -> None:
        answers[name] = client.predict({"x": np.zeros(1, np.float32)}, model="m", receipt=True)

    with Client(parties.target, parties.policy()) as client:
        client.verify()
        parties.old.may_answer.clear()
        asking = threading.Thread(target=ask, args=("before",))
        asking.start()
        assert parties.old.asked.wait(10)
        parties.core.replace("m", 1, Echo(2), digest=NEW)  # type: ignore[arg-type]
        parties.attestation.announce(parties.claims(NEW))
        ask("after")
        parties.old.may_answer.set()
        asking.join(10)
    digests = {int(a.outputs["y"]): a.receipt.statement.digest for a in answers.values()}
    assert digests == {1: OLD, 2: NEW}


def test_an_exchange_that_claims_cannot_show_is_seen_by_the_receipt(parties: Parties) -> None:
    with Client(parties.target, parties.policy(OLD)) as client:
        assert client.predict({"x": np.zeros(1)}, model="m", receipt=True).receipt
        parties.core.replace("m", 1, Echo(2), digest=NEW)  # type: ignore[arg-type]
        assert client.predict({"x": np.zeros(1)}, model="m").outputs["y"] == 2, "as old as the evidence"
        with pytest.raises(ModelNotAcceptedError):
            client.predict({"x": np.zeros(1)}, model="m", receipt=True)


def test_two_replicas_have_two_keys_and_each_says_the_time_of_its_clock() -> None:
    first, second = (ReceiptKey(bytes([number]) * 32, clock=lambda: 1234.5678) for number in (1, 2))
    exchange = Exchange("/a.B/C", b"request", b"answer", "m", 1, OLD, bytes(16))
    signed = read(first.sign(exchange))
    assert signed.verify(first.public_key).time == 1_234_567
    assert signed.key_id == key_id(first.public_key) != key_id(second.public_key)
    assert read(second.sign(exchange)).statement.tls_key == b"\2" * 32
