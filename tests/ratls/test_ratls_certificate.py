from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from sealserve.errors import EvidenceError
from sealserve.evidence import SimulatedAttester
from sealserve.ratls import (
    CertificateEvidenceError,
    EvidenceDisagreementError,
    KeyBindingError,
    TlsIdentity,
    create_identity,
    extract_evidence,
    parse_certificate,
    spki_digest,
)
from sealserve.ratls.certificate import DICE_EVIDENCE, LEGACY_QUOTE, MAX_QUOTE_SIZE, dice_claims, encode_dice

DATA = Path(__file__).parent / "data"
QUOTE_REPORT_DATA = slice(368, 432)


def certificate_with(
    *extensions: tuple[x509.ObjectIdentifier, bytes], key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
) -> x509.Certificate:
    name = x509.Name.from_rfc4514_string("CN=RATLS")
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .serial_number(1)
        .public_key(key.public_key())
        .not_valid_before(datetime(2001, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2030, 1, 1, tzinfo=UTC))
    )
    for oid, value in extensions:
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
    return builder.sign(key, hashes.SHA256())


def quote_of(report_data: bytes, *, enclave: bytes = b"\x11" * 32) -> bytes:
    """Bytes laid out like an SGX quote."""
    body = bytearray(384)
    body[64:96] = enclave
    body[320:384] = report_data
    return b"\x03\x00" + bytes(46) + bytes(body) + bytes(600)


def spki(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture(scope="module")
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def claims_of(digest: bytes, identifier: object = 1) -> bytes:
    return cbor2.dumps({"pubkey-hash": cbor2.dumps([identifier, digest])})


def dice_of(claims: bytes) -> bytes:
    return encode_dice(quote_of(hashlib.sha256(claims).digest() + bytes(32)), claims)


# --- certificates that others made ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "source"),
    [("gramine-1.9-p384.pem", "dice"), ("gramine-ratls-tool-trusted.pem", "dice"), ("graphene-rsa3072.pem", "legacy")],
)
def test_evidence_of_certificates_made_by_gramine_is_bound_to_their_keys(name: str, source: str) -> None:
    evidence = extract_evidence(parse_certificate((DATA / name).read_bytes()))
    assert evidence.source == source
    assert evidence.quote[QUOTE_REPORT_DATA] == evidence.report_data


def test_the_copied_certificates_are_the_shared_ones(shared_vectors: Path) -> None:
    for path in sorted((shared_vectors / "ra-tls").glob("*.pem")):
        assert (DATA / path.name).read_bytes() == path.read_bytes()


def test_a_trusted_certificate_with_trust_settings_is_read() -> None:
    plain = parse_certificate((DATA / "gramine-1.9-p384.pem").read_bytes())
    settings_of_openssl = b"\x30\x0c\x30\x0a\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01"
    der = plain.public_bytes(Encoding.DER) + settings_of_openssl
    pem = b"-----BEGIN TRUSTED CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END TRUSTED CERTIFICATE-----\n"
    assert parse_certificate(pem) == plain


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no certificate",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN TRUSTED CERTIFICATE-----\nMA==\n-----END TRUSTED CERTIFICATE-----\n",
        b"-----BEGIN TRUSTED CERTIFICATE-----\n/w==\n-----END TRUSTED CERTIFICATE-----\n",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    ],
)
def test_what_is_no_certificate_is_refused(data: bytes) -> None:
    with pytest.raises(CertificateEvidenceError):
        parse_certificate(data)


# --- our own --------------------------------------------------------------------------------------------------------


def test_a_certificate_is_laid_out_like_gramines(identity: TlsIdentity) -> None:
    theirs = parse_certificate((DATA / "gramine-1.9-p384.pem").read_bytes())
    ours = identity.certificate
    assert ours.subject.rfc4514_string() == theirs.subject.rfc4514_string()
    assert ours.issuer == ours.subject
    assert ours.serial_number == theirs.serial_number == 1
    assert ours.signature_algorithm_oid == theirs.signature_algorithm_oid
    assert [(e.oid, e.critical) for e in ours.extensions][:5] == [(e.oid, e.critical) for e in theirs.extensions]
    assert ours.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    dice = [c.extensions.get_extension_for_oid(DICE_EVIDENCE).value.public_bytes() for c in (ours, theirs)]
    # Tag, array, head of the quote: the same but for the quote's length; then the claims, but for the digest.
    assert dice[0][:5] == dice[1][:5]
    assert dice[0][-51:-32] == dice[1][-51:-32]
    # The content of the OID starts with the tag and the length of another OID: Gramine's own mistake.
    for certificate in (ours, theirs):
        assert b"\x06\x0b\x06\x09\x2a\x86\x48\x86\xf8\x4d\x8a\x39\x06" in certificate.public_bytes(Encoding.DER)


