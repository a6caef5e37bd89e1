"""A provisioning certification service on loopback, with a CA of its own and a temper, and a proxy in front of it."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import select
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from evidence_corpus import NOW

from sealserve.evidence import SimulatedPlatform

Answer = tuple[int, dict[str, str], bytes]
Temper = Callable[["CollateralServer", str], Answer | None]


class CollateralServer:
    """Serves one set of collateral in the form of a PCCS.

    :param fields: the collateral, in the JSON form of ``dcap-qvl``. :param requests: paths, as they came.
    :param temper: gives another answer than the right one, or none.
    """

    def __init__(self, fields: dict[str, str]) -> None:
        self.fields = fields
        self.requests: list[str] = []
        self.temper: Temper | None = None
        self.crl_form = "hex"
        self.port = 0

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def answer(self, path: str) -> Answer:
        self.requests.append(path)
        if self.temper is not None and (other := self.temper(self, path)) is not None:
            return other
        return self.right_answer(path)

    def right_answer(self, path: str) -> Answer:
        parts = urlsplit(path)
        query = parse_qs(parts.query)
        fields = self.fields
        tee = json.loads(fields["tcb_info"])["id"].lower()
        document = json.loads(fields["tcb_info"])
        if parts.path == "/sgx/certification/v4/pckcrl" and query.get("ca") == ["platform"]:
            return 200, {"SGX-PCK-CRL-Issuer-Chain": quote(fields["pck_crl_issuer_chain"])}, self._crl("pck_crl")
        if parts.path == "/sgx/certification/v4/rootcacrl":
            return 200, {}, self._crl("root_ca_crl")
        if parts.path == f"/{tee}/certification/v4/tcb" and query.get("fmspc") == [document["fmspc"]]:
            header = "TCB-Info-Issuer-Chain" if tee == "tdx" else "SGX-TCB-Info-Issuer-Chain"
            return 200, {header: quote(fields["tcb_info_issuer_chain"])}, self._signed("tcbInfo", "tcb_info")
        if parts.path == f"/{tee}/certification/v4/qe/identity":
            headers = {"SGX-Enclave-Identity-Issuer-Chain": quote(fields["qe_identity_issuer_chain"])}
            return 200, headers, self._signed("enclaveIdentity", "qe_identity")
        return 404, {}, b"No cache data for this platform"

    def _signed(self, member: str, field: str) -> bytes:
        signature = self.fields[f"{field}_signature"]
        return f'{{"{member}":{self.fields[field]},"signature":"{signature}"}}'.encode()

    def _crl(self, field: str) -> bytes:
        der = bytes.fromhex(self.fields[field])
        if self.crl_form == "pem":
            return x509.load_der_x509_crl(der).public_bytes(Encoding.PEM)
        return der if self.crl_form == "der" else der.hex().encode()


class _Handler(BaseHTTPRequestHandler):
    service: CollateralServer

    def do_GET(self) -> None:
        status, headers, body = self.service.answer(self.path)
        with contextlib.suppress(OSError):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@contextlib.contextmanager
def serving(service: CollateralServer, tls: ssl.SSLContext | None) -> Iterator[CollateralServer]:
    """Serve on a free port of loopback."""
    handler = type("Handler", (_Handler,), {"service": service})
    server = _Server(("127.0.0.1", 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    service.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()


class TestAuthority:
    """A certification authority for TLS, made for one test run."""

    __test__ = False

    def __init__(self, directory: Path, common_name: str) -> None:
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
        certificate = self._certificate(self._name, self._key.public_key(), None)
        self.pem = directory / f"{common_name}.pem"
        self.pem.write_bytes(certificate.public_bytes(Encoding.PEM))

    def context(self, name: str) -> ssl.SSLContext:
        """A server's TLS context, with a certificate for ``name``: an IP address or a DNS name."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "collateral service")])
        certificate = self._certificate(subject, key.public_key(), name)
        path = self.directory / f"server-{name}.pem"
        private = key.private_bytes(Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        path.write_bytes(private + certificate.public_bytes(Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def _certificate(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, server_name: str | None
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=server_name is None, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if server_name is not None:
            try:
                alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(server_name))
            except ValueError:
                alternative = x509.DNSName(server_name)
            builder = builder.add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        else:
            usage = dict.fromkeys(
                (
                    *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
                    *("encipher_only", "decipher_only"),
                ),
                False,
            )
            builder = builder.add_extension(
                x509.KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True, **usage), critical=True
            )
        return builder.sign(self._key, hashes.SHA256())


class _Tunnel(socketserver.BaseRequestHandler):
    asked: list[str]
    authorizations: list[str]

    def handle(self) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            piece = self.request.recv(4096)
            if not piece:
                return
            head += piece
        lines = head.decode("latin-1").split("\r\n")
        self.asked.append(lines[0])
        self.authorizations += [line for line in lines if line.lower().startswith("proxy-authorization")]
        method, target, _ = lines[0].split(" ")
        if method != "CONNECT":
            self.request.sendall(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
            return
        host, _, port = target.rpartition(":")
        with socket.create_connection((host, int(port))) as beyond:
            self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            pairs = {self.request: beyond, beyond: self.request}
            while True:
                for source in select.select(list(pairs), [], [], 5)[0] or [None]:
                    data = source.recv(65536) if source is not None else b""
                    if not data:
                        return
                    pairs[source].sendall(data)


@contextlib.contextmanager
def proxy() -> Iterator[tuple[str, list[str], list[str]]]:
    """A proxy that knows CONNECT: its URL, what it was asked, and how its users authorised themselves."""
    asked: list[str] = []
    authorizations: list[str] = []
    handler = type("Tunnel", (_Tunnel,), {"asked": asked, "authorizations": authorizations})

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass

    with Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", asked, authorizations
        finally:
            server.shutdown()


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something that a thread in the background does."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def fields_of(platform: SimulatedPlatform, *, now: datetime, **settings: timedelta) -> dict[str, str]:
    """The platform's collateral, as its parts."""
    found: dict[str, str] = json.loads(platform.collateral_json(now=now, **settings))
    return found


class Clock:
    """A clock that a test moves."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now.timestamp()


def down(_: CollateralServer, __: str) -> Answer:
    return 500, {}, b"out of order"
