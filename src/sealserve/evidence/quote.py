"""Reading SGX quotes of version 3 and TDX quotes of version 4, strictly and without judging them.

Formats: Intel, "SGX ECDSA Quote Library Reference" appendix A.4, and "TDX DCAP Quoting Library API" appendix A.3. All
numbers are little-endian. Every byte of the input counts: lengths that do not add up, a certificate chain in an
unusual encoding and anything after the quote but zeros (platforms hand out padded buffers) are refused, so that no bit
of a quote can change unnoticed.

Nothing here says whether a quote is genuine: that is :class:`~sealserve.evidence.verifier.Verifier`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

from sealserve.evidence.certificate_chain import PckChain, parse_pck_chain
from sealserve.evidence.errors import QuoteMalformedError, QuoteUnsupportedError

QUOTE_LIMIT = 32 << 10
"""Quotes are about 5 KB; more bytes than this are refused before they are looked at."""

INTEL_QE_VENDOR = bytes.fromhex("939A7233F79C4CA9940A0DB3957F0607")
SGX_REPORT_SIZE = 384
TDX_REPORT_SIZE = 584

_ECDSA_P256 = 2
_QE_REPORT_DATA = 6  # certification data that wraps the quoting enclave's report (TDX)
_PCK_CHAIN = 5  # certification data that is a PEM chain
_AUTHENTICATION_DATA_SIZE = 32
_DEBUG = 0x02
_TD_DEBUG = 0x01


@dataclass(frozen=True)
class QuoteHeader:
    """The first 48 bytes.

    :param qe_vendor_id: 16 bytes. :param user_data: 20 bytes; the first 16 name the quoting enclave's installation.
    """

    version: int
    qe_svn: int
    pce_svn: int
    qe_vendor_id: bytes
    user_data: bytes


@dataclass(frozen=True)
class EnclaveReport:
    """An SGX report body (384 bytes): what the processor says about an enclave.

    :param attributes: 16 bytes, flags and XFRM.
    """

    cpu_svn: bytes
    misc_select: int
    attributes: bytes
    mrenclave: bytes
    mrsigner: bytes
    isv_prod_id: int
    isv_svn: int
    report_data: bytes

    @property
    def debug(self) -> bool:
        """Whether the host can read the enclave's memory."""
        return bool(self.attributes[0] & _DEBUG)


@dataclass(frozen=True)
class TrustDomainReport:
    """A TDX 1.0 report body (584 bytes): what the TDX module says about a trust domain. Measurements have 48 bytes.

    :param tee_tcb_svn: 16 bytes. :param seam_attributes: 8 bytes. :param attributes: 8 bytes. :param xfam: 8 bytes.
    """

    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes
    attributes: bytes
    xfam: bytes
    mrtd: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    report_data: bytes

    @property
    def debug(self) -> bool:
        """Whether the host can read the trust domain's memory."""
        return bool(self.attributes[0] & _TD_DEBUG)


@dataclass(frozen=True)
class Quote:
    """A quote, taken apart. Nothing in it has been verified.

    :param size: in bytes, with any padding.
    :param signature: by the attestation key over header and report; 64 bytes. :param attestation_key: 64 bytes.
    :param qe_report: the quoting enclave's report, which binds the attestation key.
    """

    tee: Literal["sgx", "tdx"]
    header: QuoteHeader
    report: EnclaveReport | TrustDomainReport
    signature: bytes
    attestation_key: bytes
    qe_report: EnclaveReport
    qe_report_signature: bytes
    authentication_data: bytes
    chain: PckChain
    size: int

    @property
    def report_data(self) -> bytes:
        """The 64 bytes that the attester chose."""
        return self.report.report_data


