"""The other parties of a call, good and bad: replicas, balancers, attackers. All of them keep what they were sent."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from sealserve.evidence import AppraisalPolicy, SimulatedEnclave
from sealserve.ratls import TlsIdentity, client_report_data
from sealserve.wire import attestation_pb2, tensorflow_pb2, tensorflow_serving_pb2
from sealserve.wire.tensors import from_numpy, to_numpy

GOOD = SimulatedEnclave(mrenclave=bytes(range(32)), mrsigner=bytes(32))
BAD = SimulatedEnclave(mrenclave=bytes(range(1, 33)), mrsigner=bytes(32))
DIGEST = bytes(range(100, 132))
CLASSES = 10
# What every test sends as input; if these bytes are anywhere, the input was.
SECRET_INPUT = np.frombuffer(b"THE PATIENT'S PICTURE. " * 32, dtype=np.uint8).reshape(1, -1)
MARKER = b"THE PATIENT'S PICTURE. "


def write_policy(path: Path, platform: Path, extra: str = "") -> AppraisalPolicy:
    """A policy that accepts the enclave ``GOOD`` on the simulated platform."""
    path.write_text(
        f"tee: simulated\ntrust_root: {platform}/root.pem\ncollateral: {platform}/collateral.json\n"
        f"enclaves:\n  - mrenclave: {GOOD.mrenclave.hex()}\ninsecure_accept_simulated_platform: true\n{extra}",
        encoding="utf-8",
    )
    return AppraisalPolicy.load(path)


class Credentials(NamedTuple):
    """What a server shows and asks for, for either protocol."""

    grpc: grpc.ServerCredentials
    tls: ssl.SSLContext


class Replica(contextlib.AbstractContextManager["Replica"]):
    """A real gRPC server with TLS by a real identity on a simulated platform.

    ``log`` has the names of the methods in the order in which they were called, ``inputs`` the Predict requests.
    ``evidence`` and ``predict`` can be replaced by what an attacker does.
    """

    def __init__(
        self,
        identity: TlsIdentity,
        attester: Any,
        *,
        name: str = "replica-1",
        models: Sequence[tuple[str, int, bytes]] = (("classifier", 3, DIGEST),),
        evidence: Callable[[bytes], attestation_pb2.EvidenceResponse] | None = None,
        predict: Callable[[tensorflow_serving_pb2.PredictRequest, grpc.ServicerContext], Any] | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self.identity, self.attester, self.name = identity, attester, name
        served = [attestation_pb2.ServedModel(name=m, version=v, digest=d) for m, v, d in models]
        self.claims = attestation_pb2.Claims(replica=name, models=served).SerializeToString()
        self.log: list[str] = []
        self.nonces: list[bytes] = []
        self.inputs: list[bytes] = []
        self.others: list[str] = []  # methods that are answered as Predict is
        self.evidence = evidence or self.honest_evidence
        self.predict = predict or self.honest_predict
        options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 64 << 20)]
        self._server = grpc.server(ThreadPoolExecutor(16), options=options)
        self._server.add_generic_rpc_handlers([_Handlers(self)])
        own = [(bytes(identity.private_key_pem().reveal()), identity.certificate_pem())]
        shown = credentials.grpc if credentials else grpc.ssl_server_credentials(own)
        self.port = self._server.add_secure_port("127.0.0.1:0", shown)
        self.target = f"127.0.0.1:{self.port}"
        self._server.start()

    def honest_evidence(self, nonce: bytes) -> attestation_pb2.EvidenceResponse:
        report_data = client_report_data(nonce, self.identity.spki_digest, self.claims)
        return attestation_pb2.EvidenceResponse(quote=self.attester.quote(report_data), claims=self.claims)

    def honest_predict(self, request, context):
        if request.model_spec.name != "classifier":
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {request.model_spec.name}")
        if "images" not in request.inputs:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "input images is missing: \N{SNOWMAN}")
        total = int(to_numpy(request.inputs["images"]).sum())
        response = tensorflow_serving_pb2.PredictResponse()
        response.outputs["scores"].CopyFrom(from_numpy(np.arange(CLASSES, dtype=np.float32)[np.newaxis] + total))
        response.model_spec.name = "classifier"
        response.model_spec.version.value = 3
        return response

    def metadata(self, request, context):
        spec = tensorflow_serving_pb2.SignatureDefMap()
        signature = spec.signature_def["serving_default"]
        images = signature.inputs["images"]
        images.dtype = tensorflow_pb2.DT_UINT8
        for size in (-1, 224, 224, 3):
            images.tensor_shape.dim.add(size=size)
        signature.outputs["scores"].dtype = tensorflow_pb2.DT_FLOAT
        for size in (-1, CLASSES):
            signature.outputs["scores"].tensor_shape.dim.add(size=size)
        response = tensorflow_serving_pb2.GetModelMetadataResponse()
        response.model_spec.name, response.model_spec.version.value = "classifier", 3
        response.metadata["signature_def"].Pack(spec)
        return response

    @property
    def asked(self) -> int:
        """How often it was asked for evidence."""
        return self.log.count("GetEvidence")

    @property
    def predicted(self) -> int:
        """How many inputs reached it."""
        return len(self.inputs)

    def stop(self, grace: float | None = None) -> threading.Event:
        return self._server.stop(grace)

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait(5)


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    def service(self, details):
        method = details.method.rpartition("/")[2]
        handler = getattr(self, "_Predict" if method in self._replica.others else f"_{method}", None)
        if handler is None:
            return None
        return grpc.unary_unary_rpc_method_handler(handler, response_serializer=lambda m: m.SerializeToString())

    def _GetEvidence(self, request, context):
        self._replica.log.append("GetEvidence")
        nonce = attestation_pb2.EvidenceRequest.FromString(request).nonce
        self._replica.nonces.append(nonce)
        return self._replica.evidence(nonce)

    def _Predict(self, request, context):
        self._replica.log.append("Predict")
        self._replica.inputs.append(request)
        return self._replica.predict(tensorflow_serving_pb2.PredictRequest.FromString(request), context)

    def _GetModelMetadata(self, request, context):
        self._replica.log.append("GetModelMetadata")
        return self._replica.metadata(request, context)


class _LoopThread(contextlib.AbstractContextManager["Any"]):
    """An asyncio server on a loopback port, in a thread of its own."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server = self._run(asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=context))
        self.port = self._server.sockets[0].getsockname()[1]
        self.target = f"127.0.0.1:{self.port}"
        self.accepted = 0

    def _run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            await self.handle(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError

    def cut(self) -> None:
        """Break every connection."""

        async def cancel() -> None:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            # Until they have ended, the sockets are open.
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0.05)

        self._run(cancel())

    def __exit__(self, *_: object) -> None:
        async def end() -> None:
            self._server.close()
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self._run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: bytearray | None = None) -> None:
    while data := await reader.read(65536):
        if seen is not None:
            seen += data
        writer.write(data)
        await writer.drain()
    writer.transport.abort()


