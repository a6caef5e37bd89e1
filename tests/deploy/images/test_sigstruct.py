from __future__ import annotations

import hashlib

import pytest
from enclave_signer import sign, signed, signing_key
from hypothesis import example, given
from hypothesis import strategies as st

from sealserve.deploy.images.sigstruct import (
    SIZE,
    SigstructError,
    SigstructSignatureError,
    parse_sigstruct,
    read_sigstruct,
)
from sealserve.errors import InputError, SealserveError


def test_what_was_signed_is_read() -> None:
    read = parse_sigstruct(sign(mrenclave=bytes(range(32)), isv_prod_id=258, isv_svn=772, date="20260713"))
    modulus = signing_key(0).public_key().public_numbers().n.to_bytes(384, "little")
    assert read.mrenclave == bytes(range(32))
    assert read.mrsigner == hashlib.sha256(modulus).digest()
    assert (read.isv_prod_id, read.isv_svn) == (258, 772)
    assert read.date == "2026-07-13"
    assert (read.debug, read.debug_allowed) == (False, False)
    assert read.as_dict()["attribute_names"] == ["MODE64BIT"]
    assert read.as_dict()["misc_mask"] == "ffffffff"


def test_debug_is_told_and_so_is_a_signer_that_does_not_forbid_it() -> None:
    assert parse_sigstruct(sign(debug=True)).debug
    lax = parse_sigstruct(sign(insist_on_debug_bit=False))
    assert (lax.debug, lax.debug_allowed) == (False, True)


def test_two_keys_are_two_signers() -> None:
    assert parse_sigstruct(sign(key=0)).mrsigner != parse_sigstruct(sign(key=1)).mrsigner


@given(bit=st.integers(0, 8 * SIZE - 1))
@example(bit=8 * 24)
@example(bit=8 * 512)
@example(bit=8 * 1027 + 7)
@example(bit=8 * 1030)
@example(bit=8 * SIZE - 1)
def test_no_bit_can_be_changed(bit: int) -> None:
    data = bytearray(signed())
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises((SigstructError, SigstructSignatureError)):
        parse_sigstruct(bytes(data))


@given(data=st.binary(max_size=2 * SIZE) | st.binary(min_size=SIZE, max_size=SIZE))
def test_no_other_bytes_are_taken_for_one(data: bytes) -> None:
    with pytest.raises(SigstructError):
        parse_sigstruct(data)


@pytest.mark.parametrize("size", [0, 1, 1807, 1809, 4096])
def test_a_wrong_size_is_told(size: int) -> None:
    with pytest.raises(SigstructError, match=f"has {size} bytes, and a SIGSTRUCT has 1808"):
        parse_sigstruct((signed() * 3)[:size])


def test_a_signature_by_nobody_is_no_signature() -> None:
    data = bytearray(signed())
    for size in (384, 0):
        data[516 : 516 + 384] = bytes(384) if size else data[128 : 128 + 384]  # zero, and the modulus itself
        with pytest.raises(SigstructError):
            parse_sigstruct(bytes(data))


def test_another_signers_key_cannot_be_put_in() -> None:
    data = bytearray(sign(key=0))
    data[128 : 128 + 384] = sign(key=1)[128 : 128 + 384]
    with pytest.raises(SealserveError):
        parse_sigstruct(bytes(data))


@pytest.mark.parametrize(
    "wrong",
    [
        {"vendor": 0x1234},
        {"reserved": bytes(83) + b"\1"},
        {"exponent": b"\1\0\1\0"},
        {"header": bytes(16)},
    ],
)
def test_constants_are_checked_though_the_signature_holds(wrong: dict[str, bytes]) -> None:
    with pytest.raises(SigstructError):
        parse_sigstruct(sign(**wrong))  # type: ignore[arg-type]


def test_a_date_that_is_none_is_shown_as_it_stands() -> None:
    assert parse_sigstruct(sign(date="0e04e7f7")).date == "0e04e7f7"
    assert parse_sigstruct(sign(date="00000000")).date is None


def test_a_missing_file_is_an_input_error(tmp_path) -> None:
    with pytest.raises(InputError):
        read_sigstruct(tmp_path / "nothing.sig")
