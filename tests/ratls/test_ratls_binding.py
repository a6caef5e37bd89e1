from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealserve.ratls.binding import broker_report_data, client_report_data

NONCE = bytes(range(32))
SPKI = bytes(range(32, 64))
EXPORTER = bytes(range(64, 96))

three = st.lists(st.binary(min_size=32, max_size=32), min_size=3, max_size=3)


def test_client_report_data_is_as_documented() -> None:
    plain = b"\x1csealserve/client-evidence/v1" + NONCE + SPKI + (3).to_bytes(8, "big") + b"abc"
    assert client_report_data(NONCE, SPKI, b"abc") == hashlib.sha512(plain).digest()
    assert client_report_data(NONCE, SPKI, b"abc").hex() == (
        "c5564b015f2b889a4c45e6d21b4cf26d3865ac773093f6433e5c43b24b5ac175"
        "8294b17447bff45fbcd313161160a7c3b6923d2d112a0bd1edc3383137097f0f"
    )


def test_broker_report_data_is_as_documented() -> None:
    plain = b"\x1csealserve/broker-evidence/v2" + NONCE + SPKI + EXPORTER + (3).to_bytes(8, "big") + b"abc"
    assert broker_report_data(NONCE, SPKI, EXPORTER, b"abc") == hashlib.sha512(plain).digest()
    assert broker_report_data(NONCE, SPKI, EXPORTER, b"abc").hex() == (
        "a3227037b35e8aa761a1323b79d0686d9bbf17e4ef5a666334c7e897b2c501cf"
        "8a423ac50b9d19fdc98990dbc8f0dcfb336a2b03b5c4e03136ecf491941e0f4d"
    )


@given(three, three, st.binary(max_size=100), st.binary(max_size=100))
def test_different_inputs_give_different_report_data(
    one: list[bytes], other: list[bytes], request: bytes, other_request: bytes
) -> None:
    same = (one, request) == (other, other_request)
    assert (broker_report_data(*one, request) == broker_report_data(*other, other_request)) is same


@given(three, st.binary(max_size=100))
def test_evidence_for_a_client_never_passes_for_evidence_for_the_broker(fields: list[bytes], tail: bytes) -> None:
    # What the broker's evidence has between the key and the length could be the start of a client's claims.
    nonce, spki, exporter = fields
    for claims in (tail, exporter + tail, exporter + len(tail).to_bytes(8, "big") + tail):
        assert client_report_data(nonce, spki, claims) != broker_report_data(nonce, spki, exporter, tail)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_field_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        client_report_data(bytes(size), SPKI, b"")
    with pytest.raises(ValueError, match="32 bytes"):
        client_report_data(NONCE, bytes(size), b"")
    with pytest.raises(ValueError, match="32 bytes"):
        broker_report_data(NONCE, SPKI, bytes(size), b"")


def test_the_documents_show_these_vectors() -> None:
    documents = Path(__file__).parents[2] / "docs"
    text = "".join((documents / name).read_text() for name in ("attestation-protocol.md", "broker-protocol.md"))
    written = "".join(text.split())
    for report_data in (client_report_data(NONCE, SPKI, b"abc"), broker_report_data(NONCE, SPKI, EXPORTER, b"abc")):
        assert report_data.hex() in written
