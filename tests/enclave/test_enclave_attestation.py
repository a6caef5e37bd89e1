"""The replica's answer to a client that asks who it is."""

from __future__ import annotations

import os
from collections.abc import Iterator

import grpc
import pytest

from sealserve.enclave.attestation import NONCE_SIZE, AttestationService
from sealserve.enclave.measured import measured_settings
from sealserve.evidence import SimulatedAttester, create_simulated_platform, measure_simulated_enclave, parse_quote
from sealserve.ratls import TlsIdentity, client_report_data, create_identity
from sealserve.serving.core import ModelServer
from sealserve.serving.grpc_server import create_server
from sealserve.wire.attestation_pb2 import Claims, EvidenceRequest, EvidenceResponse, ServedModel

METHOD = "/sealserve.v1.Attestation/GetEvidence"


@pytest.fixture(scope="module")
def attester(tmp_path_factory: pytest.TempPathFactory) -> SimulatedAttester:
    directory = tmp_path_factory.mktemp("platform")
    create_simulated_platform(directory)
    return SimulatedAttester(directory, measure_simulated_enclave())


@pytest.fixture(scope="module")
def identity(attester: SimulatedAttester) -> TlsIdentity:
    return create_identity(attester, server_names=["replica.test"])


@pytest.fixture(scope="module")
def channel(attester: SimulatedAttester, identity: TlsIdentity) -> Iterator[grpc.Channel]:
    models = [ServedModel(name="m", version=7, digest=bytes(32))]
    service = AttestationService(identity.spki_digest, attester, replica="replica-1", models=models)
    with identity.private_key_pem() as key:
        server, port = create_server(
            ModelServer(),
            address="127.0.0.1:0",
            private_key_pem=key,
            certificate_pem=identity.certificate_pem(),
            extra_services=[service.service()],
        )
    server.start()
    credentials = grpc.ssl_channel_credentials(identity.certificate_pem())
    options = [("grpc.ssl_target_name_override", "replica.test")]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as opened:
        yield opened
    server.stop(0)


def ask(channel: grpc.Channel, nonce: bytes) -> EvidenceResponse:
    call = channel.unary_unary(METHOD, lambda request: request.SerializeToString(), EvidenceResponse.FromString)
    response: EvidenceResponse = call(EvidenceRequest(nonce=nonce), timeout=10)
    return response


def test_the_quote_binds_the_nonce_the_tls_key_and_the_claims(channel: grpc.Channel, identity: TlsIdentity) -> None:
    nonce = os.urandom(NONCE_SIZE)
    response = ask(channel, nonce)
    report_data = parse_quote(response.quote).report.report_data
    assert report_data == client_report_data(nonce, identity.spki_digest, response.claims)
    assert report_data != client_report_data(os.urandom(NONCE_SIZE), identity.spki_digest, response.claims)


def test_the_claims_say_which_model_is_served(channel: grpc.Channel) -> None:
    claims = Claims.FromString(ask(channel, bytes(NONCE_SIZE)).claims)
    assert claims.replica == "replica-1"
    assert [(m.name, m.version, m.digest) for m in claims.models] == [("m", 7, bytes(32))]


def test_a_quote_binds_the_claims_it_comes_with_although_they_change_meanwhile(
    attester: SimulatedAttester, identity: TlsIdentity
) -> None:
    class Slow:
        tee = "simulated"

        def quote(self, report_data: bytes) -> bytes:
            service.announce([ServedModel(name="m", version=8, digest=bytes(32))])
            return attester.quote(report_data)

    before = [ServedModel(name="m", version=7, digest=bytes(32))]
    service = AttestationService(identity.spki_digest, Slow(), replica="replica-1", models=before)  # type: ignore[arg-type]
    nonce = os.urandom(NONCE_SIZE)
    versions = []
    for _ in range(2):
        response = service._get_evidence(EvidenceRequest(nonce=nonce), None)  # type: ignore[arg-type]
        report_data = parse_quote(response.quote).report.report_data
        assert report_data == client_report_data(nonce, identity.spki_digest, response.claims)
        versions.append(Claims.FromString(response.claims).models[0].version)
    assert versions == [7, 8]


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_a_nonce_of_another_size_is_refused(channel: grpc.Channel, size: int) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ask(channel, bytes(size))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_another_brokers_authority_or_deployment_makes_another_measurement() -> None:
    def measure(deployment: str, ca: bytes) -> bytes:
        return measure_simulated_enclave(measured_settings(deployment=deployment, broker_ca=ca)).mrenclave

    ours = measure("a", b"owner's CA")
    assert ours == measure("a", b"owner's CA")
    assert len({ours, measure("a", b"host's CA"), measure("b", b"owner's CA")}) == 3


def test_a_der_certificate_is_read_whole_although_its_quote_holds_pem(identity: TlsIdentity) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding

    from sealserve.ratls import parse_certificate

    der = identity.certificate.public_bytes(Encoding.DER)
    assert b"-----BEGIN CERTIFICATE-----" in der
    assert parse_certificate(der) == identity.certificate