def test_the_two_quotes_are_different_quotes_of_one_enclave_for_one_key(identity: TlsIdentity) -> None:
    legacy = identity.certificate.extensions.get_extension_for_oid(LEGACY_QUOTE).value.public_bytes()
    evidence = extract_evidence(identity.certificate)
    assert evidence.source == "dice"
    assert evidence.quote[QUOTE_REPORT_DATA] == evidence.report_data
    assert legacy[QUOTE_REPORT_DATA] == identity.spki_digest + bytes(32)
    assert legacy[QUOTE_REPORT_DATA] != evidence.report_data


def test_server_names_stand_in_the_san(identity: TlsIdentity) -> None:
    names = identity.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["replica.sealserve.internal"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]


def test_an_identity_without_names_has_no_san_and_shows_no_key(attester: SimulatedAttester) -> None:
    plain = create_identity(attester)
    assert len(plain.certificate.extensions) == 5
    assert "rivate" not in repr(plain)
    assert b"PRIVATE KEY" in plain.private_key_pem().reveal()


def test_every_identity_has_a_key_of_its_own(attester: SimulatedAttester, identity: TlsIdentity) -> None:
    assert create_identity(attester).spki_digest != identity.spki_digest


def test_the_spki_digest_is_what_openssl_computes(identity: TlsIdentity) -> None:
    der = identity.private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert spki_digest(identity.certificate) == identity.spki_digest == hashlib.sha256(der).digest()


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("identifier", "function"), [(1, "sha256"), (7, "sha384"), (8, "sha512")])
def test_claims_may_name_the_key_by_three_hashes(
    key: ec.EllipticCurvePrivateKey, identifier: int, function: str
) -> None:
    claims = claims_of(hashlib.new(function, spki(key)).digest(), identifier)
    evidence = extract_evidence(certificate_with((DICE_EVIDENCE, dice_of(claims)), key=key))
    assert evidence.report_data == hashlib.sha256(claims).digest() + bytes(32)


def test_other_claims_beside_the_key_are_allowed(key: ec.EllipticCurvePrivateKey) -> None:
    pair = cbor2.dumps([1, hashlib.sha256(spki(key)).digest()])
    claims = cbor2.dumps({"pubkey-hash": pair, "nonce": b"something", "number": 1})
    assert extract_evidence(certificate_with((DICE_EVIDENCE, dice_of(claims)), key=key)).source == "dice"


def malformed_dice(key: ec.EllipticCurvePrivateKey) -> list[bytes]:
    good = hashlib.sha256(spki(key)).digest()
    quote = quote_of(bytes(64))
    claims = [
        b"",
        b"\x00",
        cbor2.dumps({}),
        cbor2.dumps([]),
        cbor2.dumps({"pubkey-hash": [1, good]}),
        cbor2.dumps({"pubkey-hash": b""}),
        cbor2.dumps({"pubkey-hash": cbor2.dumps([1])}),
        cbor2.dumps({"pubkey-hash": cbor2.dumps([1, good, 1])}),
        cbor2.dumps({"pubkey-hash": cbor2.dumps([1, good.hex()])}),
        cbor2.dumps({"pubkey-hash": cbor2.dumps({1: good})}),
        b"\xa2" + claims_of(good)[1:] + claims_of(good)[1:],
        claims_of(good) + b"\x00",
        claims_of(good, 2),
        claims_of(good, 0),
        claims_of(good, True),
        claims_of(good, "1"),
    ]
    whole = [
        b"",
        b"\xff",
        dice_of(claims_of(good))[:-1],
        dice_of(claims_of(good)) + b"\x00",
        cbor2.dumps([quote, claims_of(good)]),
        cbor2.dumps(cbor2.CBORTag(60001, [quote, claims_of(good)])),
        cbor2.dumps(cbor2.CBORTag(60000, [quote])),
        cbor2.dumps(cbor2.CBORTag(60000, [quote, claims_of(good), b""])),
        cbor2.dumps(cbor2.CBORTag(60000, {0: quote, 1: claims_of(good)})),
        cbor2.dumps(cbor2.CBORTag(60000, [quote.hex(), claims_of(good)])),
        cbor2.dumps(cbor2.CBORTag(60000, [b"", claims_of(good)])),
        cbor2.dumps(cbor2.CBORTag(60000, [bytes(MAX_QUOTE_SIZE + 1), claims_of(good)])),
    ]
    return whole + [encode_dice(quote, item) for item in claims]


