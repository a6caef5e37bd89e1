"""ECDSA signatures as SGX structures carry them: r and s, 32 bytes each, big-endian."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature


def sign_raw(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """The 64-byte signature of ``message`` under SHA-256."""
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def raw_public_key(key: ec.EllipticCurvePublicKey) -> bytes:
    """The point's coordinates x and y, 32 bytes each, big-endian."""
    numbers = key.public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
