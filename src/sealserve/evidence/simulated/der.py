"""Just enough of DER (ITU-T X.690) to write the SGX extension of a PCK certificate."""

from __future__ import annotations


def _element(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        length = bytes([size])
    else:
        octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
        length = bytes([0x80 | len(octets)]) + octets
    return bytes([tag]) + length + content


def sequence(*elements: bytes) -> bytes:
    """A SEQUENCE of already encoded elements."""
    return _element(0x30, b"".join(elements))


def object_identifier(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER such as ``"1.2.840.113741.1.13.1"``."""
    first, second, *rest = (int(part) for part in dotted.split("."))
    content = bytearray()
    for arc in (40 * first + second, *rest):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(0x80 | arc & 0x7F)
        content += bytes(reversed(groups))
    return _element(0x06, bytes(content))


def octet_string(value: bytes) -> bytes:
    """An OCTET STRING."""
    return _element(0x04, value)


def integer(value: int) -> bytes:
    """A non-negative INTEGER."""
    return _element(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def enumerated(value: int) -> bytes:
    """An ENUMERATED of one octet (0..127)."""
    return _element(0x0A, value.to_bytes(1, "big"))


def boolean(value: bool) -> bytes:
    """A BOOLEAN."""
    return _element(0x01, b"\xff" if value else b"\x00")
