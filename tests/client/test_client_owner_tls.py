"""One-way and two-way TLS beside evidence: the owner's certificate and the evidence for its key must both hold.

Every server here keeps what it was sent, so "not one byte" is looked up on its side of the wire.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from client_parties import BAD, MARKER, SECRET_INPUT, ManInTheMiddle, Owner, Replica, asking_clients

from sealserve.client import Client, EvidenceMissingError, OwnerCertificates, Prediction, ServerNotAcceptedError
from sealserve.client.report import examine
from sealserve.errors import InputError, PolicyRefusedError, TrustError, UnavailableError
from sealserve.evidence import AppraisalPolicy, SimulatedAttester
from sealserve.evidence.errors import EvidenceBindingError
from sealserve.ratls import TlsIdentity
from sealserve.wire import attestation_pb2

INPUTS = {"images": SECRET_INPUT}
both_protocols = pytest.mark.parametrize("protocol", ["grpc", "rest"])
pytestmark = pytest.mark.usefixtures("both_clients")


@dataclass
class World:
    """An owner, what she granted to every replica of a deployment, and what its clients have."""

    owner: Owner
    granted: TlsIdentity
    policy: AppraisalPolicy
    start: Callable[..., Replica]
    good: SimulatedAttester
    other: Owner
    """Who makes certificates for the same name, too."""

    @property
    def roots(self) -> OwnerCertificates:
        return OwnerCertificates(self.owner.path("ca.pem"))

    @property
    def certificates(self) -> OwnerCertificates:
        return OwnerCertificates(*(self.owner.path(name) for name in ("ca.pem", "client.pem", "client.key")))

    def replica(self, attester: SimulatedAttester | None = None, *, two_way: bool = False, **options: Any) -> Replica:
        credentials = asking_clients(self.granted, self.owner.path("ca.pem")) if two_way else None
        made = self.start(self.granted, attester or self.good, credentials=credentials, **options)
        claims = attestation_pb2.Claims.FromString(made.claims)
        claims.shared_tls_key = True
        made.claims = claims.SerializeToString()
        return made

    def client(self, target: str, certificates: OwnerCertificates | None) -> Client:
        return Client(target, self.policy, certificates=certificates, server_name=self.owner.name)

    def predict(self, target: str, certificates: OwnerCertificates | None, **options: Any) -> Prediction:
        with self.client(target, certificates) as client:
            return client.predict(INPUTS, model="classifier", **options)

    def refuse(self, target: str, error: type[TrustError]) -> TrustError:
        with pytest.raises(error) as caught:
            self.predict(target, self.certificates, timeout=10)
        assert caught.value.exit_code == TrustError.exit_code
        return caught.value


@pytest.fixture
def world(owner, policy, start, good_attester, tmp_path):
    return World(owner, owner.identity(), policy, start, good_attester, Owner(tmp_path, owner.name))


@both_protocols
def test_a_replica_that_has_both_is_accepted(world):
    replica = world.replica(two_way=True)
    answer = world.predict(replica.target, world.certificates)
    assert answer.verified.spki_digest == world.granted.spki_digest
    assert replica.log == ["GetEvidence", "Predict"]


@both_protocols
def test_evidence_is_not_enough_under_a_certificate_of_another_authority(world):
    replica = world.start(world.other.identity(), world.good)  # a genuine enclave, and its evidence is for this key
    assert world.predict(replica.target, None).replica == "replica-1"
    replica.log.clear()
    world.refuse(replica.target, ServerNotAcceptedError)
    assert replica.log == [], "not even asked for evidence"


@both_protocols
def test_a_platform_that_puts_its_own_certificate_in_the_place_sees_nothing(world):
    replica = world.replica()
    with ManInTheMiddle(world.other.identity(), replica.target) as platform:
        world.refuse(platform.target, ServerNotAcceptedError)
        assert platform.plaintext == b""
    assert replica.log == []


@both_protocols
def test_another_certificate_of_the_owners_does_not_borrow_a_replicas_evidence(world):
    replica = world.replica()
    with ManInTheMiddle(world.owner.identity(), replica.target) as elsewhere:
        world.refuse(elsewhere.target, EvidenceBindingError)
        assert MARKER not in elsewhere.plaintext
    assert replica.predicted == 0


def test_the_right_certificate_is_not_enough_without_evidence(world):
    def none(nonce):
        raise NotImplementedError(nonce)

    replica = world.replica(evidence=none)
    world.refuse(replica.target, EvidenceMissingError)
    assert replica.predicted == 0


@both_protocols
def test_the_right_certificate_is_not_enough_with_another_enclaves_evidence(world, bad_attester):
    replica = world.replica(bad_attester)
    assert BAD.mrenclave.hex() in world.refuse(replica.target, PolicyRefusedError).message
    assert replica.predicted == 0


@both_protocols
def test_a_key_that_several_replicas_have_vouches_for_none_of_the_others(world, bad_attester, balance):
    """The grant's policy accepts an enclave that this client does not: it has the same key and certificate."""
    good, other = world.replica(), world.replica(bad_attester)
    with world.client(balance(good.target, other.target).target, world.certificates) as client:
        assert client.predict(INPUTS, model="classifier").replica == "replica-1"
        assert client.predict(INPUTS, model="classifier").replica == "replica-1"
        assert good.asked == 1, "on one connection, evidence lasts as long as ever"
        client.drop_connections()
        with pytest.raises(PolicyRefusedError):
            client.predict(INPUTS, model="classifier")
    assert (good.predicted, other.predicted) == (2, 0)


