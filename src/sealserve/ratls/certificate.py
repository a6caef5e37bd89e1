"""Evidence in RA-TLS certificates, as Gramine writes and reads it (``tools/sgx/ra-tls`` of Gramine 1.9).

Two extensions carry a quote each, with different report data:

- the older one, whose OID is Gramine's own mistake: its content bytes start with the tag and length of another OID.
  Report data: SHA-256 of the public key ‖ 32 zero bytes.
- TCG DICE tagged evidence (2.23.133.5.4.9): CBOR tag 60000 on ``[quote, claims]``, where the claims are a CBOR map
  with a hash of the public key. Report data: SHA-256 of the claims ‖ 32 zero bytes.

If the DICE extension is there, it counts: a malformed one is refused, and the other is no way around it. Reading a
certificate does not appraise its quote: the caller does, with the report data that this module says to expect.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sealserve.errors import EvidenceError
from sealserve.evidence.certificates import CERTIFICATE_ERRORS
from sealserve.evidence.quote import SGX_REPORT_SIZE, TDX_REPORT_SIZE
from sealserve.ratls import cbor

LEGACY_QUOTE = x509.ObjectIdentifier("0.6.9.42.840.113741.1337.6")
DICE_EVIDENCE = x509.ObjectIdentifier("2.23.133.5.4.9")
DICE_TAG = 60000

MAX_QUOTE_SIZE = 16 * 1024
"""An SGX quote with its certificate chain has about 5 KB, a TDX quote about 8 KB."""

# IANA's Named Information Hash Algorithm Registry, as DICE claims use it.
_HASHES: dict[int, Callable[[bytes], Any]] = {1: hashlib.sha256, 7: hashlib.sha384, 8: hashlib.sha512}
_PUBKEY_HASH = "pubkey-hash"

# A quote is a header of 48 bytes, then the report body, whose last 64 bytes are the report data. By version and TEE
# type, the first and the third field of the header.
_HEADER = struct.Struct("<HHI")
_BODIES = {(3, 0): slice(48, 48 + SGX_REPORT_SIZE), (4, 0x81): slice(48, 48 + TDX_REPORT_SIZE)}
_REPORT_DATA_SIZE = 64

_PEM = re.compile(
    rb"-----BEGIN (TRUSTED )?CERTIFICATE-----\s+([A-Za-z0-9+/=\s]+)-----END (?:TRUSTED )?CERTIFICATE-----"
)


class CertificateEvidenceError(EvidenceError):
    """The certificate carries no evidence, or it is malformed."""


class KeyBindingError(EvidenceError):
    """The evidence in the certificate is for another key than the certificate's."""


class EvidenceDisagreementError(EvidenceError):
    """The certificate carries two quotes, and they are of different enclaves or for different keys."""


@dataclass(frozen=True)
class CertificateEvidence:
    """What a certificate carries.

    :param quote: not judged yet. :param report_data: 64 bytes that the quote must have. :param source: which extension.
    """

    quote: bytes
    report_data: bytes
    source: Literal["dice", "legacy"]


def parse_certificate(data: bytes) -> x509.Certificate:
    """Read a certificate: DER, PEM, or the ``TRUSTED CERTIFICATE`` that ``gramine-ratls -P`` writes.

    OpenSSL's trusted form is the certificate, optionally followed by a structure of trust settings, which is ignored.

    :raises CertificateEvidenceError: it is none of these.
    """
    try:
        return x509.load_der_x509_certificate(_to_der(data))
    except CERTIFICATE_ERRORS as error:
        raise CertificateEvidenceError(
            "this is no X.509 certificate", hint="Give one certificate, as PEM or DER."
        ) from error


def _to_der(data: bytes) -> bytes:
    if data[:1] == b"\x30":
        return data  # DER: a PEM block in it, such as a quote's certificate chain, is not the certificate
    match = _PEM.search(data)
    if match is None:
        return data
    der = base64.b64decode(b"".join(match[2].split()), validate=True)
    if match[1] == b"TRUSTED ":
        # Both structures are DER SEQUENCEs with a length of two bytes or more (a certificate is never shorter).
        size_bytes = der[1] & 0x7F if len(der) > 2 and der[1] & 0x80 else 0
        end = 2 + size_bytes + int.from_bytes(der[2 : 2 + size_bytes], "big")
        der = der[:end]
    return der


def spki_digest(certificate: x509.Certificate) -> bytes:
    """SHA-256 of the certificate's SubjectPublicKeyInfo (DER), 32 bytes.

    :raises CertificateEvidenceError: the key is of a kind that is not known here.
    """
    return hashlib.sha256(_spki(_public_key(certificate))).digest()


def extract_evidence(certificate: x509.Certificate) -> CertificateEvidence:
    """The evidence that counts: DICE if it is there, else the older extension.

    :raises CertificateEvidenceError: there is none, or it is malformed.
    :raises KeyBindingError: the DICE claims are for another key.
    :raises EvidenceDisagreementError: both extensions are there and contradict each other.
    """
    public = _public_key(certificate)
    dice, legacy = _extensions(certificate)
    if dice is None:
        if legacy is None:
            raise CertificateEvidenceError(
                "the certificate carries no evidence", hint="RA-TLS certificates are made inside an enclave."
            )
        return CertificateEvidence(_quote(legacy), _legacy_report_data_of(public, legacy), "legacy")
    quote, claims = _decode_dice(dice)
    _check_claims(claims, public)
    if legacy is not None:
        _check_agreement(quote, _quote(legacy), public)
    return CertificateEvidence(quote, dice_report_data(claims), "dice")


