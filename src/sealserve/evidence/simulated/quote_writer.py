"""Writing SGX quotes of version 3.

Format: Intel, "SGX ECDSA Quote Library Reference", appendix A.4 (quote) and "SGX Developer Reference",
``sgx_report_body_t``. Little-endian; the signature data after the report body is

====  =========================================================
64    signature of header and report body by the attestation key
64    public attestation key
384   report body of the quoting enclave
64    signature of that report body by the PCK key
2+n   QE authentication data (32 bytes here)
2+4+n certification data: type 5, the PCK certificate chain in PEM
====  =========================================================
"""

from __future__ import annotations

import struct

from sealserve.evidence.measurement import SimulatedEnclave
from sealserve.evidence.quote import INTEL_QE_VENDOR

_VERSION = 3
_ECDSA_P256 = 2
_PCK_CHAIN = 5
_ATTRIBUTE_FLAGS = 0x01 | 0x04  # INIT, MODE64BIT
_DEBUG = 0x02
_PROVISION_KEY = 0x10
_XFRM = 0xE7


def report_body(enclave: SimulatedEnclave, *, cpu_svn: bytes, report_data: bytes, provision_key: bool = False) -> bytes:
    """The 384 bytes of an enclave's report.

    :param cpu_svn: 16 bytes. :param report_data: 64 bytes.
    :param provision_key: the attribute that only architectural enclaves have.
    """
    flags = _ATTRIBUTE_FLAGS | (_DEBUG if enclave.debug else 0) | (_PROVISION_KEY if provision_key else 0)
    return struct.pack(
        "<16sI28xQQ32s32x32s96xHH60x64s",
        cpu_svn,
        0,  # MISCSELECT
        flags,
        _XFRM,
        enclave.mrenclave,
        enclave.mrsigner,
        enclave.isv_prod_id,
        enclave.isv_svn,
        report_data,
    )


def header(*, qe_svn: int, pce_svn: int, user_data: bytes) -> bytes:
    """The 48 bytes before the report.

    :param user_data: 20 bytes; the first 16 identify the quoting enclave's installation.
    """
    return struct.pack("<HHIHH16s20s", _VERSION, _ECDSA_P256, 0, qe_svn, pce_svn, INTEL_QE_VENDOR, user_data)


def signature_data(
    *,
    signature: bytes,
    attestation_key: bytes,
    qe_report: bytes,
    qe_report_signature: bytes,
    authentication_data: bytes,
    chain_pem: bytes,
) -> bytes:
    """The signature data with its length in front."""
    body = b"".join(
        (
            signature,
            attestation_key,
            qe_report,
            qe_report_signature,
            struct.pack("<H", len(authentication_data)) + authentication_data,
            struct.pack("<HI", _PCK_CHAIN, len(chain_pem)) + chain_pem,
        )
    )
    return struct.pack("<I", len(body)) + body
