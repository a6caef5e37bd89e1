"""Enclaves that ask a key broker, in a process of its own: `python -m benchmarks._broker_load`, told what in JSON.

They are as bare as they can be: threads, blocking sockets, one key and certificate for all, one signature for each
quote. The processors that they use are missing to the broker.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import cbor2
from OpenSSL import SSL

from sealserve.broker.messages import ALPN
from sealserve.broker.version1 import REQUEST
from sealserve.evidence import SimulatedAttester
from sealserve.ratls import TlsIdentity, broker_report_data, create_identity
from sealserve.ratls.binding import EXPORTER_LABEL

from ._broker_place import ENCLAVE

ANSWERS = {"version 2": b"granted", "version 1": b"SECRET_PROVISION_RA_TLS_RESPONSE_V1:"}


class Enclaves:
    """:param kind: ``version 2`` or ``version 1``; or ``floor 2`` or ``floor 1``: only what such an enclave's
    cryptography costs, a handshake, and for version 2 a quote; and waiting for the end of the stream."""

    def __init__(self, platform: Path, port: int, kind: str) -> None:
        self._port = port
        self._kind = kind
        self._attester = SimulatedAttester(platform, ENCLAVE)
        self._identity: TlsIdentity = create_identity(self._attester)
        self._context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        self._context.set_min_proto_version(SSL.TLS1_3_VERSION)
        self._context.use_certificate(self._identity.certificate)
        self._context.use_privatekey(self._identity.private_key)
        if kind == "version 2":
            self._context.set_alpn_protos([ALPN.encode()])

    def attest(self) -> bool:
        """Ask once; whether there was an answer."""
        with socket.create_connection(("127.0.0.1", self._port), timeout=60) as plain:
            plain.settimeout(None)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = SSL.Connection(self._context, plain)
            connection.set_connect_state()
            connection.do_handshake()
            if self._kind == "version 2":
                self._send_evidence(connection)
            elif self._kind == "floor 2":
                self._attester.quote(bytes(64))
            elif self._kind == "version 1":
                connection.send(REQUEST)
            answer = b""
            try:
                while part := connection.recv(1 << 16):
                    answer += part
            except SSL.ZeroReturnError:
                connection.shutdown()
            except SSL.Error:
                pass
            return ANSWERS.get(self._kind, b"done") in answer

    def _send_evidence(self, connection: SSL.Connection) -> None:
        hello = cbor2.loads(connection.recv(1 << 12)[4:])
        request = cbor2.dumps({"deployment": "digits", "keys": []})
        exporter = connection.export_keying_material(EXPORTER_LABEL, 32)
        bound = broker_report_data(hello["nonce"], self._identity.spki_digest, exporter, request)
        frame = cbor2.dumps({"type": "evidence", "request": request, "quote": self._attester.quote(bound)})
        connection.sendall(len(frame).to_bytes(4, "big") + frame)


def main() -> None:
    told: dict[str, Any] = json.loads(sys.argv[1])
    enclaves = Enclaves(Path(told["platform"]), told["port"], told["kind"])
    enclaves.attest()
    left = told["count"]
    lock = threading.Lock()
    seconds: list[float] = []

    def work() -> None:
        nonlocal left
        while True:
            with lock:
                if left == 0:
                    return
                left -= 1
            started = time.perf_counter()
            try:
                answered = enclaves.attest()
            except (OSError, SSL.Error):
                answered = False
            if answered:
                seconds.append(time.perf_counter() - started)

    threads = [threading.Thread(target=work) for _ in range(told["at_once"])]
    print("ready", flush=True)
    sys.stdin.readline()
    started, before = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took, used = time.perf_counter() - started, time.process_time() - before
    print(json.dumps({"took": took, "cpu": used, "seconds": sorted(seconds)}))


if __name__ == "__main__":
    main()
