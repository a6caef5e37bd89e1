"""The PCK certificate chain of a quote, and the SGX extension of its leaf.

Format: Intel, "SGX PCK Certificate and Certificate Revocation List Profile Specification", section 1.3.5.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from sealserve.evidence.certificates import CERTIFICATE_ERRORS, is_simulated
from sealserve.evidence.errors import QuoteMalformedError
from sealserve.evidence.validity import Validity

SGX_EXTENSION = x509.ObjectIdentifier("1.2.840.113741.1.13.1")

_CHAIN_LIMIT = 16 << 10
_CERTIFICATES = 3
_OID_TAG, _SEQUENCE_TAG = 0x06, 0x30
_PREFIX = bytes.fromhex("2A864886F84D010D01")  # the content of 1.2.840.113741.1.13.1


@dataclass(frozen=True)
class PckExtension:
    """What a PCK certificate says about its machine.

    :param ppid: 16 bytes, the machine. :param cpu_svn: 16 bytes. :param pce_id: 2 bytes.
    :param fmspc: 6 bytes, the kind of platform that TCB info is issued for.
    """

    ppid: bytes
    cpu_svn: bytes
    pce_svn: int
    pce_id: bytes
    fmspc: bytes
    sgx_type: int


@dataclass(frozen=True)
class PckChain:
    """PCK certificate, the CA that issued it, and the root."""

    leaf: x509.Certificate
    authority: x509.Certificate
    root: x509.Certificate
    extension: PckExtension

    # What each appraisal needs is computed once: chains are cached, see :func:`parse_pck_chain`.

    def look_at_everything(self) -> None:
        """Read the fields that are used later; the library parses them when they are first looked at."""
        _ = self.root_fingerprint, self.root_name, self.authority_name, self.simulated, self.validities
        for certificate in (self.leaf, self.authority, self.root):
            certificate.public_key()

    @functools.cached_property
    def root_fingerprint(self) -> bytes:
        """SHA-256 of the root certificate in DER."""
        return hashlib.sha256(self.root.public_bytes(Encoding.DER)).digest()

    @functools.cached_property
    def root_name(self) -> x509.Name:
        """The root's subject."""
        return self.root.subject

    @functools.cached_property
    def authority_name(self) -> x509.Name:
        """The PCK CA's subject."""
        return self.authority.subject

    @functools.cached_property
    def simulated(self) -> bool:
        """Whether one of the certificates says that it belongs to a simulated platform."""
        return any(is_simulated(certificate) for certificate in (self.leaf, self.authority, self.root))

    @functools.cached_property
    def validities(self) -> tuple[Validity, Validity, Validity]:
        """The validity of each certificate."""
        return (
            Validity.of(self.root, "root CA certificate of the quote"),
            Validity.of(self.authority, "PCK CA certificate"),
            Validity.of(self.leaf, "PCK certificate"),
        )


@functools.lru_cache(maxsize=256)
def parse_pck_chain(data: bytes) -> PckChain:
    """Read the chain as a quote carries it: three certificates in PEM, then at most a NUL. Cached, because a machine's
    chain comes with each of its quotes.

    :raises QuoteMalformedError: it is not that, or the leaf lacks the SGX extension.
    """
    if len(data) > _CHAIN_LIMIT:
        raise QuoteMalformedError(f"the certificate chain has {len(data)} bytes, more than the {_CHAIN_LIMIT} accepted")
    text = data.removesuffix(b"\0")
    try:
        certificates = x509.load_pem_x509_certificates(text)
    except CERTIFICATE_ERRORS as error:
        raise QuoteMalformedError("the certificate chain in the quote cannot be read") from error
    if len(certificates) != _CERTIFICATES:
        raise QuoteMalformedError(
            f"the certificate chain has {len(certificates)} certificates, not {_CERTIFICATES} (PCK, CA, root)"
        )
    # PEM has many spellings. Only the usual one is accepted, so that no bit of a quote can change unnoticed.
    canonical = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
    if text.replace(b"\r\n", b"\n").removesuffix(b"\n") != canonical.removesuffix(b"\n"):
        raise QuoteMalformedError("the certificate chain in the quote is not encoded in the usual way")
    leaf, authority, root = certificates
    chain = PckChain(leaf=leaf, authority=authority, root=root, extension=_extension(leaf))
    try:
        chain.look_at_everything()
    except CERTIFICATE_ERRORS as error:
        raise QuoteMalformedError("a certificate in the quote has a malformed field") from error
    return chain


def _extension(leaf: x509.Certificate) -> PckExtension:
    try:
        raw = leaf.extensions.get_extension_for_oid(SGX_EXTENSION).value
    except CERTIFICATE_ERRORS as error:
        raise QuoteMalformedError("the PCK certificate has no SGX extension") from error
    if not isinstance(raw, x509.UnrecognizedExtension):
        raise QuoteMalformedError("the PCK certificate has no SGX extension")
    return parse_sgx_extension(raw.value)


def parse_sgx_extension(value: bytes) -> PckExtension:
    """Read the SGX extension's value (DER).

    :raises QuoteMalformedError: it is malformed, or lacks a field.
    """
    fields = dict(_entries(value))
    tcb = dict(_entries_of(fields.get(b"\x02", b"")))
    return PckExtension(
        ppid=_sized(fields, 1, 16),
        cpu_svn=_sized(tcb, 18, 16),
        pce_svn=int.from_bytes(_sized(tcb, 17, None), "big"),
        pce_id=_sized(fields, 3, 2),
        fmspc=_sized(fields, 4, 6),
        sgx_type=int.from_bytes(_sized(fields, 5, None), "big"),
    )


def _sized(fields: dict[bytes, bytes], arc: int, size: int | None) -> bytes:
    value = fields.get(bytes([arc]))
    if value is None or (len(value) != size if size is not None else not 1 <= len(value) <= 3):
        raise QuoteMalformedError("the SGX extension of the PCK certificate lacks a field")
    return value


def _entries(value: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The entries of a SEQUENCE OF SEQUENCE { OID, value }: the OID's last arcs, and the value's content."""
    elements = list(_elements(value))
    if len(elements) != 1 or elements[0][0] != _SEQUENCE_TAG:
        raise QuoteMalformedError("the SGX extension of the PCK certificate is no sequence")
    yield from _entries_of(elements[0][1])


def _entries_of(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    for tag, entry in _elements(content):
        parts = list(_elements(entry)) if tag == _SEQUENCE_TAG else []
        if len(parts) != 2 or parts[0][0] != _OID_TAG or not parts[0][1].startswith(_PREFIX):
            raise QuoteMalformedError("the SGX extension of the PCK certificate has an entry of another form")
        # Entries of the TCB are one arc deeper (…1.2.17); the last octet names them there and here.
        yield parts[0][1][-1:], parts[1][1]


def _elements(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The DER elements in ``content``: tag and content of each. Only the definite, minimal lengths of DER."""
    at = 0
    while at < len(content):
        if len(content) - at < 2:
            raise QuoteMalformedError("the SGX extension of the PCK certificate is truncated")
        tag, size = content[at], content[at + 1]
        at += 2
        if size >= 0x80:
            octets = content[at : at + (size & 0x7F)]
            at += size & 0x7F
            size = int.from_bytes(octets, "big")
            if not 1 <= len(octets) <= 2 or size < 0x80 or octets[0] == 0:
                raise QuoteMalformedError("the SGX extension of the PCK certificate has a length that is not DER")
        if len(content) - at < size:
            raise QuoteMalformedError("the SGX extension of the PCK certificate is truncated")
        yield tag, content[at : at + size]
        at += size
