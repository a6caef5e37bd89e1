"""An HTTP server that does what servers do to downloads, and what they should not."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import ssl
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass
class Behaviour:
    """What the server does; tests change it between requests.

    :ivar cut_after: bytes of the body after which the connection ends, once.
    :ivar stall_after: bytes after which nothing comes any more.
    :ivar seen: the headers of each request.
    """

    content: bytes = b""
    etag: str | None = '"one"'
    modified: str | None = None
    ranges: bool = True
    length: bool = True
    chunked: bool = False
    declared: int | None = None
    encoding: str | None = None
    status: int = 200
    location: str | None = None
    redirect_length: int = 0
    cut_after: int | None = None
    stall_after: int | None = None
    wrong_part: bool = False
    seen: list[dict[str, str]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        does = self.server.behaviour
        does.seen.append(dict(self.headers))
        if does.status != 200:
            self.send_response(does.status)
            if does.location:
                self.send_header("Location", does.location)
            self.send_header("Content-Length", str(does.redirect_length))
            self.end_headers()
            return
        first = self._first(does)
        if first is not None and first >= len(does.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(does.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = does.content[first or 0 :]
        self.send_response(200 if first is None else 206)
        if first is not None:
            shown = first + 1 if does.wrong_part else first
            self.send_header("Content-Range", f"bytes {shown}-{len(does.content) - 1}/{len(does.content)}")
        for name, value in (
            ("ETag", does.etag),
            ("Last-Modified", does.modified),
            ("Content-Encoding", does.encoding),
            ("Transfer-Encoding", "chunked" if does.chunked else None),
            ("Content-Length", str(does.declared or len(body)) if does.length and not does.chunked else None),
        ):
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self._send(does, body)

    def _first(self, does):
        """Where the answer begins; None for all of it."""
        asked = self.headers.get("Range")
        if not does.ranges or not asked or self.headers.get("If-Range") not in {does.etag, does.modified}:
            return None
        return int(asked.removeprefix("bytes=").removesuffix("-"))

    def _send(self, does, body):
        cut, does.cut_after = does.cut_after, None
        stop = next((at for at in (cut, does.stall_after) if at is not None), len(body))
        with contextlib.suppress(OSError):
            if does.chunked:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(body[:stop]), body[:stop]))
                if stop == len(body):
                    self.wfile.write(b"0\r\n\r\n")
            else:
                self.wfile.write(body[:stop])
            self.wfile.flush()
            if does.stall_after is not None:
                self.server.released.wait(20)
        if stop < len(body) or not does.length or does.declared:
            self.close_connection = True


@contextlib.contextmanager
def serving(content: bytes = b"", certificate: Path | None = None, **settings):
    """The base address of a server, and what it does."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.behaviour = Behaviour(content, **settings)
    server.released = threading.Event()
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    scheme = "https" if certificate else "http"
    try:
        yield f"{scheme}://localhost:{server.server_port}", server.behaviour
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def make_certificate(path: Path, *, host: str = "localhost", days: int = 1) -> Path:
    """A self-signed certificate and its key in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.datetime.fromtimestamp(time.time(), datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=10))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(host), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(secret + certificate.public_bytes(serialization.Encoding.PEM))
    return path
