"""A quote from a file, explained to a person. Nothing here is verified."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

from sealserve.evidence.certificates import display_name
from sealserve.evidence.collateral import Collateral
from sealserve.evidence.errors import QuoteMalformedError
from sealserve.evidence.explanations import attribute_names
from sealserve.evidence.quote import QUOTE_LIMIT, EnclaveReport, Quote
from sealserve.files import read_file

_HEXADECIMAL = frozenset(string.hexdigits.encode())


def read_quote_file(path: Path) -> bytes:
    """The quote in a file: its raw bytes, or hexadecimal text.

    :raises QuoteMalformedError: hexadecimal text of odd length. :raises InputError: the file cannot be read or is too
        large for a quote.
    """
    return decode_quote(read_file(path, limit=4 * QUOTE_LIMIT), path)


def decode_quote(data: bytes, path: Path) -> bytes:
    """Like :func:`read_quote_file`, for what was read before.

    :param path: for errors.
    """
    digits = b"".join(data.split())
    if digits and _HEXADECIMAL.issuperset(digits):
        try:
            return bytes.fromhex(digits.decode("ascii"))
        except ValueError as error:
            raise QuoteMalformedError(f"{path} holds hexadecimal text of odd length") from error
    return data


def describe(quote: Quote) -> dict[str, Any]:
    """What a quote says, JSON-ready: bytes in hex, times in RFC 3339."""
    report, chain = quote.report, quote.chain
    common = {
        "tee": quote.tee,
        "version": quote.header.version,
        "size": quote.size,
        "simulated": chain.simulated,
        "debug": report.debug,
    }
    if isinstance(report, EnclaveReport):
        identity: dict[str, Any] = {
            "mrenclave": report.mrenclave.hex(),
            "mrsigner": report.mrsigner.hex(),
            "isv_prod_id": report.isv_prod_id,
            "isv_svn": report.isv_svn,
            "attributes": report.attributes.hex(),
            "attribute_names": attribute_names("sgx", report.attributes),
        }
    else:
        identity = {
            "mrtd": report.mrtd.hex(),
            **{f"rtmr{index}": value.hex() for index, value in enumerate(report.rtmrs)},
            "mr_config_id": report.mr_config_id.hex(),
            "mr_owner": report.mr_owner.hex(),
            "mr_owner_config": report.mr_owner_config.hex(),
            "attributes": report.attributes.hex(),
            "attribute_names": attribute_names("tdx", report.attributes),
            "xfam": report.xfam.hex(),
        }
    extension = chain.extension
    return {
        **common,
        **identity,
        "report_data": report.report_data.hex(),
        "machine": {
            "ppid": extension.ppid.hex(),
            "fmspc": extension.fmspc.hex(),
            "cpu_svn": extension.cpu_svn.hex(),
            "pce_svn": extension.pce_svn,
        },
        "quoting_enclave": {
            "mrsigner": quote.qe_report.mrsigner.hex(),
            "isv_prod_id": quote.qe_report.isv_prod_id,
            "isv_svn": quote.qe_report.isv_svn,
        },
        "certificates": [
            {
                "subject": display_name(certificate.subject),
                "serial_number": f"{certificate.serial_number:x}",
                "not_before": certificate.not_valid_before_utc.isoformat(),
                "not_after": certificate.not_valid_after_utc.isoformat(),
            }
            for certificate in (chain.leaf, chain.authority, chain.root)
        ],
    }


def describe_collateral(collateral: Collateral) -> dict[str, Any]:
    """What a set of collateral says, JSON-ready; nothing of it is verified."""
    document = collateral.tcb_info.document
    return {
        "tee": collateral.tcb_info.tee_id.lower(),
        "fmspc": str(document.get("fmspc", "")).lower(),
        "evaluation_data_numbers": {
            "tcb_info": collateral.tcb_info.evaluation_data_number,
            "qe_identity": collateral.qe_identity.evaluation_data_number,
        },
        "revoked_certificates": {
            "root_ca": len(collateral.root_crl),
            "pck_ca": len(collateral.pck_crl),
        },
        "pck_ca": display_name(collateral.pck_crl_issuer),
        "root": display_name(collateral.tcb_chain[-1].subject),
        "expires": collateral.expires.isoformat(),
        "validities": [validity.as_dict() for validity in collateral.validities()],
    }
