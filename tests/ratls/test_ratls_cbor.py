from __future__ import annotations

import contextlib

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealserve.ratls import cbor

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5) | st.integers(-(2**63), 2**63) | st.binary(max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(values)
def test_what_is_encoded_comes_back(value: object) -> None:
    assert cbor.decode(cbor.encode(value)) == value


@given(st.binary(max_size=200))
def test_garbage_is_decoded_or_refused_and_never_anything_else(data: bytes) -> None:
    with contextlib.suppress(cbor.CborError):
        cbor.decode(data)


@given(values, st.integers(0, 300), st.integers(1, 255))
def test_a_changed_byte_is_decoded_or_refused_and_never_anything_else(value: object, place: int, change: int) -> None:
    data = bytearray(cbor.encode([value]))
    data[place % len(data)] ^= change
    with contextlib.suppress(cbor.CborError):
        cbor.decode(bytes(data))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "truncated"),
        (b"\x01\x02", "follows"),
        (b"\x18", "truncated"),
        (b"\x43ab", "truncated"),
        (b"\x9b\x7f\xff\xff\xff\xff\xff\xff\xff", "truncated"),
        (b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff", "truncated"),
        (b"\xbb\x7f\xff\xff\xff\xff\xff\xff\xff", "truncated"),
        (b"\x81" * 100_000 + b"\x01", "deeply"),
        (b"\xbf\x01\x02\xff", "indefinite"),
        (b"\x5f\x41a\xff", "indefinite"),
        (b"\x1c", "indefinite"),
        (b"\xfb\x7f\xf8" + bytes(6), "floating"),
        (b"\xf7", "floating"),
        (b"\xd8\x23\x64(a+)", "tag 35"),
        (b"\xd8\x1c\x81\xd8\x1d\x00", "tag 28"),
        (b"\xc2\x41\x01", "tag 2 "),
        (b"\xa2\x01\x02\x01\x03", "twice"),
        (b"\x81\xa2\x61a\x02\x61a\x03", "twice"),
        (b"\xa1\x81\x01\x02", "neither"),
        (b"\x61\xff", "invalid"),
    ],
)
def test_what_is_not_accepted_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(cbor.CborError, match=why):
        cbor.decode(data)


def test_only_tags_that_were_named_are_accepted() -> None:
    data = cbor2.dumps(cbor2.CBORTag(60000, [b"quote", b"claims"]))
    decoded = cbor.decode(data, tags=(60000,))
    assert decoded.tag == 60000
    assert list(decoded.value) == [b"quote", b"claims"]
    with pytest.raises(cbor.CborError):
        cbor.decode(data, tags=(60001,))
