"""Models written here, certificates made on the spot, and a server with TLS in front of both."""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from process.conftest import add_version, authority, start, write_models, write_ssl_config  # noqa: F401 - fixtures
from serving_models import affine_model

from sealserve.models.writing import write_saved_model
from sealserve.secret import Secret
from sealserve.serving.core import ModelServer
from sealserve.serving.grpc_server import create_server
from sealserve.serving.openvino_engine import OpenVinoEngine
from sealserve.wire import tensorflow_serving_pb2 as serving_pb2

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

SERVER_NAME = "replica.sealserve.internal"


@pytest.fixture(scope="session")
def half_plus_two(tmp_path_factory) -> Path:
    """The directory of version 1."""
    return write_saved_model(tmp_path_factory.mktemp("half_plus_two"), 1, affine_model(0.5, 2))


@pytest.fixture(scope="session")
def half_plus_three(tmp_path_factory) -> Path:
    """The directory of version 2."""
    return write_saved_model(tmp_path_factory.mktemp("half_plus_three"), 2, affine_model(0.5, 3))


@pytest.fixture(scope="session")
def engine() -> OpenVinoEngine:
    return OpenVinoEngine(threads=1, parallel_requests=2)


@dataclass(frozen=True)
class Certificate:
    key: Secret
    pem: bytes


@pytest.fixture(scope="session")
def certificate() -> Certificate:
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = Secret(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return Certificate(secret, made.public_bytes(Encoding.PEM))


class Connection:
    """A caller over TLS, with the messages of our own pool."""

    def __init__(self, port: int, certificate: Certificate) -> None:
        self.channel = grpc.secure_channel(
            f"127.0.0.1:{port}",
            grpc.ssl_channel_credentials(certificate.pem),
            [("grpc.ssl_target_name_override", SERVER_NAME), ("grpc.max_receive_message_length", -1)],
        )

    def call(self, path, request, response_type, timeout=20.0):
        data = request if isinstance(request, bytes) else request.SerializeToString()
        return response_type.FromString(self.channel.unary_unary(path)(data, timeout=timeout))

    def predict(self, request, timeout=20.0):
        path = "/tensorflow.serving.PredictionService/Predict"
        return self.call(path, request, serving_pb2.PredictResponse, timeout)

    def metadata(self, request):
        path = "/tensorflow.serving.PredictionService/GetModelMetadata"
        return self.call(path, request, serving_pb2.GetModelMetadataResponse)


@pytest.fixture
def serve(certificate):
    """Starts servers, connects to them, and stops both in the end."""
    started = []

    def begin(core: ModelServer, **settings) -> Connection:
        server, port = create_server(
            core,
            address="127.0.0.1:0",
            private_key_pem=certificate.key,
            certificate_pem=certificate.pem,
            **settings,
        )
        server.start()
        connection = Connection(port, certificate)
        connection.server, connection.port = server, port
        started.append(connection)
        return connection

    yield begin
    for connection in started:
        connection.channel.close()
        connection.server.stop(0)
