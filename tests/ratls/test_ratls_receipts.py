"""Receipts as bytes: what is signed, and that nothing else than that is read."""

from __future__ import annotations

import hashlib
import re
from dataclasses import fields, replace
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from sealserve.errors import EvidenceError
from sealserve.ratls.receipts import (
    MAX_SIZE,
    ReceiptMalformedError,
    ReceiptSignatureError,
    Statement,
    encode_public_key,
    key_id,
    read,
    sign,
)

KEY = ec.derive_private_key(0x5EA15E4E, ec.SECP256R1())
PUBLIC = encode_public_key(KEY.public_key())
STATEMENT = Statement(
    method="/tensorflow.serving.PredictionService/Predict",
    request=bytes(range(32)),
    answer=bytes(range(32, 64)),
    model="classifier",
    version=3,
    digest=bytes(range(64, 96)),
    time=1_750_000_000_123,
    nonce=bytes(range(96, 128)),
    tls_key=bytes(range(128, 160)),
)
RECEIPT = sign(STATEMENT, KEY, key_id(PUBLIC))
# What docs/receipts.md gives for other implementations.
VECTOR_PAYLOAD = "5449141e58a99e9d"


def sign1(protected: object, unprotected: object, payload: object, signature: object) -> bytes:
    return cbor2.dumps(cbor2.CBORTag(18, [protected, unprotected, payload, signature]), canonical=True)


def parts(receipt: bytes = RECEIPT) -> list:
    return list(cbor2.loads(receipt).value)


def changed(**content: object) -> bytes:
    """A receipt whose payload has other fields, signed rightly by the key all the same; None removes one."""
    protected, unprotected, payload, _ = parts()
    new = {name: value for name, value in (cbor2.loads(payload) | content).items() if value is not None}
    return sign1(protected, unprotected, cbor2.dumps(new, canonical=True), bytes(64))


def test_a_receipt_says_what_was_signed_and_by_whom() -> None:
    signed = read(RECEIPT)
    assert signed.statement == STATEMENT
    assert signed.key_id == hashlib.sha256(PUBLIC).digest()
    assert signed.verify(PUBLIC) == STATEMENT


def test_another_implementation_of_cose_would_sign_the_same_bytes() -> None:
    """From the words of RFC 9052, with nothing of ours but the receipt."""
    protected, unprotected, payload, signature = parts()
    assert cbor2.loads(protected) == {1: -7, 4: key_id(PUBLIC)}
    assert unprotected == {}
    content = cbor2.loads(payload)
    assert content.pop("type") == "sealserve/receipt/v1"
    assert content == vars(STATEMENT)
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    to_be_signed = cbor2.dumps(["Signature1", protected, b"", payload])
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    KEY.public_key().verify(encode_dss_signature(r, s), to_be_signed, ec.ECDSA(hashes.SHA256()))


def test_the_statement_of_the_test_vector_has_one_encoding() -> None:
    _, _, payload, _ = parts()
    assert hashlib.sha256(payload).hexdigest()[:16] == VECTOR_PAYLOAD


def test_the_documented_vector_is_a_receipt() -> None:
    text = (
        (Path(__file__).parents[2] / "docs" / "receipts.md").read_text(encoding="utf-8").partition("## Test vector")[2]
    )
    named = {}
    for block in re.findall(r"(receipt key|statement|signature) +((?:[0-9a-f]+\s+)+)", text):
        named[block[0]] = bytes.fromhex(block[1])
    assert named["receipt key"] == PUBLIC
    assert named["statement"] == parts()[2]
    receipt = sign1(parts()[0], {}, named["statement"], named["signature"])
    assert read(receipt).verify(named["receipt key"]) == STATEMENT


def test_a_flipped_bit_anywhere_is_refused() -> None:
    for position in range(len(RECEIPT)):
        damaged = bytearray(RECEIPT)
        damaged[position] ^= 1 << (position % 8)
        with pytest.raises(EvidenceError):
            read(bytes(damaged)).verify(PUBLIC)


@pytest.mark.parametrize("name", [field.name for field in fields(Statement)])
def test_every_field_is_under_the_signature(name: str) -> None:
    value = getattr(STATEMENT, name)
    other = value + 1 if isinstance(value, int) else value[:-1] + ("x" if isinstance(value, str) else b"x")
    _, _, payload, _ = parts(sign(replace(STATEMENT, **{name: other}), KEY, key_id(PUBLIC)))
    protected, unprotected, _, signature = parts()
    with pytest.raises(ReceiptSignatureError):
        read(sign1(protected, unprotected, payload, signature)).verify(PUBLIC)


def test_another_key_is_refused_also_under_the_right_name() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    for forged in (sign(STATEMENT, other, key_id(PUBLIC)), sign(STATEMENT, KEY, key_id(b"another"))):
        with pytest.raises(ReceiptSignatureError):
            read(forged).verify(PUBLIC)


@pytest.mark.parametrize(
    "public",
    [
        b"",
        b"\x30\x03\x02\x01\x01",
        encode_public_key(ec.generate_private_key(ec.SECP384R1()).public_key()),
        ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    ],
    ids=["empty", "an integer", "P-384", "Ed25519"],
)
def test_what_is_no_key_on_p256_verifies_nothing(public: bytes) -> None:
    protected = cbor2.dumps({1: -7, 4: key_id(public)}, canonical=True)
    receipt = sign1(protected, {}, *parts()[2:])
    with pytest.raises(ReceiptSignatureError):
        read(receipt).verify(public)