def test_malformed_dice_evidence_is_refused_even_beside_a_good_older_extension(key: ec.EllipticCurvePrivateKey) -> None:
    legacy = (LEGACY_QUOTE, quote_of(hashlib.sha256(spki(key)).digest() + bytes(32)))
    assert extract_evidence(certificate_with(legacy, key=key)).source == "legacy"
    for content in malformed_dice(key):
        with pytest.raises(CertificateEvidenceError):
            extract_evidence(certificate_with(legacy, (DICE_EVIDENCE, content), key=key))


@pytest.mark.parametrize(("identifier", "size"), [(1, 32), (1, 31), (1, 0), (7, 48), (8, 64), (8, 32)])
def test_claims_for_another_key_are_refused(key: ec.EllipticCurvePrivateKey, identifier: int, size: int) -> None:
    claims = claims_of(bytes(size), identifier)
    with pytest.raises(KeyBindingError):
        extract_evidence(certificate_with((DICE_EVIDENCE, dice_of(claims)), key=key))


def test_a_truncated_digest_of_the_right_key_is_refused(key: ec.EllipticCurvePrivateKey) -> None:
    claims = claims_of(hashlib.sha256(spki(key)).digest()[:16])
    with pytest.raises(KeyBindingError):
        extract_evidence(certificate_with((DICE_EVIDENCE, dice_of(claims)), key=key))


def test_evidence_moved_to_a_certificate_of_another_key_is_refused(
    identity: TlsIdentity, key: ec.EllipticCurvePrivateKey
) -> None:
    oids = (LEGACY_QUOTE, DICE_EVIDENCE)
    stolen = [(oid, identity.certificate.extensions.get_extension_for_oid(oid).value.public_bytes()) for oid in oids]
    with pytest.raises(KeyBindingError):
        extract_evidence(certificate_with(*stolen, key=key))
    # The older extension alone can be extracted: what refuses it is the report data that is expected then.
    evidence = extract_evidence(certificate_with(stolen[0], key=key))
    assert evidence.report_data == hashlib.sha256(spki(key)).digest() + bytes(32)
    assert evidence.quote[QUOTE_REPORT_DATA] != evidence.report_data


@pytest.mark.parametrize(
    "change",
    [
        lambda right: quote_of(bytes(64)),
        lambda right: quote_of(right[:32] + b"\x01" * 32),
        lambda right: quote_of(right, enclave=b"\x12" * 32),
        lambda right: quote_of(right)[:400],
        lambda right: b"\x00",
    ],
    ids=["another key", "more report data", "another enclave", "truncated", "a byte"],
)
def test_an_older_quote_that_disagrees_is_refused(
    key: ec.EllipticCurvePrivateKey, change: Callable[[bytes], bytes]
) -> None:
    dice = (DICE_EVIDENCE, dice_of(dice_claims(key.public_key())))
    right = hashlib.sha256(spki(key)).digest() + bytes(32)
    assert extract_evidence(certificate_with(dice, (LEGACY_QUOTE, quote_of(right)), key=key)).source == "dice"
    with pytest.raises(EvidenceDisagreementError):
        extract_evidence(certificate_with(dice, (LEGACY_QUOTE, change(right)), key=key))


TDX_REPORT_DATA = slice(48 + 520, 48 + 584)


def trust_domain_quote(quote: bytes, report_data: bytes, *, rtmr3: bytes | None = None) -> bytes:
    """Intel's quote over other report data: enough for reading a certificate, which verifies nothing."""
    changed = bytearray(quote)
    changed[TDX_REPORT_DATA] = report_data
    if rtmr3 is not None:
        changed[48 + 472 : 48 + 520] = rtmr3
    return bytes(changed)


def test_the_two_quotes_of_a_trust_domain_must_agree_too(shared_vectors: Path, key: ec.EllipticCurvePrivateKey) -> None:
    quote = (shared_vectors / "quotes" / "tdx_quote").read_bytes()
    claims = dice_claims(key.public_key())
    bound = hashlib.sha256(claims).digest() + bytes(32)
    right = hashlib.sha256(spki(key)).digest() + bytes(32)
    dice = (DICE_EVIDENCE, encode_dice(trust_domain_quote(quote, bound), claims))

    def legacy(older: bytes) -> x509.Certificate:
        return certificate_with(dice, (LEGACY_QUOTE, older), key=key)

    evidence = extract_evidence(legacy(trust_domain_quote(quote, right)))
    assert (evidence.source, evidence.report_data) == ("dice", bound)
    assert evidence.quote[TDX_REPORT_DATA] == bound
    with pytest.raises(EvidenceDisagreementError, match="for another key"):
        extract_evidence(legacy(quote))
    with pytest.raises(EvidenceDisagreementError, match="different enclaves"):
        extract_evidence(legacy(trust_domain_quote(quote, right, rtmr3=b"\x01" * 48)))
    with pytest.raises(EvidenceDisagreementError, match="for another key"):
        extract_evidence(legacy(trust_domain_quote(quote, right)[:600]))
    with pytest.raises(EvidenceDisagreementError, match="different enclaves"):
        extract_evidence(legacy(quote_of(right)))  # an enclave's quote beside a trust domain's


