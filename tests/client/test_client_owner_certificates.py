"""TLS by certificates that the owner made: one-way, two-way, beside evidence and without it."""

from __future__ import annotations

import asyncio

import pytest
from client_parties import MARKER, SECRET_INPUT, Scripted, asking_clients

from sealserve.client import Client, InsecureClient, OwnerCertificates, ServerNotAcceptedError
from sealserve.client.aio import InsecureAsyncClient
from sealserve.errors import InputError, KeyFileError, TrustError, UnavailableError

INPUTS = {"images": SECRET_INPUT}
both_protocols = pytest.mark.parametrize("protocol", ["grpc", "rest"])


@pytest.fixture
def one_way(start_good, owner):
    return start_good(credentials=owner.credentials())


@pytest.fixture
def two_way(start_good, owner):
    return start_good(credentials=owner.credentials(two_way=True))


def roots(owner, file="ca.pem", **more):
    return OwnerCertificates(roots=owner.path(file), **more)


@both_protocols
def test_a_server_is_known_by_its_authority_or_by_its_own_certificate(one_way, owner):
    for file in ("ca.pem", "server.pem"):
        with InsecureClient(one_way.target, roots(owner, file), server_name=owner.name) as client:
            answer = client.predict(INPUTS, model="classifier")
        assert answer.checked is None
        assert answer.replica == "a server without evidence"
        with pytest.raises(InputError, match="without evidence"):
            _ = answer.evidence
    assert one_way.log == ["Predict", "Predict"]


async def predict(target, certificates, name):
    async with InsecureAsyncClient(target, certificates, server_name=name) as client:
        return await client.predict(INPUTS, model="classifier", timeout=10)


@both_protocols
def test_asyncio_knows_it_as_well(one_way, owner):
    assert asyncio.run(predict(one_way.target, roots(owner), owner.name)).checked is None
    with pytest.raises(ServerNotAcceptedError):
        asyncio.run(predict(one_way.target, roots(owner), "other.example"))
    assert one_way.predicted == 1


@both_protocols
def test_another_name_is_refused(one_way, owner):
    with InsecureClient(one_way.target, roots(owner)) as client, pytest.raises(ServerNotAcceptedError) as caught:
        client.predict(INPUTS, model="classifier")
    assert caught.value.exit_code == 4
    assert one_way.log == []


@both_protocols
def test_another_authority_is_refused(start_good, owner):
    replica = start_good()  # with a certificate that it signed itself
    for certificates in (roots(owner), OwnerCertificates()):
        with InsecureClient(replica.target, certificates) as client, pytest.raises(ServerNotAcceptedError):
            client.predict(INPUTS, model="classifier")
    assert replica.log == []


@both_protocols
def test_a_server_that_wants_a_certificate_gets_it(two_way, owner):
    certificates = roots(owner, certificate=owner.path("client.pem"), key=owner.path("client.key"))
    with InsecureClient(two_way.target, certificates, server_name=owner.name) as client:
        client.predict(INPUTS, model="classifier")
    with (
        InsecureClient(two_way.target, roots(owner), server_name=owner.name) as client,
        pytest.raises(UnavailableError),
    ):
        client.predict(INPUTS, model="classifier", timeout=2)
    assert two_way.predicted == 1


@both_protocols
def test_certificates_are_checked_beside_evidence(one_way, owner, policy):
    # The evidence is genuine, but for the replica's own key, and TLS is made with the owner's.
    with (
        Client(one_way.target, policy, certificates=roots(owner), server_name=owner.name) as client,
        pytest.raises(TrustError),
    ):
        client.predict(INPUTS, model="classifier")
    assert one_way.log == ["GetEvidence"]


@both_protocols
def test_evidence_does_not_make_up_for_a_certificate(replica, owner, policy):
    with Client(replica.target, policy, certificates=roots(owner)) as client, pytest.raises(ServerNotAcceptedError):
        client.predict(INPUTS, model="classifier")
    assert replica.log == []


@both_protocols
def test_a_client_certificate_goes_along_with_evidence(start, identities, good_attester, owner, policy):
    identity = identities[0]
    replica = start(identity, good_attester, credentials=asking_clients(identity, owner.path("ca.pem")))
    shown = OwnerCertificates(certificate=owner.path("client.pem"), key=owner.path("client.key"))
    with Client(replica.target, policy, certificates=shown) as client:
        assert client.predict(INPUTS, model="classifier").replica == "replica-1"
    with Client(replica.target, policy) as client, pytest.raises(UnavailableError):
        client.predict(INPUTS, model="classifier", timeout=2)
    assert replica.predicted == 1


def test_files_that_cannot_be_used_are_told_before_connecting(owner, tmp_path):
    (tmp_path / "text").write_text("no certificate")
    (tmp_path / "open.key").write_bytes(owner.path("client.key").read_bytes())
    (tmp_path / "open.key").chmod(0o644)
    client = owner.path("client.pem")
    for certificates, error in (
        (OwnerCertificates(roots=tmp_path / "missing"), InputError),
        (OwnerCertificates(roots=tmp_path / "text"), InputError),
        (roots(owner, certificate=client), InputError),
        (roots(owner, certificate=client, key=tmp_path / "open.key"), KeyFileError),
        (roots(owner, certificate=client, key=owner.path("server.key")), InputError),
    ):
        with pytest.raises(error):
            InsecureClient("127.0.0.1:1", certificates)


def test_an_insecure_client_still_checks_the_certificate_before_it_sends(identities, owner):
    with Scripted(identities[0], alpn=None) as server:
        with InsecureClient(server.target, roots(owner)) as client, pytest.raises(TrustError):
            client.predict(INPUTS, model="classifier")
        assert MARKER not in server.plaintext
