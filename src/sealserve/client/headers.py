"""Request headers of a gRPC call as an HPACK block (RFC 7541; gRPC: github.com/grpc/grpc, PROTOCOL-HTTP2.md).

All are written as literals that no table keeps (section 6.2.2): a block depends on nothing that was sent before, what
a caller puts into metadata stays in no table, and the fixed part of a call is encoded once.
"""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Iterable

from sealserve import __version__
from sealserve.errors import InputError

NO_TABLE = b"\x20"
"""Sets the size of our table to zero (section 6.3); stands before the first block of a connection."""

MAX_BLOCK = 16_000
"""Bytes of headers that a call may have: gRPC servers take 16 KiB, and so does one frame."""

Metadata = tuple[tuple[str, str | bytes], ...]

_METHOD = re.compile(r"/[!-.0-~]+/[!-.0-~]+")
_NAME = re.compile(r"[0-9a-z_.-]+")
_VALUE = re.compile(r"[ -~]*")
# The call's own headers, and what HTTP/2 forbids (RFC 9113, section 8.2.2). Names with "grpc-" belong to gRPC.
_RESERVED = frozenset(
    {"te", "content-type", "user-agent", "host", "connection", "keep-alive", "proxy-connection"}
    | {"transfer-encoding", "upgrade", "content-length"}
)


@functools.lru_cache(maxsize=256)
def fixed_block(method: str, authority: str) -> bytes:
    """What every call of a method begins with.

    :param method: ``/package.Service/Method``.
    :raises InputError: it is no such name.
    """
    if not _METHOD.fullmatch(method):
        raise InputError(f"{method!r} is no gRPC method", hint="Write /package.Service/Method.")
    return b"".join(
        _literal(name.encode(), value.encode())
        for name, value in (
            (":method", "POST"),
            (":scheme", "https"),
            (":path", method),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", f"sealserve/{__version__}"),
        )
    )


def header_block(method: str, authority: str, seconds: float, metadata: Metadata = ()) -> bytes:
    """The headers of a call.

    :param seconds: left for the call; the server is told. :param metadata: see :func:`check_metadata`.
    :raises InputError: method or metadata cannot be sent.
    """
    milliseconds = min(max(int(seconds * 1000), 1), 99_999_999)
    block = fixed_block(method, authority) + _literal(b"grpc-timeout", b"%dm" % milliseconds)
    if metadata:
        block += b"".join(_literal(name.encode(), _wire_value(value)) for name, value in check_metadata(metadata))
    if len(block) > MAX_BLOCK:
        raise InputError(f"the call's metadata has more than {MAX_BLOCK} bytes", hint="Send less metadata.")
    return block


def check_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> Metadata:
    """Metadata that may stand in a header: text under a name, bytes under a name that ends in ``-bin``.

    :raises InputError: a name or value that could be taken for something else.
    """
    checked = []
    for name, value in metadata:
        if not _NAME.fullmatch(name):
            raise InputError(f"{name!r} is no name of metadata", hint="Use lower-case letters, digits and _.-")
        if name in _RESERVED or name.startswith("grpc-"):
            raise InputError(f"metadata cannot be called {name!r}", hint="The name belongs to HTTP/2 or gRPC.")
        binary = name.endswith("-bin")
        if binary != isinstance(value, bytes) or (isinstance(value, str) and not _VALUE.fullmatch(value)):
            raise InputError(f"the metadata {name} cannot be sent", hint="Text is printable ASCII; -bin takes bytes.")
        checked.append((name, value))
    return tuple(checked)


def read_metadata_value(name: str, value: bytes) -> str | bytes:
    """A header that arrived, as gRPC's users know it: bytes under ``-bin``, else text."""
    if name.endswith("-bin"):
        if value[:1] == b"\0":  # a server that read our settings sends it as it is
            return value[1:]
        try:
            return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
        except ValueError:
            return b""
    return value.decode("ascii", errors="replace")


def _wire_value(value: str | bytes) -> bytes:
    return value.encode("ascii") if isinstance(value, str) else base64.b64encode(value).rstrip(b"=")


def _literal(name: bytes, value: bytes) -> bytes:
    return b"\0" + _length(len(name)) + name + _length(len(value)) + value


def _length(number: int) -> bytes:
    """An integer with a prefix of seven bits (section 5.1); the eighth says that the text is not Huffman-coded."""
    if number < 127:
        return bytes([number])
    out, number = bytearray([127]), number - 127
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)
