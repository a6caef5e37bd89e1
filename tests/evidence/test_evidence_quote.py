"""The quote parser: strict, bounded, and independent of any verifier."""

from __future__ import annotations

import struct

import pytest
from evidence_corpus import ENCLAVE, REPORT_DATA
from hypothesis import given
from hypothesis import strategies as st

from sealserve.evidence import SimulatedPlatform, parse_quote
from sealserve.evidence.certificate_chain import parse_sgx_extension
from sealserve.evidence.description import describe, read_quote_file
from sealserve.evidence.errors import QuoteMalformedError, QuoteUnsupportedError
from sealserve.evidence.quote import QUOTE_LIMIT, EnclaveReport
from sealserve.evidence.simulated.pck_extension import sgx_extension
from sealserve.evidence.simulated.profile import CURRENT_SVNS, PlatformProfile


def test_every_field_is_read(platform: SimulatedPlatform, quote: bytes) -> None:
    parsed = parse_quote(quote)
    assert isinstance(parsed.report, EnclaveReport)
    assert parsed.tee == "sgx"
    assert parsed.header.version == 3
    assert parsed.report.mrenclave == ENCLAVE.mrenclave
    assert parsed.report.mrsigner == ENCLAVE.mrsigner
    assert parsed.report.isv_prod_id == 7
    assert parsed.report.isv_svn == 3
    assert not parsed.report.debug
    assert parsed.report_data == REPORT_DATA
    assert parsed.authentication_data == bytes(range(32))
    assert parsed.chain.leaf.serial_number == platform.machine.pck_serial
    assert parsed.chain.extension.ppid == platform.profile.ppid
    assert parsed.chain.extension.cpu_svn == bytes(CURRENT_SVNS)
    assert parsed.chain.extension.pce_svn == 13
    assert parsed.size == len(quote)


@given(st.binary(max_size=2000))
def test_arbitrary_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(QuoteMalformedError):
        parse_quote(data)


@given(st.data())
def test_a_changed_quote_is_read_or_malformed(quote: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(quote)))
    end = data.draw(st.integers(start, min(len(quote), start + 50)))
    changed = quote[:start] + data.draw(st.binary(max_size=60)) + quote[end:]
    try:
        parsed = parse_quote(changed)
    except QuoteMalformedError:
        return
    describe(parsed)


@given(st.binary(max_size=400))
def test_an_arbitrary_extension_is_malformed(data: bytes) -> None:
    with pytest.raises(QuoteMalformedError):
        parse_sgx_extension(data)


@given(st.integers(0, 400), st.integers(1, 255))
def test_a_changed_extension_is_read_or_malformed(position: int, flip: int) -> None:
    value = bytearray(sgx_extension(PlatformProfile(ppid=bytes(16)), platform_instance_id=bytes(16)))
    value[position] ^= flip
    try:
        extension = parse_sgx_extension(bytes(value))
    except QuoteMalformedError:
        return
    assert (len(extension.ppid), len(extension.cpu_svn), len(extension.fmspc)) == (16, 16, 6)


@pytest.mark.parametrize("size", [0, 1, 47, 48, 431, 435, 436, 1000])
def test_a_truncated_quote_is_malformed(quote: bytes, size: int) -> None:
    with pytest.raises(QuoteMalformedError, match="truncated"):
        parse_quote(quote[:size])


def test_an_oversized_quote_is_not_looked_at() -> None:
    with pytest.raises(QuoteMalformedError, match="more than"):
        parse_quote(bytes(QUOTE_LIMIT + 1))


def test_zeros_after_the_quote_are_padding_and_nothing_else_is(quote: bytes) -> None:
    assert parse_quote(quote + bytes(100)).report_data == REPORT_DATA
    with pytest.raises(QuoteMalformedError, match="too many"):
        parse_quote(quote + bytes(100) + b"x")


@pytest.mark.parametrize(
    ("offset", "value", "why"),
    [
        (0, struct.pack("<H", 5), "version 5"),
        (0, struct.pack("<H", 4), "version 4"),
        (2, struct.pack("<H", 3), "key of type 3"),
        (4, struct.pack("<I", 0x81), "TEE type 0x81"),
        (12, bytes(16), "vendor"),
        (1046, struct.pack("<H", 1), "type 1"),
    ],
)
def test_an_unsupported_kind_is_told(quote: bytes, offset: int, value: bytes, why: str) -> None:
    with pytest.raises(QuoteUnsupportedError, match=why):
        parse_quote(quote[:offset] + value + quote[offset + len(value) :])


def test_lengths_that_do_not_add_up_are_malformed(quote: bytes) -> None:
    for offset, size in ((432, 4), (1012, 2), (1048, 4)):
        for change in (-1, 1, 1000):
            length = int.from_bytes(quote[offset : offset + size], "little") + change
            changed = quote[:offset] + length.to_bytes(size, "little", signed=length < 0) + quote[offset + size :]
            with pytest.raises(QuoteMalformedError):
                parse_quote(changed)


def rebuilt(quote: bytes, chain: bytes) -> bytes:
    """The quote with another certificate chain, and lengths that fit."""
    body = quote[436:1048] + struct.pack("<I", len(chain)) + chain
    return quote[:432] + struct.pack("<I", len(body)) + body


def test_a_chain_in_another_spelling_is_malformed(platform: SimulatedPlatform, quote: bytes) -> None:
    chain = platform.machine.chain_pem
    assert parse_quote(rebuilt(quote, chain)).size
    assert parse_quote(rebuilt(quote, chain.replace(b"\n", b"\r\n"))).size
    for other in (
        b"note\n" + chain,
        chain + b"\nnote",
        chain + b"\0\0",
        chain.replace(b"\n", b"\n\n", 1),
        chain + platform.root_pem.encode(),
        chain[: chain.rindex(b"-----BEGIN")],
        b"",
        b"\0",
        b"x" * 17_000,
    ):
        with pytest.raises(QuoteMalformedError):
            parse_quote(rebuilt(quote, other))


def test_a_chain_without_the_sgx_extension_is_malformed(platform: SimulatedPlatform, quote: bytes) -> None:
    authority = platform.machine.chain_pem.decode().split("-----BEGIN")[2]
    chain = (("-----BEGIN" + authority) * 2 + platform.root_pem).encode()
    with pytest.raises(QuoteMalformedError, match="no SGX extension"):
        parse_quote(rebuilt(quote, chain))


def test_a_description_is_ready_for_json(quote: bytes) -> None:
    described = describe(parse_quote(quote))
    assert described["mrenclave"] == ENCLAVE.mrenclave.hex()
    assert described["simulated"] is True
    assert [c["subject"].count("SIMULATED NO PROTECTION") for c in described["certificates"]] == [2, 2, 2]


def test_a_file_may_hold_raw_bytes_or_hexadecimal(tmp_path, quote: bytes) -> None:
    raw, text = tmp_path / "raw", tmp_path / "text"
    raw.write_bytes(quote)
    text.write_text(quote.hex(" ", 32).replace(" ", "\n"))
    assert read_quote_file(raw) == read_quote_file(text) == quote
    text.write_text(quote.hex()[:-1])
    with pytest.raises(QuoteMalformedError, match="odd length"):
        read_quote_file(text)