@pytest.mark.parametrize("scalar", [0, (1 << 256) - 1])
def test_a_signature_of_nothing_is_refused(scalar: int) -> None:
    half = scalar.to_bytes(32, "big")
    with pytest.raises(ReceiptSignatureError):
        read(sign1(*parts()[:3], half + half)).verify(PUBLIC)


@pytest.mark.parametrize(
    "content",
    [
        {"type": "sealserve/receipt/v2"},
        {"type": None},
        {"nonce": None},
        {"nonce": bytes(15)},
        {"nonce": bytes(65)},
        {"nonce": "text that is long enough"},
        {"version": -1},
        {"version": True},
        {"version": 1 << 63},
        {"time": "2026"},
        {"time": 1 << 43},
        {"digest": bytes(31)},
        {"request": "x" * 32},
        {"method": ""},
        {"model": b"classifier"},
        {"model": "m" * 1025},
        {"another": 1},
        {7: 1},
    ],
    ids=str,
)
def test_a_statement_with_other_fields_is_malformed(content: dict) -> None:
    with pytest.raises(ReceiptMalformedError):
        read(changed(**content) if 7 not in content else changed(x=1))
    assert read(changed()).statement == STATEMENT


def test_other_headers_and_algorithms_are_malformed() -> None:
    _, _, payload, signature = parts()
    named = key_id(PUBLIC)
    for header in ({1: -7}, {4: named}, {1: -8, 4: named}, {1: -7, 4: b"short"}, {1: -7, 4: named, 2: [4]}, [1, -7]):
        with pytest.raises(ReceiptMalformedError):
            read(sign1(cbor2.dumps(header, canonical=True), {}, payload, signature))
    protected = parts()[0]
    for unprotected in ({1: -8}, {4: named}, [], None):
        with pytest.raises(ReceiptMalformedError):
            read(sign1(protected, unprotected, payload, signature))
    for short in (b"", signature[:-1], signature + b"\0"):
        with pytest.raises(ReceiptMalformedError):
            read(sign1(protected, {}, payload, short))


def test_an_encoding_that_is_not_the_deterministic_one_is_malformed() -> None:
    protected, unprotected, payload, signature = parts()
    content = cbor2.loads(payload)
    backwards = cbor2.dumps(dict(reversed(list(content.items()))))
    assert cbor2.loads(backwards) == content
    longer = cbor2.dumps(cbor2.CBORTag(18, [protected, unprotected, payload, signature]))
    longer = b"\xd8\x12" + longer[1:]  # the tag's number in two bytes
    assert cbor2.loads(longer) == cbor2.loads(RECEIPT)
    for receipt in (sign1(protected, {}, backwards, signature), longer, RECEIPT + b"\0", RECEIPT[1:]):
        with pytest.raises(ReceiptMalformedError):
            read(receipt)


def test_truncated_oversized_and_deeply_nested_receipts_are_malformed() -> None:
    for size in range(len(RECEIPT)):
        with pytest.raises(ReceiptMalformedError):
            read(RECEIPT[:size])
    protected, _, payload, signature = parts()
    for receipt in (
        b"\xd2\x84" + b"\x81" * 2000,
        b"\x81" * (MAX_SIZE + 1),
        b"\xd2" * 3000,
        b"\xd2\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
        sign1(protected, {}, payload + bytes(MAX_SIZE), signature),
        sign1(protected, {}, b"\xa1" * 1000, signature),
        sign1(b"\x81" * 1000, {}, payload, signature),
    ):
        with pytest.raises(ReceiptMalformedError):
            read(receipt)


@given(st.binary(max_size=600))
def test_arbitrary_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    with pytest.raises(ReceiptMalformedError):
        read(data)


_ITEMS = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 64), (1 << 64) - 1) | st.binary(max_size=40) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.integers(0, 9), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(_ITEMS, _ITEMS, _ITEMS, _ITEMS)
def test_arbitrary_items_in_the_place_of_the_parts_are_refused(a: object, b: object, c: object, d: object) -> None:
    protected, unprotected, payload, signature = parts()
    receipts = [
        sign1(a, b, c, d),
        sign1(cbor2.dumps(a, canonical=True), unprotected, payload, signature),
        sign1(protected, unprotected, cbor2.dumps(c, canonical=True), signature),
    ]
    for receipt in receipts:
        with pytest.raises(EvidenceError):
            read(receipt).verify(PUBLIC)


def test_what_no_receipt_could_say_is_not_signed() -> None:
    for wrong in ({"nonce": bytes(3)}, {"digest": b""}, {"model": ""}, {"version": -1}):
        with pytest.raises(ValueError, match="statement"):
            sign(replace(STATEMENT, **wrong), KEY, key_id(PUBLIC))
    with pytest.raises(ValueError, match="header"):
        sign(replace(STATEMENT, model="\N{SNOWMAN}" * 1024, method="\N{SNOWMAN}" * 1024), KEY, key_id(PUBLIC))