class _Reader:
    """Takes fields off the front of a byte string."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = memoryview(data)
        self._what = what
        self._at = 0

    def take(self, size: int, field: str) -> bytes:
        if self.left < size:
            raise QuoteMalformedError(
                f"{self._what} is truncated: {field} needs {size} bytes, and {self.left} are left"
            )
        piece = bytes(self._data[self._at : self._at + size])
        self._at += size
        return piece

    def number(self, size: int, field: str) -> int:
        return int.from_bytes(self.take(size, field), "little")

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def finish(self, *, padded: bool = False) -> None:
        if self.left and not (padded and not any(self._data[self._at :])):
            raise QuoteMalformedError(f"{self._what} has {self.left} bytes too many at its end")


def parse_quote(data: bytes) -> Quote:
    """Take a quote apart.

    :raises QuoteMalformedError: it is truncated, oversized, or not well-formed.
    :raises QuoteUnsupportedError: it is of a version, TEE, key type or certification data type not supported here.
    """
    if len(data) > QUOTE_LIMIT:
        raise QuoteMalformedError(f"the quote has {len(data)} bytes, more than the {QUOTE_LIMIT} that are accepted")
    reader = _Reader(data, "the quote")
    tee, header = _header(reader)
    report: EnclaveReport | TrustDomainReport
    if tee == "sgx":
        report = parse_enclave_report(reader.take(SGX_REPORT_SIZE, "the enclave's report"))
    else:
        report = parse_trust_domain_report(reader.take(TDX_REPORT_SIZE, "the trust domain's report"))
    signed = _Reader(reader.take(reader.number(4, "the signature's size"), "the signature data"), "the signature data")
    reader.finish(padded=True)
    signature = signed.take(64, "the signature")
    attestation_key = signed.take(64, "the attestation key")
    certification = signed
    if tee == "tdx":
        kind = signed.number(2, "the certification data type")
        if kind != _QE_REPORT_DATA:
            raise QuoteUnsupportedError(f"certification data of type {kind} in a TDX quote is not supported")
        size = signed.number(4, "the certification data's size")
        certification = _Reader(signed.take(size, "the certification data"), "the certification data")
        signed.finish()
    qe_report = parse_enclave_report(certification.take(SGX_REPORT_SIZE, "the quoting enclave's report"))
    qe_report_signature = certification.take(64, "the signature of the quoting enclave's report")
    authentication_size = certification.number(2, "the authentication data's size")
    if authentication_size != _AUTHENTICATION_DATA_SIZE:
        raise QuoteMalformedError(
            f"the QE's authentication data has {authentication_size} bytes, not {_AUTHENTICATION_DATA_SIZE}"
        )
    authentication_data = certification.take(authentication_size, "the authentication data")
    kind = certification.number(2, "the certification data type")
    if kind != _PCK_CHAIN:
        raise QuoteUnsupportedError(
            f"certification data of type {kind} is not supported; only a certificate chain (type {_PCK_CHAIN}) is",
            hint="Let the platform's quote provider library put the PCK certificate chain into the quote.",
        )
    chain = certification.take(certification.number(4, "the certificate chain's size"), "the certificate chain")
    certification.finish()
    return Quote(
        tee=tee,
        header=header,
        report=report,
        signature=signature,
        attestation_key=attestation_key,
        qe_report=qe_report,
        qe_report_signature=qe_report_signature,
        authentication_data=authentication_data,
        chain=parse_pck_chain(chain),
        size=len(data),
    )


def _header(reader: _Reader) -> tuple[Literal["sgx", "tdx"], QuoteHeader]:
    version, key_type, tee_type, qe_svn, pce_svn, vendor, user_data = struct.unpack(
        "<HHIHH16s20s", reader.take(48, "the header")
    )
    tee: Literal["sgx", "tdx"]
    match version, tee_type:
        case 3, 0:
            tee = "sgx"
        case 4, 0x81:
            tee = "tdx"
        case _:
            raise QuoteUnsupportedError(
                f"a quote of version {version} for TEE type {tee_type:#x} is not supported",
                hint="Supported: SGX quotes of version 3, TDX quotes of version 4. Is this a raw binary quote?",
            )
    if key_type != _ECDSA_P256:
        raise QuoteUnsupportedError(f"an attestation key of type {key_type} is not supported; only ECDSA P-256 (2) is")
    if vendor != INTEL_QE_VENDOR:
        raise QuoteUnsupportedError(f"the quoting enclave's vendor {vendor.hex()} is not Intel")
    return tee, QuoteHeader(version, qe_svn, pce_svn, vendor, user_data)


def parse_enclave_report(data: bytes) -> EnclaveReport:
    """Take the 384 bytes of an SGX report body apart.

    :raises QuoteMalformedError: the size is another.
    """
    if len(data) != SGX_REPORT_SIZE:
        raise QuoteMalformedError(f"an SGX report has {SGX_REPORT_SIZE} bytes, not {len(data)}")
    return EnclaveReport(*struct.unpack("<16sI28x16s32s32x32s96xHH60x64s", data))


def parse_trust_domain_report(data: bytes) -> TrustDomainReport:
    """Take the 584 bytes of a TDX 1.0 report body apart.

    :raises QuoteMalformedError: the size is another.
    """
    if len(data) != TDX_REPORT_SIZE:
        raise QuoteMalformedError(f"a TDX report has {TDX_REPORT_SIZE} bytes, not {len(data)}")
    body = _Reader(data, "the TDX report")
    return TrustDomainReport(
        tee_tcb_svn=body.take(16, "TEE_TCB_SVN"),
        mr_seam=body.take(48, "MRSEAM"),
        mr_signer_seam=body.take(48, "MRSIGNERSEAM"),
        seam_attributes=body.take(8, "SEAMATTRIBUTES"),
        attributes=body.take(8, "TDATTRIBUTES"),
        xfam=body.take(8, "XFAM"),
        mrtd=body.take(48, "MRTD"),
        mr_config_id=body.take(48, "MRCONFIGID"),
        mr_owner=body.take(48, "MROWNER"),
        mr_owner_config=body.take(48, "MROWNERCONFIG"),
        rtmrs=(body.take(48, "RTMR0"), body.take(48, "RTMR1"), body.take(48, "RTMR2"), body.take(48, "RTMR3")),
        report_data=body.take(64, "REPORTDATA"),
    )