class Balancer(_LoopThread):
    """A layer-4 balancer, round robin over ``targets`` (which a test may replace); keeps the bytes it forwards."""

    def __init__(self, targets: Sequence[str]) -> None:
        self.targets = list(targets)
        self._scheme = "https://" if targets[0].startswith("https://") else ""
        self.seen = bytearray()
        self._turn = itertools.count()
        super().__init__()
        self.target = self._scheme + self.target

    async def handle(self, reader, writer):
        host, port = where(self.targets[next(self._turn) % len(self.targets)])
        behind_reader, behind_writer = await asyncio.open_connection(host, port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, behind_writer, self.seen))
                group.create_task(_pump(behind_reader, writer, self.seen))
        finally:
            behind_writer.transport.abort()


@dataclass(frozen=True)
class Owner:
    """Certificates as the seed's scripts make them: an authority, a server with nothing but a common name, a client."""

    directory: Path
    name: str = "grpc.tf-serving.service.com"

    def __post_init__(self) -> None:
        authority = ec.generate_private_key(ec.SECP256R1())
        self._write("ca", authority, self._certificate("owner", authority, authority, "owner"))
        for file, name in (("server", self.name), ("client", "client")):
            key = ec.generate_private_key(ec.SECP256R1())
            self._write(file, key, self._certificate(name, key, authority, "owner"))

    def path(self, file: str) -> Path:
        return self.directory / file

    def identity(self, *, hours_left: float = 1) -> TlsIdentity:
        """A key and a certificate for it, as a replica is granted them."""
        authority = load_pem_private_key(self.path("ca.key").read_bytes(), None)
        key = ec.generate_private_key(ec.SECP256R1())
        return TlsIdentity(key, self._certificate(self.name, key, authority, "owner", hours_left=hours_left))

    def credentials(self, *, two_way: bool = False) -> Credentials:
        pair = (self.path("server.key").read_bytes(), self.path("server.pem").read_bytes())
        roots = self.path("ca.pem").read_bytes() if two_way else None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path("server.pem"), self.path("server.key"))
        context.set_alpn_protocols(["http/1.1"])
        if two_way:
            context.load_verify_locations(self.path("ca.pem"))
            context.verify_mode = ssl.CERT_REQUIRED
        return Credentials(grpc.ssl_server_credentials([pair], roots, require_client_auth=two_way), context)

    def _write(self, file: str, key: Any, certificate: x509.Certificate) -> None:
        form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.path(f"{file}.key").write_bytes(key.private_bytes(*form))
        self.path(f"{file}.key").chmod(0o600)
        self.path(f"{file}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))

    def _certificate(self, name: str, key: Any, signer: Any, issuer: str, *, hours_left: float = 1) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=2))
            .not_valid_after(now + timedelta(hours=hours_left))
        )
        if name == issuer:
            builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        return builder.sign(signer, hashes.SHA256())


