"""A DNS server that answers questions for addresses of a few names with the addresses of the moment (RFC 1035)."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

from sealserve.addresses import Address

_TTL = 300  # long, so that whoever asks again does so for another reason
_ADDRESS = 1


class DnsServer:
    """Listens on loopback, until it is closed. :ivar addresses: what it answers, by name."""

    def __init__(self, *names: str) -> None:
        self._names = {_encoded(name): name for name in names}
        self.addresses: dict[str, list[str]] = {name: [] for name in names}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address = Address("127.0.0.1", self._socket.getsockname()[1])
        self._socket.settimeout(0.05)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(TimeoutError):
                question, sender = self._socket.recvfrom(512)
                self._socket.sendto(self._answer(question), sender)

    def _answer(self, question: bytes) -> bytes:
        end = question.index(b"\0", 12) + 1
        kind, _ = struct.unpack(">HH", question[end : end + 4])
        name = self._names.get(question[12:end])
        found = self.addresses[name] if name is not None and kind == _ADDRESS else []
        header = question[:2] + struct.pack(">HHHHH", 0x8183 if name is None else 0x8180, 1, len(found), 0, 0)
        records = [
            b"\xc0\x0c" + struct.pack(">HHIH", _ADDRESS, 1, _TTL, 4) + socket.inet_aton(address) for address in found
        ]
        return header + question[12 : end + 4] + b"".join(records)

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        self._socket.close()


def _encoded(name: str) -> bytes:
    return b"".join(struct.pack("B", len(label)) + label.encode() for label in name.split(".")) + b"\0"
