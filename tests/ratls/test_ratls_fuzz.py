"""Certificates, CBOR and the quotes in them, changed at length: typed errors or sound results, in bounded time."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from mutation import mutate, randomness
from sealserve.errors import EvidenceError
from sealserve.evidence.quote import parse_quote
from sealserve.ratls import TlsIdentity, cbor, extract_evidence, parse_certificate, spki_digest
from sealserve.ratls.certificate import DICE_EVIDENCE, DICE_TAG, LEGACY_QUOTE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SECONDS_EACH = 1.0  # a thousand times what one takes


def test_certificates(identity: TlsIdentity) -> None:
    source = randomness("certificates")
    der = identity.certificate.public_bytes(Encoding.DER)
    seeds = [der, *(path.read_bytes() for path in (Path(__file__).parent / "data").glob("*.pem"))]
    read = 0
    for _ in range(15_000):
        data = mutate(source.choice(seeds), source, seeds)
        started = time.process_time()
        try:
            certificate = parse_certificate(data)
            spki_digest(certificate)
            evidence = extract_evidence(certificate)
        except EvidenceError:
            continue
        finally:
            assert time.process_time() - started < SECONDS_EACH
        assert len(evidence.report_data) == 64
        read += 1
    assert read > 100  # otherwise nothing behind the first parser is reached


def test_the_evidence_in_certificates(identity: TlsIdentity) -> None:
    """What stands in the extensions, so that every mutation gets past the certificate's own parser."""
    from test_ratls_certificate import certificate_with

    source = randomness("extensions")
    good = {
        oid: identity.certificate.extensions.get_extension_for_oid(oid).value.public_bytes()
        for oid in (DICE_EVIDENCE, LEGACY_QUOTE)
    }
    for _ in range(3_000):
        chosen = source.choice([[DICE_EVIDENCE], [LEGACY_QUOTE], [DICE_EVIDENCE, LEGACY_QUOTE]])
        extensions = [(oid, mutate(good[oid], source, list(good.values()))) for oid in chosen]
        certificate = certificate_with(*extensions, key=identity.private_key)
        try:
            evidence = extract_evidence(certificate)
        except EvidenceError:
            continue
        assert evidence.source == ("dice" if DICE_EVIDENCE in chosen else "legacy")


def test_cbor() -> None:
    source = randomness("cbor")
    values = [
        {"type": "evidence", "request": b"x" * 40, "quote": bytes(100), "n": [1, -5, None, True, 1 << 63]},
        [{"a": {"b": [[[[["c"]]]]]}}] * 4,
        cbor2.CBORTag(DICE_TAG, [b"quote", b"claims"]),
    ]
    seeds = [cbor.encode(value) for value in values]
    tracemalloc.start()
    try:
        for _ in range(60_000):
            data = mutate(source.choice(seeds), source, seeds)
            started = time.process_time()
            try:
                cbor.decode(data, tags=(DICE_TAG,))
            except cbor.CborError:
                continue
            finally:
                assert time.process_time() - started < SECONDS_EACH
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_quotes(shared_vectors: Path) -> None:
    source = randomness("quotes")
    seeds = [(shared_vectors / "quotes" / name).read_bytes() for name in ("sgx_quote", "tdx_quote")]
    for _ in range(15_000):
        data = mutate(source.choice(seeds), source, seeds)
        started = time.process_time()
        try:
            parse_quote(data)
        except EvidenceError:
            continue
        finally:
            assert time.process_time() - started < SECONDS_EACH
