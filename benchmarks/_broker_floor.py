"""What an attestation costs at least: `python -m benchmarks._broker_floor DIRECTORY PROCESSES` serves nothing else.

A TLS 1.3 handshake with a client certificate, as bare as pyOpenSSL does it, and one verification of a quote by
dcap-qvl. Processes of a few threads with blocking sockets, no checks, no limits, no decision, no record.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from pathlib import Path

import dcap_qvl
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL

from sealserve.evidence import SimulatedAttester, TrustRoot

from ._broker_place import ENCLAVE


class Floor:
    """The two operations, prepared as far as they can be."""

    def __init__(self, directory: Path) -> None:
        self.context = SSL.Context(SSL.TLS_SERVER_METHOD)
        self.context.set_min_proto_version(SSL.TLS1_3_VERSION)
        self.context.use_certificate(x509.load_pem_x509_certificate((directory / "broker.pem").read_bytes()))
        key = load_pem_private_key((directory / "broker.key").read_bytes(), None)
        self.context.use_privatekey(key)  # type: ignore[arg-type]
        self.context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
        self.context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        self._quote = SimulatedAttester(directory / "platform", ENCLAVE).quote(bytes(64))
        collateral = (directory / "platform" / "collateral.json").read_text()
        self._collateral = dcap_qvl.QuoteCollateralV3.from_json(collateral)
        self._verifier = dcap_qvl.QuoteVerifier(TrustRoot.from_pem(directory / "platform" / "root.pem").der)

    def verify(self) -> None:
        now = int(time.time())
        policy = dcap_qvl.QuotePolicy.claims_only(now)
        self._verifier.verify_with_policy(self._quote, self._collateral, now, policy)

    def serve(self, plain: socket.socket) -> None:
        with plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = SSL.Connection(self.context, plain)
            connection.set_accept_state()
            with contextlib.suppress(SSL.Error):
                connection.do_handshake()
                self.verify()
                connection.send(b"done")
                connection.shutdown()
                plain.shutdown(socket.SHUT_WR)
                plain.recv(1 << 12)


def main() -> None:
    floor = Floor(Path(sys.argv[1]))
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:

        def work() -> None:
            while True:
                plain, _ = listening.accept()
                floor.serve(plain)

        for _ in range(int(sys.argv[2]) - 1):
            if os.fork() == 0:
                break
        else:
            print(listening.getsockname()[1], flush=True)
        for _ in range(4):
            threading.Thread(target=work, daemon=True).start()
        sys.stdin.read()


if __name__ == "__main__":
    main()