def where(target: str) -> tuple[str, int]:
    """Host and port of a target of either protocol."""
    host, _, port = target.removeprefix("https://").rpartition(":")
    return host, int(port)


def asking_clients(identity: TlsIdentity, authority: Path) -> Credentials:
    """What a server of two-way TLS shows, and whose clients it takes."""
    pair = (bytes(identity.private_key_pem().reveal()), identity.certificate_pem())
    context = server_context(identity, "http/1.1")
    context.load_verify_locations(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    return Credentials(grpc.ssl_server_credentials([pair], authority.read_bytes(), require_client_auth=True), context)


def server_context(identity: TlsIdentity, *alpn: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as directory:
        key = Path(directory) / "key.pem"
        key.write_bytes(bytes(identity.private_key_pem().reveal()) + identity.certificate_pem())
        context.load_cert_chain(key)
    context.set_alpn_protocols(list(alpn))
    return context


class ManInTheMiddle(_LoopThread):
    """Ends TLS under a key of its own and forwards the plaintext, which it keeps, over TLS to a replica."""

    def __init__(self, identity: TlsIdentity, target: str) -> None:
        self._target = target
        self._alpn = "http/1.1" if target.startswith("https://") else "h2"
        self.plaintext = bytearray()
        super().__init__(server_context(identity, self._alpn))
        if self._alpn != "h2":
            self.target = f"https://{self.target}"

    async def handle(self, reader, writer):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols([self._alpn])
        host, port = where(self._target)
        behind_reader, behind_writer = await asyncio.open_connection(host, port, ssl=context)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, behind_writer, self.plaintext))
                group.create_task(_pump(behind_reader, writer))
        finally:
            behind_writer.transport.abort()


class Scripted(_LoopThread):
    """Over TLS (or plain TCP without an identity): keeps what it reads, says its lines, then stays silent or goes."""

    def __init__(
        self, identity: TlsIdentity | None, lines: bytes = b"", *, hang_up: bool = False, alpn: str | None = "h2"
    ) -> None:
        self._lines, self._hang_up = lines, hang_up
        self.plaintext = bytearray()
        super().__init__(server_context(identity, *([alpn] if alpn else [])) if identity else None)

    async def handle(self, reader, writer):
        self.plaintext += await reader.read(65536)
        writer.write(self._lines)
        await writer.drain()
        while not self._hang_up and (data := await reader.read(65536)):
            self.plaintext += data


def exchange(replica, version: int, digest: bytes) -> None:
    """What the replica does inside: it answers with another model from now on, and says so when it is asked."""
    served = [attestation_pb2.ServedModel(name="classifier", version=version, digest=digest)]
    replica.claims = attestation_pb2.Claims(replica=replica.name, models=served).SerializeToString()

    def predict(message, context):
        response = replica.honest_predict(message, context)
        response.model_spec.version.value = version
        return response

    replica.predict = predict


def free_port() -> int:
    """A port where nothing listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