def test_the_older_extension_of_a_trust_domain_is_read(shared_vectors: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=3072)
    pkcs1 = hashlib.sha256(key.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)).digest() + bytes(32)
    quote = trust_domain_quote((shared_vectors / "quotes" / "tdx_quote").read_bytes(), pkcs1)
    evidence = extract_evidence(certificate_with((LEGACY_QUOTE, quote), key=key))
    assert (evidence.source, evidence.report_data) == ("legacy", pkcs1)


def test_an_rsa_key_may_be_named_by_either_of_its_forms() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=3072)
    pkcs1 = key.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
    for form in (pkcs1, spki(key)):
        expected = hashlib.sha256(form).digest() + bytes(32)
        evidence = extract_evidence(certificate_with((LEGACY_QUOTE, quote_of(expected)), key=key))
        assert evidence.report_data == expected
    other = extract_evidence(certificate_with((LEGACY_QUOTE, quote_of(b"\x01" * 64)), key=key))
    assert other.report_data == hashlib.sha256(spki(key)).digest() + bytes(32)


@pytest.mark.parametrize("extensions", [[], [(LEGACY_QUOTE, b"")], [(LEGACY_QUOTE, bytes(MAX_QUOTE_SIZE + 1))]])
def test_a_certificate_without_a_quote_of_a_possible_size_is_refused(
    key: ec.EllipticCurvePrivateKey, extensions: Sequence[tuple[x509.ObjectIdentifier, bytes]]
) -> None:
    with pytest.raises(CertificateEvidenceError):
        extract_evidence(certificate_with(*extensions, key=key))


def test_a_certificate_of_a_version_that_does_not_exist_is_refused(identity: TlsIdentity) -> None:
    der = bytearray(identity.certificate.public_bytes(Encoding.DER))
    version = der.index(bytes.fromhex("a003020102")) + 4
    der[version] = 3
    with pytest.raises(CertificateEvidenceError):
        parse_certificate(bytes(der))


def test_an_extension_that_stands_twice_is_refused(key: ec.EllipticCurvePrivateKey) -> None:
    # The builder refuses to make such a certificate: rename another extension's OID of the same length in the DER.
    twin = x509.ObjectIdentifier(LEGACY_QUOTE.dotted_string[:-1] + "7")
    quote = quote_of(hashlib.sha256(spki(key)).digest() + bytes(32))
    der = certificate_with((LEGACY_QUOTE, quote), (twin, quote), key=key).public_bytes(Encoding.DER)
    content = b"\x06\x09\x2a\x86\x48\x86\xf8\x4d\x8a\x39"
    assert der.count(content + b"\x07") == 1
    with pytest.raises(CertificateEvidenceError):
        extract_evidence(x509.load_der_x509_certificate(der.replace(content + b"\x07", content + b"\x06")))


def test_a_key_of_another_kind_can_carry_evidence_too() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name.from_rfc4514_string("CN=RATLS")
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(datetime(2001, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2030, 1, 1, tzinfo=UTC))
        .sign(key, None)
    )
    with pytest.raises(CertificateEvidenceError):
        extract_evidence(certificate)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_mutated_certificate_is_refused_or_still_bound_to_its_key(data: st.DataObject) -> None:
    der = bytearray(parse_certificate((DATA / "gramine-1.9-p384.pem").read_bytes()).public_bytes(Encoding.DER))
    # The structure lies at the ends; most of the middle is quote, where any byte will do.
    place = data.draw(st.integers(0, 700) | st.integers(0, len(der) - 1) | st.integers(len(der) - 250, len(der) - 1))
    der[place] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(EvidenceError):
        evidence = extract_evidence(parse_certificate(bytes(der)))
        assert len(evidence.report_data) == 64


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_content_of_the_extensions_is_refused_or_bound(content: bytes) -> None:
    key = FUZZ_KEY
    for oid in (LEGACY_QUOTE, DICE_EVIDENCE):
        with contextlib.suppress(EvidenceError):
            evidence = extract_evidence(certificate_with((oid, content), key=key))
            assert evidence.source == "legacy"
            assert hmac.compare_digest(evidence.report_data[:32], hashlib.sha256(spki(key)).digest())


FUZZ_KEY = ec.generate_private_key(ec.SECP256R1())
