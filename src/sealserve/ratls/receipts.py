"""Receipts: an enclave's signature over what it was asked, what it answered, and which model did.

A receipt is a COSE_Sign1 (RFC 9052, section 4.2) with ES256 over a statement in deterministic CBOR. The key is made in
the enclave for nothing else, and named in the claims that the enclave's evidence is bound to. ``docs/receipts.md``
specifies it, with a test vector; ADR 63 says why there is a key of its own.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, fields
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from sealserve.errors import EvidenceError
from sealserve.ratls.cbor import CborError, decode, encode

TYPE = "sealserve/receipt/v1"
SHORTEST_NONCE, LONGEST_NONCE = 16, 64
MAX_SIZE = 4096
"""Bytes of a receipt. It travels in a header."""

_DIGEST = 32
_SCALAR = 32  # bytes of r and of s in an ES256 signature
_MOST_TEXT = 1024


class ReceiptMalformedError(EvidenceError):
    """The bytes are no receipt of a version that is known here."""


class ReceiptSignatureError(EvidenceError):
    """A receipt is not signed by the key that it must be signed by."""


@dataclass(frozen=True)
class Statement:
    """What a receipt says. Digests are SHA-256, 32 bytes.

    :param method: path of the gRPC method: ``/package.Service/Method``.
    :param request: digest of the request message, serialized, as it arrived. :param answer: and of the answer as sent.
    :param model: name of the model that answered. :param version: its version.
    :param digest: of the sealed model that it was loaded from.
    :param time: milliseconds since 1970 UTC, by the clock that the enclave sees, which is the host's.
    :param nonce: the client's, 16 to 64 bytes.
    :param tls_key: digest of the SubjectPublicKeyInfo (DER) of the replica's TLS key.
    """

    method: str
    request: bytes
    answer: bytes
    model: str
    version: int
    digest: bytes
    time: int
    nonce: bytes
    tls_key: bytes


@dataclass(frozen=True)
class SignedStatement:
    """A receipt that was read. Nothing of it is believed before :meth:`verify`.

    :param key_id: SHA-256 of the SubjectPublicKeyInfo of the key that it says it is signed with.
    """

    statement: Statement
    key_id: bytes
    data: bytes
    _signed: bytes
    _signature: bytes

    def verify(self, public_key: bytes) -> Statement:
        """The statement, if it is signed by this key.

        :param public_key: SubjectPublicKeyInfo in DER, of a key on P-256.
        :raises ReceiptSignatureError: it is signed by another key, or was changed, or that is no such key.
        """
        key, named = _load(public_key)
        if named != self.key_id:
            raise ReceiptSignatureError(
                "the receipt is signed by another key than the one that the evidence names",
                hint="It is of another replica, or of the same before it was started anew.",
            )
        halves = (int.from_bytes(self._signature[:_SCALAR], "big"), int.from_bytes(self._signature[_SCALAR:], "big"))
        try:
            key.verify(encode_dss_signature(*halves), self._signed, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            raise ReceiptSignatureError(
                "the receipt's signature is not that of the key that the evidence names"
            ) from None
        return self.statement


def key_id(public_key: bytes) -> bytes:
    """The name of a key: SHA-256 of its SubjectPublicKeyInfo (DER)."""
    return hashlib.sha256(public_key).digest()


def encode_public_key(key: ec.EllipticCurvePublicKey) -> bytes:
    """SubjectPublicKeyInfo in DER, as claims carry it."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def sign(statement: Statement, key: ec.EllipticCurvePrivateKey, named: bytes) -> bytes:
    """A receipt. :param key: on P-256, used for receipts only. :param named: its :func:`key_id`.

    :raises ValueError: the receipt would not fit into a header, or no receipt could say this.
    """
    content: dict[str, Any] = {"type": TYPE} | vars(statement)
    if not _is_statement(content):
        raise ValueError("not a statement of a receipt")
    payload = encode(content)
    r, s = decode_dss_signature(key.sign(_signed_bytes(named, payload), ec.ECDSA(hashes.SHA256())))
    data = _sign1(named, payload, r.to_bytes(_SCALAR, "big") + s.to_bytes(_SCALAR, "big"))
    if len(data) > MAX_SIZE:
        raise ValueError("the receipt is too large for a header")
    return data


