"""Whatever bytes come as a quote, as collateral, or as a service's answer: a refusal of ours, never anything else.

Each target has a long run, marked slow.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evidence_corpus import ENCLAVE, NOW, REPORT_DATA, fields, make_platform, verifier
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealserve.errors import EvidenceError
from sealserve.evidence import Collateral, FixedCollateral, TrustRoot, Verifier
from sealserve.evidence.collateral_checks import check_signatures, older_parts
from sealserve.evidence.description import describe, describe_collateral
from sealserve.evidence.errors import CollateralMalformedError
from sealserve.evidence.quote import parse_quote
from sealserve.evidence.service import service_at
from sealserve.evidence.service.protocol import json_members, revocation_list, signed_member

PLATFORM = make_platform()
QUOTE = PLATFORM.quote(ENCLAVE, REPORT_DATA)
FIELDS = fields(PLATFORM)
JUDGE = verifier(PLATFORM)
GENUINE = JUDGE.verify(QUOTE)
LONG = settings(
    max_examples=20_000, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@st.composite
def spliced(draw: st.DrawFn, original: bytes) -> bytes:
    """Bytes with a few places changed, cut out, put in twice or filled."""
    changed = original
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(changed)))
        end = draw(st.integers(start, min(len(changed), start + 80)))
        piece = draw(
            st.one_of(
                st.binary(max_size=40),
                st.just(changed[start:end] * 2),
                st.sampled_from([b"\xff" * 4, bytes(4), b"\x30\x84", b"-----BEGIN CERTIFICATE-----\n", b"[" * 50]),
            )
        )
        changed = changed[:start] + piece + changed[end:]
    return changed


def check_quote(judge: Verifier, data: bytes, original: bytes) -> None:
    """A changed quote is refused. What is accepted differs from the original by padding alone."""
    try:
        describe(parse_quote(data))
        judge.verify(data)
    except EvidenceError:
        return
    # A quote may be padded with zeros, and its PEM may end its lines in both ways.
    assert data.rstrip(b"\0").replace(b"\r\n", b"\n") == original.rstrip(b"\0").replace(b"\r\n", b"\n")


def check_collateral(text: bytes | str) -> None:
    """Changed collateral is refused, or says the same of the quote."""
    try:
        collateral = Collateral.from_json(text)
        describe_collateral(collateral)
        older_parts(collateral, Collateral.from_json(json.dumps(FIELDS)))
        check_signatures(collateral)
    except EvidenceError:
        collateral = None
    if collateral is None:
        return
    judge = Verifier(TrustRoot.from_der(PLATFORM.root_der), FixedCollateral(collateral), clock=NOW.timestamp)
    try:
        assert judge.verify(QUOTE) == GENUINE
    except EvidenceError:
        return


def check_answer(body: bytes) -> None:
    """A changed answer is malformed, or its member is still the one that was signed."""
    try:
        text, signature = signed_member(body, "tcbInfo")
    except CollateralMalformedError:
        return
    assert text in body.decode()
    assert signature in body.decode() or "\\" in body.decode()
    json.loads(text)


ANSWER = f'{{ "tcbInfo" : {FIELDS["tcb_info"]},"signature":"{FIELDS["tcb_info_signature"]}"}}\n'.encode()


@given(spliced(QUOTE))
@settings(max_examples=200, deadline=None)
def test_a_changed_quote_is_refused(data: bytes) -> None:
    check_quote(JUDGE, data, QUOTE)


@pytest.mark.slow
@pytest.mark.timeout(600)
@given(spliced(QUOTE))
@LONG
def test_a_changed_quote_is_refused_at_length(data: bytes) -> None:
    check_quote(JUDGE, data, QUOTE)


@given(spliced(json.dumps(FIELDS).encode()))
@settings(max_examples=100, deadline=None)
def test_changed_collateral_is_refused_or_says_the_same(data: bytes) -> None:
    check_collateral(data)


@st.composite
def with_a_changed_field(draw: st.DrawFn) -> str:
    """Collateral that is well-formed as a whole, with one of its parts changed inside."""
    name = draw(st.sampled_from(list(FIELDS)))
    value = FIELDS[name]
    if name in {"root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature"}:
        changed = draw(spliced(bytes.fromhex(value))).hex()
    else:
        changed = draw(spliced(value.encode())).decode("latin-1")
    return json.dumps(FIELDS | {name: changed})


@given(with_a_changed_field())
@settings(max_examples=150, deadline=None)
def test_collateral_with_a_changed_part_is_refused_or_says_the_same(text: str) -> None:
    check_collateral(text)


@pytest.mark.slow
@pytest.mark.timeout(600)
@given(with_a_changed_field())
@LONG
def test_collateral_with_a_changed_part_is_refused_or_says_the_same_at_length(text: str) -> None:
    check_collateral(text)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["SGX", "2026-08-01T00:00:00Z"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(["tcb_info", "qe_identity"]), st.data())
def test_a_document_with_strange_values_is_refused(part: str, data: st.DataObject) -> None:
    document: dict[str, Any] = json.loads(FIELDS[part])
    name = data.draw(st.sampled_from(list(document)))
    document[name] = data.draw(_JSON)
    check_collateral(json.dumps(FIELDS | {part: json.dumps(document)}))


@given(spliced(ANSWER))
def test_a_changed_answer_is_malformed_or_whole(body: bytes) -> None:
    check_answer(body)


@pytest.mark.slow
@pytest.mark.timeout(600)
@given(spliced(ANSWER))
@LONG
def test_a_changed_answer_is_malformed_or_whole_at_length(body: bytes) -> None:
    check_answer(body)


@given(st.dictionaries(st.text(max_size=6), _JSON, min_size=1, max_size=5), st.sampled_from([None, 1]))
def test_the_members_of_an_object_are_the_texts_that_stand_there(found: dict[str, Any], indent: int | None) -> None:
    text = json.dumps(found, indent=indent)
    members = json_members(text)
    assert {name: json.loads(value) for name, value in members.items()} == found
    assert all(value in text for value in members.values())


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"a":1', '{"a":1}x', '{"a":1,}', '{"a":1,"a":1}', "{1:1}", '{"a"}', "{" * 9999]
)
def test_what_is_no_object_has_no_members(text: str) -> None:
    with pytest.raises((ValueError, RecursionError)):
        json_members(text)


@given(st.binary(max_size=200))
def test_an_arbitrary_revocation_list_is_bytes_or_malformed(body: bytes) -> None:
    try:
        assert isinstance(revocation_list(body, "root CA"), bytes)
    except CollateralMalformedError:
        return


@given(st.text(max_size=60) | st.text(max_size=30).map(lambda text: "https://" + text))
def test_an_arbitrary_address_is_a_service_or_a_value_error(text: str) -> None:
    try:
        service = service_at(text)
    except ValueError:
        return
    assert service.encrypted


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["sgx", "tdx"])
def test_intels_quotes_changed_at_length_are_refused(shared_vectors: Path, kind: str) -> None:
    original = (shared_vectors / "quotes" / f"{kind}_quote").read_bytes()
    collateral = Collateral.from_json((shared_vectors / "quotes" / f"{kind}_quote_collateral.json").read_bytes())
    at = collateral.tcb_info.validity.not_before.timestamp() + 3600
    judge = Verifier(TrustRoot.intel(), FixedCollateral(collateral), clock=lambda: at)
    run: Callable[[bytes], None] = lambda data: check_quote(judge, data, original)  # noqa: E731 - given wraps it
    LONG(given(spliced(original))(run))()