@both_protocols
def test_each_replica_is_known_by_its_own_evidence_behind_one_key(world, balance):
    replicas = [world.replica(name=name) for name in ("replica-1", "replica-2")]
    with world.client(balance(*(one.target for one in replicas)).target, world.certificates) as client:
        names = []
        for _ in range(4):
            names.append(client.predict(INPUTS, model="classifier").replica)
            client.drop_connections()
    assert names == ["replica-1", "replica-2"] * 2
    assert [one.asked for one in replicas] == [2, 2]


@both_protocols
def test_an_expired_certificate_is_said_to_be_one(world):
    replica = world.start(world.owner.identity(hours_left=-1), world.good)
    assert "certificate has expired" in world.refuse(replica.target, ServerNotAcceptedError).message
    assert replica.log == []


@both_protocols
def test_without_a_certificate_that_the_server_takes_the_client_says_so_and_soon(world):
    replica = world.replica(two_way=True)
    files = [world.other.path(name) for name in ("client.pem", "client.key")]
    for shown in (world.roots, OwnerCertificates(world.owner.path("ca.pem"), *files)):
        started = time.monotonic()
        with pytest.raises(UnavailableError) as caught:
            world.predict(replica.target, shown, timeout=20)
        assert time.monotonic() - started < 10
        assert "--crt" in str(caught.value.hint)
    assert replica.log == []


def test_a_key_that_is_not_the_certificates_is_told_before_connecting(world):
    files = [world.owner.path(name) for name in ("client.pem", "server.key")]
    wrong = OwnerCertificates(world.owner.path("ca.pem"), *files)
    with pytest.raises(InputError, match="cannot be used as a client's certificate and its key"):
        world.client("127.0.0.1:1", wrong)


def test_channels_carry_stubs_over_it(world):
    from sealserve.client.with_grpcio import verified_aio_channel, verified_channel
    from sealserve.wire.tensorflow_serving_pb2 import PredictRequest, PredictResponse

    target = world.replica(two_way=True).target
    options = {"certificates": world.certificates, "server_name": world.owner.name}
    forms = (PredictRequest.SerializeToString, PredictResponse.FromString)
    request = PredictRequest()
    request.model_spec.name = "other"
    with verified_channel(target, world.policy, **options) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/tensorflow.serving.PredictionService/Predict", *forms)(request, timeout=10)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    async def ask():
        async with verified_aio_channel(target, world.policy, **options) as channel:
            await channel.unary_unary("/tensorflow.serving.PredictionService/Predict", *forms)(request, timeout=10)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        asyncio.run(ask())
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@both_protocols
def test_the_report_tells_of_the_owners_certificate_and_whose_the_key_is(world):
    target, name = world.replica().target, world.owner.name
    report = examine(target, world.policy, server_name=name, certificates=world.certificates)
    assert report.accepted
    found = {check.name: check for check in report.checks}
    assert found["certificate"].ok
    assert "its owner has it" in found["tls-key"].detail
    other = OwnerCertificates(world.other.path("ca.pem"))
    report = examine(target, world.policy, server_name=name, certificates=other)
    assert isinstance(report.error, ServerNotAcceptedError)
    assert [(check.name, check.ok) for check in report.checks] == [("certificate", False)]