def read(data: bytes) -> SignedStatement:
    """Read a receipt from a stranger.

    :raises ReceiptMalformedError: it is none, or not in its one deterministic encoding.
    """
    if len(data) > MAX_SIZE:
        raise ReceiptMalformedError(f"the receipt has {len(data)} bytes, and may have {MAX_SIZE}")
    # Everything but the payload has a fixed place; whether what stands there is right, putting it together again tells.
    named, length = data[len(_BEFORE_KEY) :][:_DIGEST], data[_PAYLOAD_AT : _PAYLOAD_AT + 1]
    payload = data[_PAYLOAD_AT + (2 if length == b"\x58" else 3) : -len(_BEFORE_SIGNATURE) - 2 * _SCALAR]
    signature = data[-2 * _SCALAR :]
    if _sign1(named, payload, signature) != data or len(named) != _DIGEST:
        raise ReceiptMalformedError("this is no receipt: no COSE_Sign1 with ES256, a key's name and one encoding")
    try:
        content = decode(payload)
    except CborError as error:
        raise ReceiptMalformedError(f"the receipt's statement is malformed: {error}") from error
    if isinstance(content, dict) and content.get("type") != TYPE:
        raise ReceiptMalformedError(
            f"this is not a receipt of the type {TYPE}", hint="A newer release of sealserve may know its type."
        )
    if not isinstance(content, dict) or not _is_statement(content):
        raise ReceiptMalformedError("the receipt lacks a field, has one too many, or one that is malformed")
    if encode(content) != payload:
        raise ReceiptMalformedError("the receipt's statement is not in the deterministic encoding")
    del content["type"]
    return SignedStatement(Statement(**content), named, data, _signed_bytes(named, payload), signature)


# The deterministic encoding of COSE_Sign1 (RFC 9052, section 4.2) and of what it signs (section 4.4), around the name
# of the key, the payload and the signature: tag 18, [<< {1: -7, 4: name} >>, {}, payload, signature].
_PROTECTED = bytes.fromhex("a2 01 26 04 5820")
_BEFORE_KEY = bytes.fromhex("d2 84 5826") + _PROTECTED
_BEFORE_SIGNATURE = bytes.fromhex("5840")
_PAYLOAD_AT = len(_BEFORE_KEY) + _DIGEST + 1
_BEFORE_SIGNED_KEY = bytes.fromhex("84 6a") + b"Signature1" + bytes.fromhex("5826") + _PROTECTED


def _sign1(named: bytes, payload: bytes, signature: bytes) -> bytes:
    return b"".join((_BEFORE_KEY, named, b"\xa0", encode(payload), _BEFORE_SIGNATURE, signature))


def _signed_bytes(named: bytes, payload: bytes) -> bytes:
    return b"".join((_BEFORE_SIGNED_KEY, named, b"\x40", encode(payload)))


@functools.lru_cache(maxsize=64)
def _load(public_key: bytes) -> tuple[ec.EllipticCurvePublicKey, bytes]:
    """A key out of claims, and its name; a client sees the same ones again and again."""
    try:
        key = load_der_public_key(public_key)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ReceiptSignatureError("the evidence's receipt key cannot be read") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ReceiptSignatureError("the evidence's receipt key is not on P-256")
    return key, key_id(public_key)


_NUMBERS = {"version": 1 << 63, "time": 1 << 43}  # the latter is in the year 2248: every library has dates until then
_NAMES = frozenset({"type", *(field.name for field in fields(Statement))})


def _is_statement(content: dict[Any, Any]) -> bool:
    return (
        content.keys() == _NAMES
        and all(_is_digest(content[name]) for name in ("request", "answer", "digest", "tls_key"))
        and all(_is_text(content[name]) for name in ("method", "model"))
        and all(type(content[name]) is int and 0 <= content[name] < most for name, most in _NUMBERS.items())
        and isinstance(content["nonce"], bytes)
        and SHORTEST_NONCE <= len(content["nonce"]) <= LONGEST_NONCE
    )


def _is_digest(value: Any) -> bool:
    return isinstance(value, bytes) and len(value) == _DIGEST


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MOST_TEXT
