"""SIGSTRUCT: what the signer of an enclave vouches for, and from which its measurement is known before it runs.

Source: Intel Software Developer's Manual, volume 3D, "Enclave Signature Structure (SIGSTRUCT)": 1,808 bytes,
little-endian integers. The signature is RSA-3072 with exponent 3, PKCS#1 version 1.5 with SHA-256, over bytes 0 to 127
and 900 to 1027; Q1 and Q2 are quotients that spare the processor divisions. The date is in binary-coded decimal.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from sealserve.errors import InputError, TrustError
from sealserve.evidence.explanations import attribute_names
from sealserve.files import read_file

SIZE = 1808
MODULUS_SIZE = 384
SIGNED = (slice(0, 128), slice(900, 1028))
HEADER = bytes.fromhex("06000000e10000000000010000000000")
HEADER_2 = bytes.fromhex("01010000600000006000000001000000")
DEBUG = 1 << 1
INTEL = 0x8086

_LAYOUT = struct.Struct("<16sI4s16s88x384sI384sII20x16s16s32s32xHH12x384s384s")
_RESERVED = (slice(44, 128), slice(910, 912), slice(992, 1008), slice(1028, 1040))


class SigstructError(InputError):
    """A file is no SIGSTRUCT, or a broken one."""


class SigstructSignatureError(TrustError):
    """The signature of a SIGSTRUCT does not hold: the processor would not start this enclave."""


@dataclass(frozen=True)
class Sigstruct:
    """A SIGSTRUCT whose signature holds.

    :param mrenclave: 32 bytes. :param mrsigner: 32 bytes. :param vendor: 0x8086 for Intel, and otherwise 0.
    :param date: as ``2026-07-13``; as it stands there if it is no date; None if it is left out.
    :param attributes: 16 bytes, and :param attributes_mask: which of them the signer insists on.
    :param misc_select: bits of MISCSELECT, and :param misc_mask: which of them the signer insists on.
    """

    mrenclave: bytes
    mrsigner: bytes
    isv_prod_id: int
    isv_svn: int
    attributes: bytes
    attributes_mask: bytes
    misc_select: int
    misc_mask: int
    vendor: int
    date: str | None

    @property
    def debug(self) -> bool:
        """Whether it is a debug enclave, whose memory the host can read."""
        return bool(self.attributes[0] & DEBUG)

    @property
    def debug_allowed(self) -> bool:
        """Whether the host may start it as a debug enclave: the signer insists on nothing else."""
        return self.debug or not self.attributes_mask[0] & DEBUG

    def as_dict(self) -> dict[str, Any]:
        """The values as scripts read them; bytes in hexadecimal."""
        return {
            "mrenclave": self.mrenclave.hex(),
            "mrsigner": self.mrsigner.hex(),
            "isv_prod_id": self.isv_prod_id,
            "isv_svn": self.isv_svn,
            "debug": self.debug,
            "debug_allowed": self.debug_allowed,
            "attributes": self.attributes.hex(),
            "attribute_names": attribute_names("sgx", self.attributes),
            "attributes_mask": self.attributes_mask.hex(),
            "misc_select": f"{self.misc_select:08x}",
            "misc_mask": f"{self.misc_mask:08x}",
            "vendor": "Intel" if self.vendor == INTEL else "not Intel",
            "date": self.date,
        }


def read_sigstruct(path: Path) -> Sigstruct:
    """Read a ``.sig`` file, as ``gramine-sgx-sign`` writes it, and check its signature.

    :raises SigstructError: it is none. :raises SigstructSignatureError: its signature does not hold.
    :raises InputError: it cannot be read.
    """
    return parse_sigstruct(read_file(path, limit=1 << 20), name=str(path))


def parse_sigstruct(data: bytes, *, name: str = "the SIGSTRUCT") -> Sigstruct:
    """Like :func:`read_sigstruct`, for what was read before.

    :param name: in errors.
    """
    if len(data) != SIZE:
        raise SigstructError(f"{name} has {len(data)} bytes, and a SIGSTRUCT has {SIZE}", hint=_HINT)
    header, vendor, date, header_2, modulus, exponent, signature, *body = _LAYOUT.unpack(data)
    misc_select, misc_mask, attributes, attributes_mask, mrenclave, isv_prod_id, isv_svn, q1, q2 = body
    if (header, header_2) != (HEADER, HEADER_2):
        raise SigstructError(f"{name} does not begin as a SIGSTRUCT does", hint=_HINT)
    if vendor not in {0, INTEL}:
        raise SigstructError(f"{name} names the vendor {vendor:#x}, and there are only 0 and {INTEL:#x}", hint=_HINT)
    if any(any(data[part]) for part in _RESERVED):
        raise SigstructError(f"{name} has something in a reserved field, which must be zero", hint=_HINT)
    _check_signature(
        data, name, modulus=_number(modulus), exponent=exponent, signature=_number(signature), quotients=(q1, q2)
    )
    return Sigstruct(
        mrenclave=mrenclave,
        mrsigner=hashlib.sha256(modulus).digest(),
        isv_prod_id=isv_prod_id,
        isv_svn=isv_svn,
        attributes=attributes,
        attributes_mask=attributes_mask,
        misc_select=misc_select,
        misc_mask=misc_mask,
        vendor=vendor,
        date=_date(date),
    )


def _check_signature(
    data: bytes, name: str, *, modulus: int, exponent: int, signature: int, quotients: tuple[bytes, bytes]
) -> None:
    if exponent != 3 or modulus.bit_length() != 8 * MODULUS_SIZE or not 0 < signature < modulus:
        raise SigstructError(f"{name} holds no RSA-3072 key with exponent 3, or no signature by it", hint=_HINT)
    try:
        key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
        key.verify(
            signature.to_bytes(MODULUS_SIZE, "big"),
            b"".join(data[part] for part in SIGNED),
            padding.PKCS1v15(),
            hashes.SHA256(),
        )
    except (InvalidSignature, ValueError):
        raise SigstructSignatureError(
            f"the signature in {name} does not hold: what it says was changed, or it was not signed", hint=_SIGN
        ) from None
    square = signature * signature
    expected = (square // modulus, square % modulus * signature // modulus)
    if (_number(quotients[0]), _number(quotients[1])) != expected:
        raise SigstructSignatureError(
            f"Q1 or Q2 in {name} is not what belongs to the signature: the processor would refuse the enclave",
            hint=_SIGN,
        )


def _number(field: bytes) -> int:
    return int.from_bytes(field, "little")


def _date(field: bytes) -> str | None:
    if not any(field):
        return None
    digits = field[::-1].hex()
    return f"{digits[:4]}-{digits[4:6]}-{digits[6:]}" if digits.isdecimal() else digits


_HINT = "Give the .sig file that `gramine-sgx-sign` wrote beside the signed manifest."
_SIGN = "Sign the image again, and find out who changed the file."