def legacy_report_data(public: Any) -> bytes:
    """Report data of the older extension (64 bytes)."""
    return hashlib.sha256(_spki(public)).digest() + bytes(32)


def dice_report_data(claims: bytes) -> bytes:
    """Report data of the DICE extension (64 bytes) for encoded claims."""
    return hashlib.sha256(claims).digest() + bytes(32)


def dice_claims(public: Any) -> bytes:
    """Encoded claims that name ``public`` by its SHA-256, as Gramine encodes them."""
    return cbor.encode({_PUBKEY_HASH: cbor.encode([1, hashlib.sha256(_spki(public)).digest()])})


def encode_dice(quote: bytes, claims: bytes) -> bytes:
    """The content of the DICE extension."""
    return cbor.encode(cbor2.CBORTag(DICE_TAG, [quote, claims]))


def _spki(public: Any) -> bytes:
    data: bytes = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return data


def _public_key(certificate: x509.Certificate) -> Any:
    try:
        return certificate.public_key()
    except CERTIFICATE_ERRORS as error:
        raise CertificateEvidenceError("the certificate's public key is not usable") from error


def _extensions(certificate: x509.Certificate) -> tuple[bytes | None, bytes | None]:
    """The contents of the DICE and of the older extension."""
    try:
        found = {extension.oid: extension.value for extension in certificate.extensions}
    except CERTIFICATE_ERRORS as error:
        raise CertificateEvidenceError("the certificate's extensions are malformed") from error
    values = [found.get(oid) for oid in (DICE_EVIDENCE, LEGACY_QUOTE)]
    dice, legacy = (value.value if isinstance(value, x509.UnrecognizedExtension) else None for value in values)
    return dice, legacy


def _quote(data: bytes) -> bytes:
    if not 0 < len(data) <= MAX_QUOTE_SIZE:
        raise CertificateEvidenceError(f"the quote in the certificate has {len(data)} bytes")
    return data


def _legacy_report_data_of(public: Any, quote: bytes) -> bytes:
    """The key's hash, in the one of its forms that the quote has.

    Gramine hashes the SubjectPublicKeyInfo. For RSA keys some older enclaves hashed the PKCS #1 form, which names the
    same key just as well; the quote's word is only taken for which of the two to expect.
    """
    if isinstance(public, rsa.RSAPublicKey):
        pkcs1 = hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.PKCS1)).digest() + bytes(32)
        if hmac.compare_digest(_body(quote)[1], pkcs1):
            return pkcs1
    return legacy_report_data(public)


def _decode_dice(data: bytes) -> tuple[bytes, bytes]:
    malformed = CertificateEvidenceError("the certificate's DICE evidence is malformed")
    try:
        tagged = cbor.decode(data, tags=(DICE_TAG,))
    except cbor.CborError as error:
        raise malformed from error
    match tagged:
        case cbor2.CBORTag(tag=tag, value=[bytes() as quote, bytes() as claims]) if tag == DICE_TAG:
            return _quote(quote), claims
        case _:
            raise malformed


def _check_claims(claims: bytes, public: Any) -> None:
    malformed = CertificateEvidenceError("the claims in the certificate's DICE evidence are malformed")
    try:
        named = cbor.decode(claims)
        inner = named.get(_PUBKEY_HASH) if isinstance(named, dict) else None
        pair = cbor.decode(inner) if isinstance(inner, bytes) else None
    except cbor.CborError as error:
        raise malformed from error
    match pair:
        case [int() as identifier, bytes() as digest] if identifier in _HASHES and not isinstance(identifier, bool):
            if not hmac.compare_digest(_HASHES[identifier](_spki(public)).digest(), digest):
                raise KeyBindingError("the evidence in the certificate is for another key than the certificate's")
        case _:
            raise malformed


def _check_agreement(dice: bytes, legacy: bytes, public: Any) -> None:
    """Both quotes must be of one enclave and for this key, as far as that shows without verifying the second.

    Whoever verifies the older quote, as enclaves of before Gramine 1.8 do, must not see another enclave than we do.
    """
    older, newer = _body(legacy), _body(dice)
    if not hmac.compare_digest(older[1], legacy_report_data(public)):
        raise EvidenceDisagreementError("the certificate's older quote is for another key than the certificate's")
    if not hmac.compare_digest(newer[0], older[0]):
        raise EvidenceDisagreementError("the certificate's two quotes are of different enclaves")


def _body(quote: bytes) -> tuple[bytes, bytes]:
    """The report body without the report data, and the report data; of an SGX or a TDX quote that is not judged yet.

    What is no such quote, or is too short, gives the bytes that are there; whoever appraises it refuses it.
    """
    version, _, tee_type = _HEADER.unpack(quote[: _HEADER.size].ljust(_HEADER.size, b"\0"))
    body = quote[_BODIES.get((version, tee_type), _BODIES[3, 0])]
    return body[:-_REPORT_DATA_SIZE], body[-_REPORT_DATA_SIZE:]
