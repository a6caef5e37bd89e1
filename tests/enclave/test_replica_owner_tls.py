"""A replica process whose owner made its TLS certificate: two-way TLS, with evidence for that certificate's key."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from cryptography import x509
from replica_parties import Callers, Place, Process, answer

from sealserve.broker.store import GrantDocument
from sealserve.client import Client, OwnerCertificates, attest
from sealserve.client.receipt_files import read_receipt_file
from sealserve.client.receipt_report import judge_receipt
from sealserve.errors import UnavailableError
from sealserve.local.certificates import ensure_authority, ensure_client_certificate, ensure_server_certificate
from sealserve.ratls import spki_digest
from sealserve.secret import Secret
from sealserve.wire.tensorflow_serving_pb2 import GetModelStatusRequest, GetModelStatusResponse

NAME = "replica.sealserve.internal"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"


class OwnerOf:
    """The certificates that the owner of a place makes, and the grants that she puts."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.directory = place.directory / "tls"
        self.directory.mkdir()
        ensure_authority(self / "ca.key", self / "ca.pem", name="test", of="server")
        ensure_authority(self / "clients.key", self / "clients.pem", name="test", of="client")
        ensure_client_certificate(
            self / "client.key",
            self / "client.pem",
            authority_key=self / "clients.key",
            authority=self / "clients.pem",
            name="client.test",
        )

    def __truediv__(self, name: str) -> Path:
        return self.directory / name

    def issue(self, *, new_key: bool = False) -> x509.Certificate:
        """Make a certificate, of the same key as before unless told otherwise, and grant it."""
        (self / "server.pem").unlink(missing_ok=True)
        if new_key:
            (self / "server.key").unlink()
        ensure_server_certificate(
            self / "server.key",
            self / "server.pem",
            authority_key=self / "ca.key",
            authority=self / "ca.pem",
            hosts=[NAME],
            keep_key=True,
        )
        pem = (self / "server.pem").read_text()
        with self._place.administration() as administration:
            key = administration.ensure_key("front", Secret((self / "server.key").read_bytes()), kind="tls")
            tls = {"certificate": pem, "key": key.name, "key_version": key.version}
            document = administration.grant("d").document.model_dump()
            clients = {"client_authority": (self / "clients.pem").read_text()}
            administration.put_grant(GrantDocument.model_validate(document | {"tls": tls | clients}))
        return x509.load_pem_x509_certificate(pem.encode())

    @property
    def certificates(self) -> OwnerCertificates:
        return OwnerCertificates(self / "ca.pem", self / "client.pem", self / "client.key")


@dataclass
class Running:
    place: Place
    owner: OwnerOf
    process: Process
    certificate: x509.Certificate
    grpc: str
    rest: str

    def context(self) -> ssl.SSLContext:
        """That of any HTTPS client."""
        context = ssl.create_default_context(cafile=self.owner / "ca.pem")
        context.load_cert_chain(self.owner / "client.pem", self.owner / "client.key")
        return context

    def status(self, *, shows: bool = True) -> GetModelStatusResponse:
        """What any gRPC client is answered that knows nothing of evidence."""
        parts = [(self.owner / name).read_bytes() for name in ("ca.pem", "client.key", "client.pem")]
        credentials = grpc.ssl_channel_credentials(*(parts if shows else parts[:1]))
        with grpc.secure_channel(self.grpc, credentials, [("grpc.ssl_target_name_override", NAME)]) as channel:
            forms = (GetModelStatusRequest.SerializeToString, GetModelStatusResponse.FromString)
            request = GetModelStatusRequest()
            request.model_spec.name = "m"
            response: GetModelStatusResponse = channel.unary_unary(STATUS, *forms)(request, timeout=5)
            return response


def serial(target: str) -> int:
    """The serial number of the certificate that a server shows; it is shown before a client's is asked for."""
    host, _, port = target.rpartition(":")
    pem = ssl.get_server_certificate((host, int(port)))
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    place = Place(tmp_path_factory.mktemp("owner-tls") / "place")
    owner = OwnerOf(place)
    certificate = owner.issue()
    with place.broker(), place.replica("--rest-listen", "127.0.0.1:0") as process:
        ready = process.until("replica-ready")
        ports = [f"127.0.0.1:{ready[name]}" for name in ("port", "rest_port")]
        yield Running(place, owner, process, certificate, *ports)
        assert process.stop() == 0


def test_evidence_is_for_the_key_of_the_owners_certificate(running: Running) -> None:
    for target in (running.grpc, f"https://{running.rest}"):
        found = attest(target, running.place.client_policy(), certificates=running.owner.certificates)
        assert found.spki_digest == spki_digest(running.certificate)
        assert found.claims.shared_tls_key, "the owner and other replicas have it, too"
        with Client(target, running.place.client_policy(), certificates=running.owner.certificates) as client:
            assert answer(client) == 2


def test_clients_that_know_nothing_of_evidence_are_answered(running: Running) -> None:
    assert running.status().model_version_status[0].version == 1
    host, _, port = running.rest.rpartition(":")
    plain = socket.create_connection((host, int(port)), timeout=10)
    connection = http.client.HTTPConnection(NAME)
    connection.sock = running.context().wrap_socket(plain, server_hostname=NAME)
    connection.request("POST", "/v1/models/m:predict", '{"instances": [1, 2.5]}')
    reply = connection.getresponse()
    assert (reply.status, reply.read()) == (200, b'{"predictions":[2.0,5.0]}')
    connection.close()


def test_clients_without_a_certificate_are_not(running: Running) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        running.status(shows=False)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    policy, roots = running.place.client_policy(), OwnerCertificates(running.owner / "ca.pem")
    for target in (running.grpc, f"https://{running.rest}"):
        with pytest.raises(UnavailableError, match="before it said anything"):
            attest(target, policy, certificates=roots)


def test_receipts_are_for_that_key_too(running: Running, tmp_path: Path) -> None:
    policy = running.place.client_policy()
    with Client(running.grpc, policy, certificates=running.owner.certificates) as client:
        given = client.predict({"x": np.ones(1, np.float32)}, model="m", receipt=True)
    assert given.receipt is not None
    given.receipt.save(tmp_path / "receipt.json")
    assert judge_receipt(read_receipt_file(tmp_path / "receipt.json"), policy).accepted


def test_a_renewed_certificate_fails_no_request_and_a_new_key_waits(running: Running) -> None:
    policy = running.place.client_policy()
    with Client(running.grpc, policy, certificates=running.owner.certificates) as client, Callers(client) as callers:
        callers.more(5)
        renewed = running.owner.issue()
        assert renewed.serial_number != running.certificate.serial_number
        running.process.until("certificate-renewed")
        assert [serial(target) for target in (running.grpc, running.rest)] == [renewed.serial_number] * 2
        client.drop_connections()
        callers.more(5)
        running.owner.issue(new_key=True)
        running.process.until("tls-changes-at-next-start")
        callers.more(5)
        assert serial(running.grpc) == renewed.serial_number
    assert callers.failures == []


@pytest.mark.slow
def test_a_new_key_is_taken_at_the_next_start(running: Running) -> None:
    new = running.owner.issue(new_key=True)
    with running.place.replica() as process:
        target = f"127.0.0.1:{process.until('replica-ready')['port']}"
        found = attest(target, running.place.client_policy(), certificates=running.owner.certificates)
        assert found.spki_digest == spki_digest(new) != spki_digest(running.certificate)
        assert process.stop() == 0
