"""The REST interface of Intel's provisioning certification service, and of the caches that speak it, version 4.

https://api.portal.trustedservices.intel.com/content/documentation.html and Intel's "API Specification for PCCS". The
signatures of TCB info and QE identity cover the bytes of a member of the answer exactly as it stands there, so that it
is cut out and not written anew. Revocation lists come in DER, in PEM, or as hexadecimal digits of DER.
"""

from __future__ import annotations

import json
import re
import string
from urllib.parse import unquote

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from sealserve.evidence.certificates import CERTIFICATE_ERRORS
from sealserve.evidence.collateral import Collateral
from sealserve.evidence.errors import CollateralMalformedError, CollateralServiceError
from sealserve.evidence.service.addresses import Service
from sealserve.evidence.service.http import Answer, HttpClient
from sealserve.evidence.service.platforms import PlatformKey

_BLANKS = re.compile(r"[ \t\r\n]*")
_HEXADECIMAL = frozenset(string.hexdigits.encode())


def fetch(http: HttpClient, service: Service, key: PlatformKey, *, deadline: float) -> Collateral:
    """Fetch a set of collateral. It is parsed, and not verified.

    :param deadline: by ``time.monotonic``.
    :raises CollateralServiceError: the service does not give a part. :raises CollateralMalformedError: it gives
        something else.
    """

    def get(url: str, missing: str | None = None) -> Answer:
        return http.get(url, deadline=deadline, missing=missing)

    unknown = f"it does not know the kind of platform with FMSPC {key.fmspc.hex().upper()}"
    crl = get(service.url("sgx", f"pckcrl?ca={key.ca}&encoding=der"))
    root_crl = get(service.root_crl)
    tcb = get(service.url(key.tee, f"tcb?fmspc={key.fmspc.hex().upper()}"), unknown)
    identity = get(service.url(key.tee, "qe/identity"))
    tcb_info, tcb_info_signature = signed_member(tcb.body, "tcbInfo")
    qe_identity, qe_identity_signature = signed_member(identity.body, "enclaveIdentity")
    return Collateral.from_json(
        json.dumps(
            {
                "pck_crl_issuer_chain": _chain(crl, "SGX-PCK-CRL-Issuer-Chain"),
                "root_ca_crl": revocation_list(root_crl.body, "root CA").hex(),
                "pck_crl": revocation_list(crl.body, "PCK CA").hex(),
                "tcb_info_issuer_chain": _chain(tcb, "TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain"),
                "tcb_info": tcb_info,
                "tcb_info_signature": tcb_info_signature,
                "qe_identity_issuer_chain": _chain(identity, "SGX-Enclave-Identity-Issuer-Chain"),
                "qe_identity": qe_identity,
                "qe_identity_signature": qe_identity_signature,
            }
        )
    )


def signed_member(body: bytes, name: str) -> tuple[str, str]:
    """The text of the signed member of an answer, byte for byte, and its signature in hexadecimal.

    :raises CollateralMalformedError: the answer is no JSON object with such a member.
    """
    try:
        members = json_members(body.decode())
        signature = json.loads(members["signature"])
    except (ValueError, KeyError, RecursionError) as error:
        raise CollateralMalformedError(f"the service's answer is no JSON object with a signed {name}") from error
    if name not in members or not isinstance(signature, str):
        raise CollateralMalformedError(f"the service's answer is no JSON object with a signed {name}")
    return members[name], signature


def json_members(text: str) -> dict[str, str]:
    """The members of a JSON object, each value as the text that stands there.

    :raises ValueError: it is no JSON object, or has a member twice.
    """
    decoder = json.JSONDecoder()

    def after_blanks(at: int) -> int:
        match = _BLANKS.match(text, at)
        return match.end() if match else at

    def expect(at: int, characters: str) -> str:
        if text[at : at + 1] not in characters or at >= len(text):
            raise ValueError(f"expected one of {characters} at {at}")
        return text[at]

    members: dict[str, str] = {}
    at = after_blanks(0)
    expect(at, "{")
    while True:
        key, at = decoder.raw_decode(text, after_blanks(at + 1))
        if not isinstance(key, str) or key in members:
            raise ValueError("a member without a name, or with the name of another")
        at = after_blanks(at)
        expect(at, ":")
        start = after_blanks(at + 1)
        _, at = decoder.raw_decode(text, start)
        members[key] = text[start:at]
        at = after_blanks(at)
        if expect(at, ",}") == "}":
            break
    if after_blanks(at + 1) != len(text):
        raise ValueError("something stands after the object")
    return members


def revocation_list(body: bytes, issuer: str) -> bytes:
    """A revocation list in DER.

    :param body: in DER, PEM, or hexadecimal digits of DER. :param issuer: for errors.
    :raises CollateralMalformedError: it is none of these.
    """
    digits = b"".join(body.split())
    try:
        if digits and _HEXADECIMAL.issuperset(digits):
            return bytes.fromhex(digits.decode("ascii"))
        if body.lstrip().startswith(b"-----BEGIN"):
            return x509.load_pem_x509_crl(body).public_bytes(Encoding.DER)
    except CERTIFICATE_ERRORS as error:
        raise CollateralMalformedError(f"the service's answer is no revocation list of the {issuer}") from error
    return body  # Whether it is one is seen when the whole is read.


def _chain(answer: Answer, *headers: str) -> str:
    """The issuer chain: PEM, percent-encoded in a header."""
    for header in headers:
        value = answer.headers.get(header.lower())
        if value:
            return unquote(value)
    raise CollateralServiceError(
        f"the service's answer lacks the header {headers[0]}", hint="Is it a PCCS, with API version 4?"
    )
