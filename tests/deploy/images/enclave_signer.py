"""A signer of SIGSTRUCTs for tests, written from Intel's manual (volume 3D) and sharing nothing with the reader."""

from __future__ import annotations

import functools
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa


@functools.cache
def signing_key(number: int) -> rsa.RSAPrivateKey:
    """An RSA-3072 key with exponent 3; the same for the same number."""
    return rsa.generate_private_key(public_exponent=3, key_size=3072)


@functools.cache
def signed() -> bytes:
    """A SIGSTRUCT with nothing special about it."""
    return sign()


def sign(
    *,
    mrenclave: bytes = b"\x5a" * 32,
    isv_prod_id: int = 1,
    isv_svn: int = 1,
    debug: bool = False,
    insist_on_debug_bit: bool = True,
    date: str = "20260713",
    vendor: int = 0,
    key: int = 0,
    **wrong: Any,
) -> bytes:
    """The 1,808 bytes of a SIGSTRUCT.

    :param wrong: ``header=``, ``exponent=`` …: bytes that stand in the place of the right ones before signing.
    """
    numbers = signing_key(key).private_numbers()
    modulus = numbers.public_numbers.n
    flags = 0x4 | (0x2 if debug else 0)
    mask = 0xFFFFFFFFFFFFFFFF if insist_on_debug_bit else 0xFFFFFFFFFFFFFFFD
    head = b"".join(
        [
            wrong.get("header", b"\x06\0\0\0\xe1\0\0\0\0\0\1\0\0\0\0\0"),
            vendor.to_bytes(4, "little"),
            bytes.fromhex(date)[::-1],
            b"\1\1\0\0\x60\0\0\0\x60\0\0\0\1\0\0\0",
            bytes(4),
            wrong.get("reserved", bytes(84)),
        ]
    )
    body = b"".join(
        [
            bytes(4),
            b"\xff" * 4,
            bytes(4),
            bytes(16),
            flags.to_bytes(8, "little") + (3).to_bytes(8, "little"),
            mask.to_bytes(8, "little") + (0xFFFFFFFFFFFFFF1B).to_bytes(8, "little"),
            mrenclave,
            bytes(32),
            isv_prod_id.to_bytes(2, "little"),
            isv_svn.to_bytes(2, "little"),
        ]
    )
    raw = signing_key(key).sign(head + body, padding.PKCS1v15(), hashes.SHA256())
    signature = int.from_bytes(raw, "big")
    q1, rest = divmod(signature**2, modulus)
    q2 = rest * signature // modulus
    numbers_in_order = [modulus, None, signature]
    middle = b"".join(
        wrong.get("exponent", b"\3\0\0\0") if number is None else number.to_bytes(384, "little")
        for number in numbers_in_order
    )
    return head + middle + body + bytes(12) + q1.to_bytes(384, "little") + q2.to_bytes(384, "little")
