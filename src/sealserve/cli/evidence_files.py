"""Evidence from a file, whatever it is kept in: a quote, an RA-TLS certificate, a report of ``sealserve verify``."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sealserve.errors import InputError, SealserveError
from sealserve.evidence import Collateral
from sealserve.evidence.description import decode_quote
from sealserve.files import read_file

_SIZE_LIMIT = 1 << 20


@dataclass(frozen=True)
class StoredEvidence:
    """A quote, and what it must be over as far as the file tells.

    :param kind: for people. :param report_data: 64 bytes; none if the file does not tell.
    :param binding: what the report data stands for, for people.
    :param claims: what the replica said of itself, if ``report_data`` is a hash over it.
    :param told: what the file says in plain text beside the evidence, believed by nobody.
    """

    kind: str
    quote: bytes
    report_data: bytes | None = None
    binding: str = ""
    claims: bytes | None = None
    told: Mapping[str, Any] = field(default_factory=dict)


def read_evidence_file(path: Path) -> StoredEvidence | Collateral:
    """Read a file.

    :raises InputError: it cannot be read, or holds nothing of these. :raises EvidenceError: what it holds is malformed.
    """
    data = read_file(path, limit=_SIZE_LIMIT)
    if data.lstrip().startswith(b"{"):
        return _from_json(data, path)
    if data.lstrip().startswith(b"-----BEGIN"):
        return _from_certificate(data)
    # A certificate in DER is a SEQUENCE with a long length; a quote begins with its version.
    if data[:1] == b"\x30" and data[1:2] in {b"\x81", b"\x82", b"\x83"}:
        return _from_certificate(_pem(data))
    return StoredEvidence("a quote", decode_quote(data, path))


def _from_certificate(data: bytes) -> StoredEvidence:
    from sealserve.ratls import extract_evidence, parse_certificate

    found = extract_evidence(parse_certificate(data))
    extension = "the DICE extension" if found.source == "dice" else "the older extension"
    return StoredEvidence(
        f"an RA-TLS certificate, with a quote in {extension}",
        found.quote,
        found.report_data,
        "the certificate's key; when is not known",
    )


def _pem(der: bytes) -> bytes:
    """The certificate in PEM. In DER, the PEM chain inside its quote could be taken for it."""
    text = base64.encodebytes(der)
    return b"-----BEGIN CERTIFICATE-----\n" + text + b"-----END CERTIFICATE-----\n"


def _from_json(data: bytes, path: Path) -> StoredEvidence | Collateral:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON", hint="Is it whole?") from error
    if "tcb_info" in found:
        return Collateral.from_json(data)
    if not isinstance(found.get("quote"), str):
        raise InputError(
            f"{path} has no quote in it", hint="A report of `sealserve verify --json` has one if evidence was given."
        )
    quote = _hexadecimal(found, "quote", path)
    if all(isinstance(found.get(name), str) for name in ("nonce", "key_sha256", "claims")):
        from sealserve.ratls import client_report_data

        nonce, key, claims = (_hexadecimal(found, name, path) for name in ("nonce", "key_sha256", "claims"))
        if len(nonce) != 32 or len(key) != 32:
            raise InputError(f"{path}: nonce and key_sha256 must have 32 bytes")
        _check_certificate(found, key, path)
        binding = "the nonce, the key and the claims of the report"
        report_data = client_report_data(nonce, key, claims)
        return StoredEvidence("a report of sealserve verify", quote, report_data, binding, claims, found)
    return StoredEvidence("a JSON document with a quote", quote, told=found)


def _check_certificate(found: dict[str, Any], key: bytes, path: Path) -> None:
    """A report's certificate, where it has one, must be that of its key."""
    from cryptography import x509

    from sealserve.ratls import spki_digest

    if "certificate" not in found:
        return
    try:
        same = spki_digest(x509.load_pem_x509_certificate(str(found["certificate"]).encode())) == key
    except (ValueError, SealserveError) as error:
        raise InputError(f"{path}: certificate is none in PEM") from error
    if not same:
        raise InputError(f"{path} is damaged: its key is not that of its certificate")


def _hexadecimal(found: dict[str, Any], name: str, path: Path) -> bytes:
    try:
        return bytes.fromhex(found[name])
    except ValueError as error:
        raise InputError(f"{path}: {name} is not hexadecimal") from error
